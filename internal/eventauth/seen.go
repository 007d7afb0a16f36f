package eventauth

import (
	"strconv"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
)

// Seen is an event together with the decision that its reader may see it. Only this package makes
// one, and nothing else renders events for clients, so no road to a client goes around the decision.
type Seen struct {
	e          *event.Event
	membership string
}

// See decides whether viewer may read e; the arguments are those of MayRead.
func See(e *event.Event, before Viewing, joinedLater bool, viewer id.UserID) (Seen, bool) {
	if !MayRead(e, before, joinedLater, viewer) {
		return Seen{}, false
	}
	return Seen{e, MembershipAt(e, before, viewer)}, true
}

// SeeState is See for an event of a state that its reader may read as a whole, such as the current
// state by a member of the room (MayReadState). membership is the reader's at that state.
func SeeState(e *event.Event, membership string) Seen {
	if membership == "" {
		membership = "leave"
	}
	return Seen{e, membership}
}

// SeeAsService is See for an application service that the event concerns: services are told of
// events by their namespaces, not by membership.
func SeeAsService(e *event.Event) Seen { return Seen{e: e} }

// Event is what was seen.
func (s Seen) Event() *event.Event { return s.e }

// Membership is the reader's at the event, "" for an application service.
func (s Seen) Membership() string { return s.membership }

// OfErasedSender is the event as its reader sees it after the sender's account was erased: those
// who were not in the room when it was sent get it redacted.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountdeactivate
func (s Seen) OfErasedSender() (Seen, error) {
	if s.membership == "join" {
		return s, nil
	}
	return s.Redacted()
}

// Redacted is the event without what a redaction takes from it.
func (s Seen) Redacted() (Seen, error) {
	redacted, err := s.e.Redacted()
	return Seen{redacted, s.membership}, err
}

// Unsigned is what the server tells a client beside the event. Zero fields are left out. The raw
// fields are JSON and are copied as they are.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#definition-clientevent_unsigneddata
type Unsigned struct {
	AgeMS         int64
	StickyMS      int64  // for how much longer the event is sticky
	TransactionID string // only for the device that sent the event

	// Of the state event before this one. PrevContent and PrevSender only if the reader may see it.
	ReplacesState id.EventID
	PrevContent   []byte
	PrevSender    id.UserID

	RedactedBecause []byte     // the redaction in client form
	RedactedBy      id.EventID // its id, which clients of old look for
	Relations       []byte     // of m.relations
}

// AppendClient appends the event in client form.
func (s Seen) AppendClient(dst []byte, u Unsigned) []byte {
	return s.appendUnsigned(event.AppendClientPrefix(dst, s.e), u)
}

// AppendClientNoRoom is AppendClient without room_id, as in /sync.
func (s Seen) AppendClientNoRoom(dst []byte, u Unsigned) []byte {
	return s.appendUnsigned(event.AppendClientPrefixNoRoom(dst, s.e), u)
}

// AppendFederation appends the event as servers exchange it, with its event_id and room_id in every room
// version: for clients whose filter says `"event_format":"federation"`.
func (s Seen) AppendFederation(dst []byte, u Unsigned) []byte {
	dst = append(dst, s.e.JSON[:len(s.e.JSON)-1]...)
	if canonjson.Get(s.e.JSON, "event_id") == nil {
		dst = appendText(dst, `,"event_id":`, string(s.e.ID))
	}
	if canonjson.Get(s.e.JSON, "room_id") == nil {
		dst = appendText(dst, `,"room_id":`, string(s.e.Room))
	}
	return s.appendUnsigned(dst, u)
}

// appendUnsigned closes the event, with unsigned unless it is empty.
func (s Seen) appendUnsigned(dst []byte, u Unsigned) []byte {
	start := len(dst)
	if u.AgeMS != 0 {
		dst = strconv.AppendInt(append(dst, `,"age":`...), u.AgeMS, 10)
	}
	dst = appendRaw(dst, `,"m.relations":`, u.Relations)
	dst = appendText(dst, `,"membership":`, s.membership)
	if u.StickyMS != 0 {
		dst = strconv.AppendInt(append(dst, `,"msc4354_sticky_duration_ttl_ms":`...), u.StickyMS, 10)
	}
	dst = appendRaw(dst, `,"prev_content":`, u.PrevContent)
	dst = appendText(dst, `,"prev_sender":`, string(u.PrevSender))
	dst = appendRaw(dst, `,"redacted_because":`, u.RedactedBecause)
	dst = appendText(dst, `,"redacted_by":`, string(u.RedactedBy))
	dst = appendText(dst, `,"replaces_state":`, string(u.ReplacesState))
	dst = appendText(dst, `,"transaction_id":`, u.TransactionID)
	if len(dst) == start {
		return append(dst, '}')
	}
	return append(openUnsigned(dst, start), '}', '}')
}

// openUnsigned puts the key in front of the fields that begin at start, in place of their first comma.
func openUnsigned(dst []byte, start int) []byte {
	const open = `,"unsigned":{`
	dst = append(dst, open[1:]...)
	copy(dst[start+len(open):], dst[start+1:])
	copy(dst[start:], open)
	return dst
}

func appendRaw(dst []byte, key string, value []byte) []byte {
	if len(value) == 0 {
		return dst
	}
	return append(append(dst, key...), value...)
}

func appendText(dst []byte, key, value string) []byte {
	if value == "" {
		return dst
	}
	return canonjson.AppendString(append(dst, key...), value)
}
