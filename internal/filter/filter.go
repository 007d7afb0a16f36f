// Package filter is the filters by which clients choose events: EventFilter and RoomEventFilter of the
// specification, read from JSON and applied. What else a filter of /sync has, sync knows.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#filtering
package filter

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// EventFilter chooses events of any kind. An absent list lets everything pass, an empty one nothing; what
// is excluded stays so when it is also included. The zero value lets everything pass.
type EventFilter struct {
	Limit      *int     `json:"limit"` // nil: the endpoint's default
	Types      []string `json:"types"` // with * for any sequence of characters
	NotTypes   []string `json:"not_types"`
	Senders    []string `json:"senders"`
	NotSenders []string `json:"not_senders"`
}

// RoomEventFilter chooses events of rooms.
type RoomEventFilter struct {
	EventFilter
	Rooms                     []string `json:"rooms"`
	NotRooms                  []string `json:"not_rooms"`
	ContainsURL               *bool    `json:"contains_url"`
	LazyLoadMembers           bool     `json:"lazy_load_members"`
	IncludeRedundantMembers   bool     `json:"include_redundant_members"`
	UnreadThreadNotifications bool     `json:"unread_thread_notifications"`

	// By how events relate to others: their rel_type (MSC3874, whose names have a prefix until it is stable), and the rel_type
	// and the senders of those that relate to them, which Passes does not look at (MSC3440).
	RelTypes           []string `json:"rel_types"`
	NotRelTypes        []string `json:"not_rel_types"`
	MSC3874RelTypes    []string `json:"org.matrix.msc3874.rel_types"`
	MSC3874NotRelTypes []string `json:"org.matrix.msc3874.not_rel_types"`
	RelatedByRelTypes  []string `json:"related_by_rel_types"`
	RelatedBySenders   []string `json:"related_by_senders"`
}

// ParseRoomEvents reads a RoomEventFilter, as in the filter parameter of /messages. Empty text is the zero
// filter. The error is for the client.
func ParseRoomEvents(text string) (*RoomEventFilter, error) {
	f := &RoomEventFilter{}
	if text == "" {
		return f, nil
	}
	if err := canonjson.CheckLenient([]byte(text)); err != nil {
		return nil, mxerr.BadJSON.With("the filter is not JSON")
	}
	if err := Decode([]byte(text), f); err != nil {
		return nil, err
	}
	return f, f.Validate()
}

// Decode decodes a part of a filter. The error is for the client.
func Decode(data []byte, into any) error {
	err := json.Unmarshal(data, into)
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		return mxerr.BadJSON.With("filter: %s: %s is not what is expected here", wrong.Field, wrong.Value)
	}
	if err != nil {
		return mxerr.BadJSON.With("the filter does not have the expected form")
	}
	return nil
}

// maxList bounds every list of a filter, each of whose entries is compared with each event.
const maxList = 1000

// short refuses lists of more than maxList.
func short(lists ...[]string) error {
	for _, list := range lists {
		if len(list) > maxList {
			return mxerr.InvalidParam.With("filter: a list has more than %d entries", maxList)
		}
	}
	return nil
}

// Validate refuses a limit below 0, long lists, and senders that are no user ids. A limit of 0, which the specification
// does not know, lets no event pass: other servers take it and clients use it.
func (f *EventFilter) Validate() error {
	if f.Limit != nil && *f.Limit < 0 {
		return mxerr.InvalidParam.With("filter: limit is negative")
	}
	if err := short(f.Types, f.NotTypes, f.Senders, f.NotSenders); err != nil {
		return err
	}
	for _, user := range slices.Concat(f.Senders, f.NotSenders) {
		if _, err := id.ParseUserID(user); err != nil {
			return mxerr.InvalidParam.With("filter: %v", err)
		}
	}
	return nil
}

