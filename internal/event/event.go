// Package event is the persistent data unit (PDU) of every room version: built, parsed, hashed,
// signed, redacted, and written in the forms that servers and clients read. It is pure: bytes and
// values in, values and errors out.
//
// An event is bytes from the door to the wire. Parsing brings it into canonical JSON once; the
// rest of this package relies on that form and never decodes into maps.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#pdus
package event

import (
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// The limits of an event. All sizes are in bytes.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#size-limits
const (
	MaxPDU        = 65536 // the whole event, as canonical JSON in federation form with signatures
	MaxKey        = 255   // type and state_key
	MaxPrevEvents = 20
	MaxAuthEvents = 10
)

// Event is an immutable, parsed PDU. Nobody changes it or what it points to after it was made,
// so it may be shared freely.
type Event struct {
	ID             id.EventID
	Room           id.RoomID // "!" and the hash for the create event of room version 12 as well
	Sender         id.UserID
	Type           string
	StateKey       *string // nil unless this is a state event
	Depth          int64
	OriginServerTS int64        // milliseconds
	PrevEvents     []id.EventID // as they stand: another server may name an event twice
	AuthEvents     []id.EventID // likewise
	Redacts        id.EventID   // what an m.room.redaction wants redacted, or ""
	Rules          *roomversion.Rules

	// JSON is canonical JSON in federation form, with hashes and signatures, without unsigned.
	// In room versions 1 and 2 it contains event_id.
	JSON []byte

	stickyMS   int32  // see Sticky
	content    []byte // part of JSON
	stateKey   string // what StateKey points to
	membership string
}

// Content is the content as canonical JSON, an object. It is part of JSON: do not change it.
func (e *Event) Content() []byte { return e.content }

// IsState reports whether the event is a state event.
func (e *Event) IsState() bool { return e.StateKey != nil }

// Is reports whether the event is a state event of this type and state key.
func (e *Event) Is(eventType, stateKey string) bool {
	return e.Type == eventType && e.StateKey != nil && *e.StateKey == stateKey
}

// Membership is content.membership of an m.room.member event, and "" if it is missing, is not a
// string, or the event is of another type.
func (e *Event) Membership() string { return e.membership }

// AppendClientPrefix appends the event as clients see it, but without unsigned and without the
// closing brace, so that the caller goes on with `,"unsigned":{…}}` or `}`.
//
// A redaction names its target both at the top level and in content, whatever the room version.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-event-format
func AppendClientPrefix(dst []byte, e *Event) []byte { return appendClient(dst, e, true) }

// AppendClientPrefixNoRoom is AppendClientPrefix without room_id, for /sync.
func AppendClientPrefixNoRoom(dst []byte, e *Event) []byte { return appendClient(dst, e, false) }

func appendClient(dst []byte, e *Event, room bool) []byte {
	dst = append(dst, `{"content":`...)
	dst = appendClientContent(dst, e)
	dst = append(dst, `,"event_id":`...)
	dst = canonjson.AppendString(dst, string(e.ID))
	dst = e.appendSticky(dst)
	dst = append(dst, `,"origin_server_ts":`...)
	dst = appendInt(dst, e.OriginServerTS)
	if e.Redacts != "" {
		dst = append(dst, `,"redacts":`...)
		dst = canonjson.AppendString(dst, string(e.Redacts))
	}
	if room {
		dst = append(dst, `,"room_id":`...)
		dst = canonjson.AppendString(dst, string(e.Room))
	}
	return appendTail(dst, e)
}

// AppendStripped appends the event as stripped state: content, sender, state_key and type.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#stripped-state
func AppendStripped(dst []byte, e *Event) []byte {
	dst = append(dst, `{"content":`...)
	dst = append(dst, e.content...)
	dst = appendTail(dst, e)
	return append(dst, '}')
}

// appendTail appends what both forms end with.
func appendTail(dst []byte, e *Event) []byte {
	dst = append(dst, `,"sender":`...)
	dst = canonjson.AppendString(dst, string(e.Sender))
	if e.StateKey != nil {
		dst = append(dst, `,"state_key":`...)
		dst = canonjson.AppendString(dst, *e.StateKey)
	}
	dst = append(dst, `,"type":`...)
	return canonjson.AppendString(dst, e.Type)
}

// appendClientContent appends content; a redaction of a version that keeps redacts at the top
// level gets it in content too.
func appendClientContent(dst []byte, e *Event) []byte {
	if e.Redacts == "" || e.Rules.RedactsInContent {
		return append(dst, e.content...)
	}
	dst = append(dst, `{"redacts":`...)
	dst = canonjson.AppendString(dst, string(e.Redacts))
	for members := canonjson.Open(e.content); ; {
		key, value, ok := members.Next()
		if !ok {
			return append(dst, '}')
		}
		if string(key) != "redacts" {
			dst = appendMember(dst, key, value)
		}
	}
}
