package event

import (
	"bytes"
	"slices"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// ParseUntrusted reads an event that came from outside, for a room with the given rules: its JSON
// (canonical from version 6 on), its format, its sizes, and computes its id. It does not look at
// signatures and hashes: see VerifySignature and CheckContentHash. unsigned is dropped.
//
// The error is mxerr.TooLarge or mxerr.BadJSON. raw is not kept.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#checks-performed-on-receipt-of-a-pdu
func ParseUntrusted(rules *roomversion.Rules, raw []byte) (*Event, error) {
	return parseOutside(rules, raw, ordinary())
}

// ParseBackfilled is ParseUntrusted for an answer of /backfill: an event may have more than
// MaxPrevEvents and MaxAuthEvents, as some old ones have. It still needs one previous event, unless it
// is an m.room.create, and its size bounds how many there can be.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1backfillroomid
func ParseBackfilled(rules *roomversion.Rules, raw []byte) (*Event, error) {
	return parseOutside(rules, raw, unlimited())
}

// limits is how many references an event may have.
type limits struct{ prev, auth int }

func ordinary() limits { return limits{MaxPrevEvents, MaxAuthEvents} }

// unlimited is what the size of an event allows.
func unlimited() limits { return limits{MaxPDU, MaxPDU} }

func parseOutside(rules *roomversion.Rules, raw []byte, most limits) (*Event, error) {
	canonical, err := canonicalise(make([]byte, 0, len(raw)), rules, raw)
	if err != nil {
		return nil, err
	}
	f, ok := scan(canonical)
	if !ok {
		return nil, bad("it is not an object")
	}
	if f.unsigned != nil {
		canonical = cutUnsigned(canonical, f)
	}
	if err := checkSize(canonical); err != nil {
		return nil, err
	}
	if cap(canonical)-len(canonical) > maxSlack {
		canonical = bytes.Clone(canonical)
		f, _ = scan(canonical)
	}
	e, err := parse(rules, canonical, &f, most)
	if err != nil {
		return nil, err
	}
	if len(e.PrevEvents) == 0 && e.Type != "m.room.create" {
		return nil, bad("prev_events is empty")
	}
	return e, nil
}

// maxSlack is how much memory an event may hold on to that its sender filled with white space or unsigned.
const maxSlack = 1024

// ParseTrusted reads an event that this package made before, as its JSON, id and room. It checks
// nothing but that the fields can be found. raw is kept and must not change afterwards.
func ParseTrusted(rules *roomversion.Rules, raw []byte, eid id.EventID, room id.RoomID) (*Event, error) {
	f, ok := scan(raw)
	if !ok {
		return nil, bad("it is not an object")
	}
	var r reader
	if err := r.read(rules, &f, unlimited()); err != nil {
		return nil, err
	}
	e := r.event(rules, raw, &f)
	e.ID, e.Room = eid, room
	return e, nil
}

// fields are the values of an event's members, as canonical JSON; nil when absent.
type fields struct {
	authEvents, content, depth, eventID, hashes, originServerTS, prevEvents []byte
	redacts, roomID, sender, signatures, stateKey, eventType, unsigned      []byte
	sticky                                                                  []byte

	unsignedEnd int // where unsigned ends
}

// scan finds the fields of a canonical object.
func scan(canonical []byte) (fields, bool) {
	var f fields
	for members := canonjson.Open(canonical); ; {
		key, value, ok := members.Next()
		if !ok {
			return f, members.Whole()
		}
		switch string(key) {
		case "auth_events":
			f.authEvents = value
		case "content":
			f.content = value
		case "depth":
			f.depth = value
		case "event_id":
			f.eventID = value
		case "hashes":
			f.hashes = value
		case stickyKey:
			f.sticky = value
		case "origin_server_ts":
			f.originServerTS = value
		case "prev_events":
			f.prevEvents = value
		case "redacts":
			f.redacts = value
		case "room_id":
			f.roomID = value
		case "sender":
			f.sender = value
		case "signatures":
			f.signatures = value
		case "state_key":
			f.stateKey = value
		case "type":
			f.eventType = value
		case "unsigned":
			f.unsigned, f.unsignedEnd = value, members.End()
		}
	}
}

// cutUnsigned removes unsigned in place. All other fields stand before it, so f stays right.
func cutUnsigned(canonical []byte, f fields) []byte {
	from := f.unsignedEnd - len(f.unsigned) - len(`"unsigned":`)
	to := f.unsignedEnd
	if canonical[from-1] == ',' {
		from--
	} else if canonical[to] == ',' {
		to++
	}
	return append(canonical[:from], canonical[to:]...)
}

// canonicalise appends the canonical form that the rules ask for.
func canonicalise(dst []byte, rules *roomversion.Rules, raw []byte) ([]byte, error) {
	canonical := canonjson.Append
	if rules.StrictJSON {
		canonical = canonjson.AppendStrict
	}
	out, err := canonical(dst, raw)
	if err != nil {
		return nil, mxerr.BadJSON.With("the event is not canonical JSON: %v", err)
	}
	return out, nil
}

// parse makes a checked event of canonical JSON without unsigned, whose fields are f.
func parse(rules *roomversion.Rules, canonical []byte, f *fields, most limits) (*Event, error) {
	if err := checkForm(rules, f); err != nil {
		return nil, err
	}
	var r reader
	if err := r.read(rules, f, most); err != nil {
		return nil, err
	}
	e := r.event(rules, canonical, f)
	e.identify(f)
	if err := e.check(); err != nil {
		return nil, err
	}
	return e, nil
}

// checkForm checks the types of the fields that read does not look into.
func checkForm(rules *roomversion.Rules, f *fields) error {
	switch {
	case !canonjson.IsObject(f.hashes):
		return bad("hashes is not an object")
	case !canonjson.IsObject(f.signatures):
		return bad("signatures is not an object")
	}
	return checkIDs(rules, f)
}

// checkIDs checks whether room_id and event_id are where the version wants them.
func checkIDs(rules *roomversion.Rules, f *fields) error {
	switch {
	case rules.EventIDs == roomversion.EventIDInEvent && !canonjson.IsString(f.eventID):
		return bad("event_id is not a string")
	case rules.EventIDs != roomversion.EventIDInEvent && f.eventID != nil:
		return bad("event_id must not be in an event of this room version")
	case roomless(rules, f.eventType) && f.roomID != nil:
		// Version 12, rule 1.2: If the event has a room_id, reject.
		return bad("the create event must not have a room_id in this room version")
	case !roomless(rules, f.eventType) && !canonjson.IsString(f.roomID):
		return bad("room_id is not a string")
	}
	return nil
}

// roomless reports whether an event of this type carries no room_id, because it makes it.
func roomless(rules *roomversion.Rules, eventType []byte) bool {
	return rules.RoomIDIsCreateHash && string(eventType) == `"m.room.create"`
}

// check checks the values of an event that was read.
func (e *Event) check() error {
	switch {
	case len(e.Type) > MaxKey:
		return mxerr.TooLarge.With("type is longer than %d bytes", MaxKey)
	case len(e.stateKey) > MaxKey:
		return mxerr.TooLarge.With("state_key is longer than %d bytes", MaxKey)
	case len(e.Sender) > id.MaxLength || len(e.Room) > id.MaxLength || len(e.ID) > id.MaxLength:
		return mxerr.TooLarge.With("sender, room_id or event_id is longer than %d bytes", id.MaxLength)
	case e.Depth < 0 || e.Rules.StrictJSON && e.Depth > MaxDepth:
		return bad("depth is out of range")
	}
	return e.checkIDs()
}

func (e *Event) checkIDs() error {
	if _, err := id.ParseUserID(string(e.Sender)); err != nil {
		return bad("sender is not a user id")
	}
	if _, err := id.ParseRoomID(string(e.Room)); err != nil || (e.Room.Server() == "") != e.Rules.RoomIDIsCreateHash {
		return bad("room_id is not an id of this room version")
	}
	inEvent := e.Rules.EventIDs == roomversion.EventIDInEvent
	if _, err := id.ParseEventID(string(e.ID)); err != nil || inEvent && e.ID.Server() == "" {
		return bad("event_id is not an event id")
	}
	for _, list := range [...][]id.EventID{e.PrevEvents, e.AuthEvents} {
		for _, ref := range list {
			if _, err := id.ParseEventID(string(ref)); err != nil {
				return bad("prev_events or auth_events has something that is not an event id")
			}
			// Versions 1 and 2: who chooses the id could close a circle.
			if ref == e.ID {
				return bad("the event refers to itself")
			}
		}
	}
	return nil
}

// reader gathers what an event is made of: its texts as they stand in the JSON, in the order in
// which event takes them, and its numbers. They become one string, that costs one allocation.
type reader struct {
	texts [maxTexts][]byte // canonical strings without their quotes
	n     int
	more  [][]byte // those that an event of ordinary size does not have
	size  int      // of all texts

	hasKey, hasRedacts bool
	prev, auth         int // how many references there are
	depth, ts          int64
}

// maxTexts counts type, sender, state_key, membership, redacts, room_id, event_id and the references
// of an event that is within the limits.
const maxTexts = 7 + MaxPrevEvents + MaxAuthEvents

// add adds the text of a canonical string; anything else counts as "" and returns false.
func (r *reader) add(value []byte) bool {
	var text []byte
	ok := canonjson.IsString(value)
	if ok {
		text = value[1 : len(value)-1]
		if bytes.IndexByte(text, '\\') >= 0 {
			text, _ = canonjson.AppendText(nil, value)
		}
	}
	if r.n < maxTexts {
		r.texts[r.n] = text
	} else {
		r.more = append(r.more, text)
	}
	r.n++
	r.size += len(text)
	return ok
}

// text is the text that was added after i others.
func (r *reader) text(i int) []byte {
	if i < maxTexts {
		return r.texts[i]
	}
	return r.more[i-maxTexts]
}

// read gathers everything but the ids of the event and of its room.
func (r *reader) read(rules *roomversion.Rules, f *fields, most limits) error {
	if !r.add(f.eventType) || !r.add(f.sender) {
		return bad("type or sender is not a string")
	}
	if !canonjson.IsObject(f.content) {
		return bad("content is not an object")
	}
	if r.hasKey = f.stateKey != nil; r.hasKey && !r.add(f.stateKey) {
		return bad("state_key is not a string")
	}
	switch string(f.eventType) {
	case `"m.room.member"`:
		r.add(canonjson.Get(f.content, "membership"))
	case `"m.room.redaction"`:
		r.hasRedacts = r.addRedacts(rules, f)
	}
	var ok bool
	if r.prev, ok = r.addRefs(rules, f.prevEvents, most.prev); !ok {
		return bad("prev_events is not a list of at most %d references", most.prev)
	}
	if r.auth, ok = r.addRefs(rules, f.authEvents, most.auth); !ok {
		return bad("auth_events is not a list of at most %d references", most.auth)
	}
	if r.depth, ok = canonjson.Int(f.depth); !ok {
		return bad("depth is not an integer")
	}
	if r.ts, ok = canonjson.Int(f.originServerTS); !ok {
		return bad("origin_server_ts is not an integer")
	}
	return nil
}

// addRedacts adds what a redaction redacts. One that names nothing that can be an event is an
// event like any other, and redacts nothing.
func (r *reader) addRedacts(rules *roomversion.Rules, f *fields) bool {
	value := f.redacts
	if rules.RedactsInContent {
		value = canonjson.Get(f.content, "redacts")
	}
	text, ok := canonjson.String(value)
	if !ok {
		return false
	}
	if _, err := id.ParseEventID(text); err != nil {
		return false
	}
	return r.add(value)
}

// addRefs adds the ids of a list of references: strings, or [id, {hash}] in versions 1 and 2.
func (r *reader) addRefs(rules *roomversion.Rules, list []byte, limit int) (n int, ok bool) {
	for elements := canonjson.OpenArray(list); ; n++ {
		ref, ok := elements.Next()
		if !ok {
			return n, elements.Whole()
		}
		if rules.EventIDs == roomversion.EventIDInEvent {
			ref = firstOfPair(ref)
		}
		if n == limit || !r.add(ref) {
			return n, false
		}
	}
}

// firstOfPair returns the id in an [id, {hash}], or nil.
func firstOfPair(pair []byte) []byte {
	elements := canonjson.OpenArray(pair)
	first, _ := elements.Next()
	second, _ := elements.Next()
	if _, more := elements.Next(); more || !canonjson.IsObject(second) {
		return nil
	}
	return first
}

// event makes the event of what was gathered, but for its id and room.
func (r *reader) event(rules *roomversion.Rules, canonical []byte, f *fields) *Event {
	e := &Event{
		Depth: r.depth, OriginServerTS: r.ts, Rules: rules, JSON: canonical, content: f.content, stickyMS: readSticky(f.sticky),
	}
	all, taken := r.join(), 0
	next := func() string { // cuts the string into its texts again
		n := len(r.text(taken))
		text := all[:n]
		all, taken = all[n:], taken+1
		return text
	}
	e.Type, e.Sender = next(), id.UserID(next())
	if r.hasKey {
		e.stateKey = next()
		e.StateKey = &e.stateKey
	}
	if e.Type == "m.room.member" {
		e.membership = next()
	}
	if r.hasRedacts {
		e.Redacts = id.EventID(next())
	}
	refs := make([]id.EventID, r.prev+r.auth)
	for i := range refs {
		refs[i] = id.EventID(next())
	}
	e.PrevEvents, e.AuthEvents = slices.Clip(refs[:r.prev]), refs[r.prev:]
	return e
}

// join makes one string of all texts.
func (r *reader) join() string {
	var all strings.Builder
	all.Grow(r.size)
	for i := range r.n {
		all.Write(r.text(i))
	}
	return all.String()
}

// identify sets the ids of an event and of its room.
func (e *Event) identify(f *fields) {
	if e.Rules.EventIDs == roomversion.EventIDInEvent {
		text, _ := canonjson.String(f.eventID)
		e.ID = id.EventID(text)
	} else {
		var buf [idLength]byte
		e.ID = id.EventID(appendID(append(buf[:0], '$'), e.Rules, referenceHash(e.Rules, e.JSON, f.eventType)))
	}
	if roomless(e.Rules, f.eventType) {
		e.Room = id.RoomID("!" + e.ID[1:])
	} else {
		text, _ := canonjson.String(f.roomID)
		e.Room = id.RoomID(text)
	}
}

func bad(format string, args ...any) error {
	return mxerr.BadJSON.With("the event is not valid: "+format, args...)
}
