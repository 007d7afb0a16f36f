package event

import (
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// Redact returns the canonical JSON of an event without what a redaction removes in this version.
// raw may be any JSON of the event, at least a type and an object as content. The error is mxerr.BadJSON.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#redactions
func Redact(rules *roomversion.Rules, raw []byte) ([]byte, error) {
	canonical, eventType, err := redactable(rules, raw)
	if err != nil {
		return nil, err
	}
	return appendRedacted(make([]byte, 0, len(canonical)), rules, canonical, eventType, true), nil
}

// Redacted returns the event without what a redaction removes. It has the same id.
func (e *Event) Redacted() (*Event, error) {
	eventType := canonjson.Get(e.JSON, "type")
	redacted := appendRedacted(make([]byte, 0, len(e.JSON)), e.Rules, e.JSON, eventType, true)
	return ParseTrusted(e.Rules, redacted, e.ID, e.Room)
}

// redactable brings raw into the form that appendRedacted takes.
func redactable(rules *roomversion.Rules, raw []byte) (canonical, eventType []byte, err error) {
	canonical, err = canonicalise(nil, rules, raw)
	if err != nil {
		return nil, nil, err
	}
	eventType = canonjson.Get(canonical, "type")
	if !canonjson.IsString(eventType) {
		return nil, nil, bad("type is not a string")
	}
	if !canonjson.IsObject(canonjson.Get(canonical, "content")) {
		return nil, nil, bad("content is not an object")
	}
	return canonical, eventType, nil
}

// appendRedacted appends the redacted form of a canonical event of the given type (as JSON), with
// or without its signatures. Without, it is what is signed and what names the event.
func appendRedacted(dst []byte, rules *roomversion.Rules, canonical, eventType []byte, signatures bool) []byte {
	dst = append(dst, '{')
	for members := canonjson.Open(canonical); ; {
		key, value, ok := members.Next()
		if !ok {
			return append(dst, '}')
		}
		switch string(key) {
		case "content":
			dst = appendRedactedContent(appendKey(dst, key), rules, eventType, value)
		case "signatures":
			if signatures {
				dst = appendMember(dst, key, value)
			}
		case "origin", "membership", "prev_state":
			if rules.KeepOldTopLevel {
				dst = appendMember(dst, key, value)
			}
		case "event_id", "type", "room_id", "sender", "state_key", "hashes", "depth",
			"prev_events", "auth_events", "origin_server_ts":
			dst = appendMember(dst, key, value)
		}
	}
}

func appendRedactedContent(dst []byte, rules *roomversion.Rules, eventType, content []byte) []byte {
	if rules.KeepCreateContent && string(eventType) == `"m.room.create"` {
		return append(dst, content...)
	}
	dst = append(dst, '{')
	if !keepsSome(eventType) {
		return append(dst, '}')
	}
	for members := canonjson.Open(content); ; {
		key, value, ok := members.Next()
		if !ok {
			return append(dst, '}')
		}
		if keeps(rules, eventType, key) {
			dst = appendMember(dst, key, value)
		} else if keepsSigned(rules, eventType, key, value) {
			dst = appendSigned(appendKey(dst, key), value)
		}
	}
}

// keepsSome reports whether redaction may leave anything in the content of this type.
func keepsSome(eventType []byte) bool {
	switch string(eventType) {
	case `"m.room.member"`, `"m.room.create"`, `"m.room.join_rules"`, `"m.room.power_levels"`,
		`"m.room.aliases"`, `"m.room.history_visibility"`, `"m.room.redaction"`:
		return true
	}
	return false
}

// keeps reports whether redaction leaves the key in the content of this type.
func keeps(rules *roomversion.Rules, eventType, key []byte) bool {
	switch string(eventType) {
	case `"m.room.member"`:
		return string(key) == "membership" ||
			rules.KeepJoinAuthorised && string(key) == "join_authorised_via_users_server"
	case `"m.room.create"`:
		return string(key) == "creator"
	case `"m.room.join_rules"`:
		return string(key) == "join_rule" || rules.KeepJoinRuleAllow && string(key) == "allow"
	case `"m.room.power_levels"`:
		return keepsLevel(rules, key)
	case `"m.room.aliases"`:
		return rules.AliasAuthRule && string(key) == "aliases"
	case `"m.room.history_visibility"`:
		return string(key) == "history_visibility"
	case `"m.room.redaction"`:
		return rules.KeepRedacts && string(key) == "redacts"
	}
	return false
}

func keepsLevel(rules *roomversion.Rules, key []byte) bool {
	switch string(key) {
	case "ban", "events", "events_default", "kick", "redact", "state_default", "users", "users_default":
		return true
	case "invite":
		return rules.KeepInviteLevel
	}
	return false
}

// keepsSigned reports whether the value is a third_party_invite of which only signed stays.
func keepsSigned(rules *roomversion.Rules, eventType, key, value []byte) bool {
	return rules.KeepThirdPartySigned && string(eventType) == `"m.room.member"` &&
		string(key) == "third_party_invite" && canonjson.IsObject(value)
}

// appendSigned appends a third_party_invite with nothing but signed. One that has none becomes an
// empty object, which is what other servers make of it: their hashes cover it.
func appendSigned(dst, invite []byte) []byte {
	dst = append(dst, '{')
	if signed := canonjson.Get(invite, "signed"); signed != nil {
		dst = appendMember(dst, []byte("signed"), signed)
	}
	return append(dst, '}')
}
