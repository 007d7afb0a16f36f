package event

import (
	"slices"

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
	e, err := parse(rules, canonical, &f)
	if err != nil {
		return nil, err
	}
	if len(e.PrevEvents) == 0 && e.Type != "m.room.create" {
		return nil, bad("prev_events is empty")
	}
	return e, nil
}

// ParseTrusted reads an event that this package made before, as its JSON, id and room. It checks
// nothing but that the fields can be found. raw is kept and must not change afterwards.
func ParseTrusted(rules *roomversion.Rules, raw []byte, eid id.EventID, room id.RoomID) (*Event, error) {
	f, ok := scan(raw)
	if !ok {
		return nil, bad("it is not an object")
	}
	var buf [textSize]byte
	t := texts{buf: buf[:0]}
	if err := t.read(rules, &f); err != nil {
		return nil, err
	}
	e := t.event(rules, raw, &f)
	e.ID, e.Room = eid, room
	return e, nil
}

// fields are the values of an event's members, as canonical JSON; nil when absent.
type fields struct {
	authEvents, content, depth, eventID, hashes, originServerTS, prevEvents []byte
	redacts, roomID, sender, signatures, stateKey, eventType, unsigned      []byte

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
func parse(rules *roomversion.Rules, canonical []byte, f *fields) (*Event, error) {
	if err := checkSize(canonical); err != nil {
		return nil, err
	}
	if err := checkForm(rules, f); err != nil {
		return nil, err
	}
	var buf [textSize]byte
	t := texts{buf: buf[:0]}
	if err := t.read(rules, f); err != nil {
		return nil, err
	}
	t.identify(rules, canonical, f)
	e := t.event(rules, canonical, f)
	if err := e.check(); err != nil {
		return nil, err
	}
	return e, nil
}

// checkForm checks which fields there are, and those types that nothing checks later.
func checkForm(rules *roomversion.Rules, f *fields) error {
	switch {
	case !canonjson.IsString(f.eventType):
		return bad("type is not a string")
	case !canonjson.IsString(f.sender):
		return bad("sender is not a string")
	case f.stateKey != nil && !canonjson.IsString(f.stateKey):
		return bad("state_key is not a string")
	case !canonjson.IsObject(f.content):
		return bad("content is not an object")
	case !canonjson.IsObject(f.hashes):
		return bad("hashes is not an object")
	case !canonjson.IsObject(f.signatures):
		return bad("signatures is not an object")
	case !canonjson.IsArray(f.prevEvents) || !canonjson.IsArray(f.authEvents):
		return bad("prev_events or auth_events is not an array")
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
	case len(e.PrevEvents) > MaxPrevEvents:
		return bad("prev_events has more than 20 events")
	case len(e.AuthEvents) > MaxAuthEvents:
		return bad("auth_events has more than 10 events")
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
	if _, err := id.ParseEventID(string(e.ID)); err != nil {
		return bad("event_id is not an event id")
	}
	for _, list := range [...][]id.EventID{e.PrevEvents, e.AuthEvents} {
		for _, ref := range list {
			if _, err := id.ParseEventID(string(ref)); err != nil {
				return bad("prev_events or auth_events has something that is not an event id")
			}
		}
	}
	return nil
}

// textSize holds the texts of nearly every event: three ids, a type and some references.
const textSize = 1536

// texts gathers the strings of an event in one buffer, so that they cost one allocation together.
type texts struct {
	buf  []byte
	ends [48]int32 // where the texts end, in the order in which they were added
	more []int32   // those that do not fit in ends
	n    int

	prev, auth         int // how many references there are
	depth, ts          int64
	hasID, hasRoom     bool
	hasKey, hasRedacts bool
	isMember           bool
}

func (t *texts) end() {
	if t.n < len(t.ends) {
		t.ends[t.n] = int32(len(t.buf))
	} else {
		t.more = append(t.more, int32(len(t.buf)))
	}
	t.n++
}

// add adds the text of a canonical string.
func (t *texts) add(value []byte) bool {
	var ok bool
	t.buf, ok = canonjson.AppendText(t.buf, value)
	t.end()
	return ok
}

// read gathers everything but the ids of the event and its room.
func (t *texts) read(rules *roomversion.Rules, f *fields) error {
	okType, okSender := t.add(f.eventType), t.add(f.sender)
	okKey := true
	if t.hasKey = f.stateKey != nil; t.hasKey {
		okKey = t.add(f.stateKey)
	}
	if t.isMember = string(f.eventType) == `"m.room.member"`; t.isMember {
		t.add(canonjson.Get(f.content, "membership"))
	}
	if string(f.eventType) == `"m.room.redaction"` {
		t.readRedacts(rules, f)
	}
	var okPrev, okAuth, okDepth, okTS bool
	t.prev, okPrev = t.refs(rules, f.prevEvents)
	t.auth, okAuth = t.refs(rules, f.authEvents)
	t.depth, okDepth = canonjson.Int(f.depth)
	t.ts, okTS = canonjson.Int(f.originServerTS)
	switch {
	case !okType || !okSender || !okKey:
		return bad("type, sender or state_key is not a string")
	case !okPrev || !okAuth:
		return bad("prev_events or auth_events is not a list of references")
	case !okDepth || !okTS:
		return bad("depth or origin_server_ts is not an integer")
	case !canonjson.IsObject(f.content):
		return bad("content is not an object")
	}
	return nil
}

// readRedacts finds what a redaction redacts. One that names nothing that can be an event is an
// event like any other, and redacts nothing.
func (t *texts) readRedacts(rules *roomversion.Rules, f *fields) {
	value := f.redacts
	if rules.RedactsInContent {
		value = canonjson.Get(f.content, "redacts")
	}
	text, ok := canonjson.String(value)
	if !ok {
		return
	}
	if _, err := id.ParseEventID(text); err != nil {
		return
	}
	t.hasRedacts = t.add(value)
}

// refs gathers the ids of a list of references: strings, or [id, {hash}] in versions 1 and 2.
func (t *texts) refs(rules *roomversion.Rules, list []byte) (n int, ok bool) {
	elements := canonjson.OpenArray(list)
	for {
		ref, ok := elements.Next()
		if !ok {
			return n, elements.Whole()
		}
		if rules.EventIDs == roomversion.EventIDInEvent {
			ref = firstOfPair(ref)
		}
		if !t.add(ref) {
			return n, false
		}
		n++
	}
}

// firstOfPair returns the id in an [id, {hash}], or nil.
func firstOfPair(pair []byte) []byte {
	elements := canonjson.OpenArray(pair)
	first, _ := elements.Next()
	second, ok := elements.Next()
	if !ok || !canonjson.IsObject(second) {
		return nil
	}
	if _, ok := elements.Next(); ok {
		return nil
	}
	return first
}

// identify adds the ids of the event and of its room.
func (t *texts) identify(rules *roomversion.Rules, canonical []byte, f *fields) {
	if rules.EventIDs == roomversion.EventIDInEvent {
		t.add(f.eventID)
	} else {
		t.buf = appendID(append(t.buf, '$'), rules, referenceHash(rules, canonical, f.eventType))
		t.end()
	}
	t.hasID, t.hasRoom = true, true
	if !roomless(rules, f.eventType) {
		t.add(f.roomID)
		return
	}
	from := len(t.buf) - idLength
	t.buf = append(append(t.buf, '!'), t.buf[from+1:]...)
	t.end()
}

// event makes the event of what was gathered, in the order in which it was.
func (t *texts) event(rules *roomversion.Rules, canonical []byte, f *fields) *Event {
	e := &Event{Depth: t.depth, OriginServerTS: t.ts, Rules: rules, JSON: canonical, content: f.content}
	c := cutter{text: string(t.buf), ends: t.ends[:], more: t.more}
	e.Type, e.Sender = c.next(), id.UserID(c.next())
	if t.hasKey {
		e.stateKey = c.next()
		e.StateKey = &e.stateKey
	}
	if t.isMember {
		e.membership = c.next()
	}
	if t.hasRedacts {
		e.Redacts = id.EventID(c.next())
	}
	ids := make([]id.EventID, t.prev+t.auth)
	for i := range ids {
		ids[i] = id.EventID(c.next())
	}
	e.PrevEvents, e.AuthEvents = slices.Clip(ids[:t.prev]), ids[t.prev:]
	if t.hasID {
		e.ID, e.Room = id.EventID(c.next()), id.RoomID(c.next())
	}
	return e
}

// cutter cuts one string into the texts it was joined from.
type cutter struct {
	text       string
	ends, more []int32
	from       int32
}

func (c *cutter) next() string {
	if len(c.ends) == 0 {
		c.ends, c.more = c.more, nil
	}
	to := c.ends[0]
	s := c.text[c.from:to]
	c.from, c.ends = to, c.ends[1:]
	return s
}

func bad(reason string) error { return mxerr.BadJSON.With("the event is not valid: %s", reason) }