// Validate is EventFilter.Validate, and refuses rooms that are no room ids.
func (f *RoomEventFilter) Validate() error {
	err := short(f.Rooms, f.NotRooms, f.RelTypes, f.NotRelTypes, f.MSC3874RelTypes, f.MSC3874NotRelTypes, f.RelatedByRelTypes, f.RelatedBySenders)
	if err != nil {
		return err
	}
	for _, room := range slices.Concat(f.Rooms, f.NotRooms) {
		if _, err := id.ParseRoomID(room); err != nil {
			return mxerr.InvalidParam.With("filter: %v", err)
		}
	}
	return f.EventFilter.Validate()
}

// Passes reports whether an event of this type and sender is chosen. The limit is the caller's.
func (f *EventFilter) Passes(eventType, sender string) bool {
	switch {
	case slices.Contains(f.NotSenders, sender):
		return false
	case f.Senders != nil && !slices.Contains(f.Senders, sender):
		return false
	case matchesAny(f.NotTypes, eventType):
		return false
	}
	return f.Types == nil || matchesAny(f.Types, eventType)
}

// PassesRoom reports whether events of a room may be chosen at all.
func (f *RoomEventFilter) PassesRoom(room id.RoomID) bool {
	return !slices.Contains(f.NotRooms, string(room)) && (f.Rooms == nil || slices.Contains(f.Rooms, string(room)))
}

// Passes reports whether an event of a room that passes is chosen. content is canonical JSON.
func (f *RoomEventFilter) Passes(eventType string, sender id.UserID, content []byte) bool {
	if !f.EventFilter.Passes(eventType, string(sender)) {
		return false
	}
	if f.ContainsURL != nil && *f.ContainsURL != (canonjson.Get(content, "url") != nil) {
		return false
	}
	return !f.asksRelType() || f.passesRelType(content)
}

func (f *RoomEventFilter) asksRelType() bool {
	return f.RelTypes != nil || f.MSC3874RelTypes != nil || len(f.NotRelTypes) > 0 || len(f.MSC3874NotRelTypes) > 0
}

// passesRelType reports whether an event passes by how it relates to another one.
//
// Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3874
func (f *RoomEventFilter) passesRelType(content []byte) bool {
	relType, _ := canonjson.String(canonjson.Get(content, "m.relates_to", "rel_type"))
	if slices.Contains(f.NotRelTypes, relType) || slices.Contains(f.MSC3874NotRelTypes, relType) {
		return false
	}
	return (f.RelTypes == nil || slices.Contains(f.RelTypes, relType)) && (f.MSC3874RelTypes == nil || slices.Contains(f.MSC3874RelTypes, relType))
}

// AsksRelated reports whether an event passes only if others relate to it, as RelatedByRelTypes and RelatedBySenders say.
func (f *RoomEventFilter) AsksRelated() bool {
	return f.RelatedByRelTypes != nil || f.RelatedBySenders != nil
}

// All reports whether every event passes.
func (f *RoomEventFilter) All() bool {
	return f.Types == nil && f.Senders == nil && f.Rooms == nil && f.ContainsURL == nil &&
		len(f.NotTypes) == 0 && len(f.NotSenders) == 0 && len(f.NotRooms) == 0 && !f.asksRelType() && !f.AsksRelated()
}

func matchesAny(patterns []string, text string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return Match(pattern, text) })
}

// Match reports whether text is what pattern says, where * stands for any sequence of characters.
func Match(pattern, text string) bool {
	head, rest, wild := strings.Cut(pattern, "*")
	if !wild {
		return pattern == text
	}
	text, ok := strings.CutPrefix(text, head)
	if !ok {
		return false
	}
	// Each middle part is found as early as it can be, which leaves most to what follows.
	for {
		part, more, wild := strings.Cut(rest, "*")
		if !wild {
			return strings.HasSuffix(text, part)
		}
		i := strings.Index(text, part)
		if i < 0 {
			return false
		}
		text, rest = text[i+len(part):], more
	}
}
