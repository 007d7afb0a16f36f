package homeservertest

import (
	"crypto/rand"
	"encoding/json"
	"maps"
	"net/url"
	"slices"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// CreateRoom makes a public room of a version, whose creator is in it.
func (r *Rogue) CreateRoom(version, creator string) *RogueRoom {
	r.network.t.Helper()
	rules, _ := roomversion.Get(version)
	create, users := Fields{"room_version": version}, Fields{creator: 100}
	if rules != nil && rules.CreatorInContent {
		create["creator"] = creator
	}
	if rules != nil && rules.PrivilegedCreators {
		users = Fields{}
	}
	room := r.Found(version, creator, create, nil)
	room.Extend(Draft{Type: "m.room.member", Sender: creator, StateKey: &creator, Content: Fields{"membership": "join"}})
	room.Extend(Draft{Type: "m.room.power_levels", Sender: creator, StateKey: Key(""), Content: Fields{"users": users}})
	room.Extend(Draft{Type: "m.room.join_rules", Sender: creator, StateKey: Key(""), Content: Fields{"join_rule": "public"}})
	return room
}

// Found makes a room of a version that has nothing but an m.room.create, of this sender and with this content, whatever
// that is. before, if not nil, changes the event before it is hashed and signed.
func (r *Rogue) Found(version, creator string, content any, before func(Fields)) *RogueRoom {
	r.network.t.Helper()
	rules, ok := roomversion.Get(version)
	require.True(r.network.t, ok, "room version %q", version)
	room := &RogueRoom{Version: version, rogue: r, rules: rules}
	if !rules.RoomIDIsCreateHash {
		room.ID = "!" + rand.Text() + ":" + r.name
	}
	first := room.Extend(Draft{Type: "m.room.create", Sender: creator, StateKey: Key(""), Content: content, Before: before})
	if rules.RoomIDIsCreateHash {
		room.ID = "!" + first.ID[1:]
	}
	r.keep(room)
	return room
}

// Populate lets the creator of a room join it, and anybody else.
func (room *RogueRoom) Populate(creator string) {
	room.rogue.network.t.Helper()
	room.Extend(Draft{Type: "m.room.member", Sender: creator, StateKey: &creator, Content: Fields{"membership": "join"}})
	room.Extend(Draft{Type: "m.room.join_rules", Sender: creator, StateKey: Key(""), Content: Fields{"join_rule": "public"}})
}

func (r *Rogue) keep(room *RogueRoom) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.rooms[room.ID] = room
}

// Room is a room that the rogue has made or joined; nil when it has not.
func (r *Rogue) Room(roomID string) *RogueRoom {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.rooms[roomID]
}

// Join lets a user of the rogue join a room by way of a server that is in it, which has to allow it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#joining-rooms
func (r *Rogue) Join(via Peer, roomID, user string) *RogueRoom {
	r.network.t.Helper()
	version, join := r.Make(via, "join", roomID, user)
	sent := r.Do(via, "PUT", federation("v2", "send_join", roomID, join.ID), join.JSON).WantOK()
	if signed := sent.Get("event"); signed.Exists() {
		join.JSON = []byte(signed.Raw)
	}
	return r.enter(roomID, version, join, sent)
}

// Knock lets a user of the rogue knock at a room by way of a server that is in it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#knocking-upon-a-room
func (r *Rogue) Knock(via Peer, roomID, user string) *Response {
	r.network.t.Helper()
	_, knock := r.Make(via, "knock", roomID, user)
	return r.Do(via, "PUT", federation("v1", "send_knock", roomID, knock.ID), knock.JSON)
}

// Leave lets a user of the rogue leave a room, or turn down an invite, by way of a server that is in it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#leaving-rooms-rejecting-invites
func (r *Rogue) Leave(via Peer, roomID, user string) *Response {
	r.network.t.Helper()
	_, leave := r.Make(via, "leave", roomID, user)
	return r.Do(via, "PUT", federation("v2", "send_leave", roomID, leave.ID), leave.JSON)
}

// Make asks a server for the template of a membership, join, knock or leave, and signs the event.
func (r *Rogue) Make(via Peer, membership, roomID, user string) (version string, p PDU) {
	r.network.t.Helper()
	path := federation("v1", "make_"+membership, roomID, user)
	if membership != "leave" {
		path += "?" + url.Values{"ver": roomversion.All()}.Encode()
	}
	made := r.Do(via, "GET", path, nil).WantOK()
	version = "1" // "If not provided, the room version is assumed to be either \"1\" or \"2\"."
	if told := made.Get("room_version"); told.Exists() {
		version = told.String()
	}
	return version, r.completed(version, made.Get("event"))
}

// Invite invites a user of a server, which has to take it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#inviting-to-a-room
func (room *RogueRoom) Invite(to Peer, sender, user string) PDU {
	r := room.rogue
	r.network.t.Helper()
	invite := room.Build(Draft{
		Type: "m.room.member", Sender: sender, StateKey: &user, Content: Fields{"membership": "invite"},
		Before: func(event Fields) { event["origin"] = r.name }, // "The name of the inviting homeserver", which is required
	})
	body := Fields{"room_version": room.Version, "event": json.RawMessage(invite.JSON), "invite_room_state": room.preview()}
	signed := r.Do(to, "PUT", federation("v2", "invite", room.ID, invite.ID), body).WantOK().Get("event")
	invite.JSON = []byte(signed.Raw)
	room.Add(invite)
	return invite
}

// preview is the stripped state that is shown to who is invited: the m.room.create as a whole.
func (room *RogueRoom) preview() []any {
	room.rogue.mu.Lock()
	defer room.rogue.mu.Unlock()
	list := []any{}
	for place, eventID := range room.stateAfter(room.heads) {
		if place.eventType != "m.room.member" {
			list = append(list, json.RawMessage(room.find(eventID).JSON))
		}
	}
	return list
}

// completed makes the event of a template.
func (r *Rogue) completed(version string, template gjson.Result) PDU {
	r.network.t.Helper()
	room := &RogueRoom{rogue: r, Version: version}
	room.rules, _ = roomversion.Get(version)
	require.NotNil(r.network.t, room.rules, "room version %q", version)
	fields := fieldsOf(r.network.t, []byte(template.Raw))
	maps.Copy(fields, room.stamps())
	return r.Sign(version, fields, nil)
}

// enter makes the room of an answer to send_join.
func (r *Rogue) enter(roomID, version string, join PDU, sent *Response) *RogueRoom {
	rules, _ := roomversion.Get(version)
	room := &RogueRoom{ID: roomID, Version: version, rogue: r, rules: rules}
	state := map[place]string{}
	for _, list := range []string{"auth_chain", "state"} {
		for _, e := range sent.Get(list).Array() {
			p := identified(r.network.t, rules, []byte(e.Raw))
			room.addLocked(p, map[place]string{})
			if list == "state" {
				state[place{p.Get("type").String(), p.Get("state_key").String()}] = p.ID
			}
		}
	}
	room.addLocked(join, state)
	room.heads = []string{join.ID}
	r.keep(room)
	return room
}

// federation joins escaped segments below /_matrix/federation.
func federation(segments ...string) string {
	p := "/_matrix/federation"
	for _, s := range segments {
		p += "/" + url.PathEscape(s)
	}
	return p
}

// take lets the rogue know of the events of a transaction that are in its rooms.
func (r *Rogue) take(pdus []gjson.Result) {
	for _, raw := range pdus {
		roomID := raw.Get("room_id").String()
		if room := r.Room(roomID); room != nil {
			room.Add(identified(r.network.t, room.rules, []byte(raw.Raw)))
		}
	}
}

// authChain are the auth events of some events, theirs and so on, in the order in which they came.
func (room *RogueRoom) authChain(ids []string) []*knownEvent {
	found := map[string]bool{}
	for todo := slices.Clone(ids); len(todo) > 0; todo = todo[1:] {
		e := room.find(todo[0])
		if e == nil {
			continue
		}
		for _, auth := range idsOf(e.Get("auth_events")) {
			if !found[auth] {
				found[auth] = true
				todo = append(todo, auth)
			}
		}
	}
	return room.chosen(func(e *knownEvent) bool { return found[e.ID] })
}

// chosen are those events that a function takes, in the order in which they came.
func (room *RogueRoom) chosen(take func(*knownEvent) bool) (list []*knownEvent) {
	for _, e := range room.events {
		if take(e) {
			list = append(list, e)
		}
	}
	return list
}

// stateBefore are the events of the state before an event.
func (room *RogueRoom) stateBefore(e *knownEvent) []*knownEvent {
	ids := slices.Collect(maps.Values(e.before))
	return room.chosen(func(e *knownEvent) bool { return slices.Contains(ids, e.ID) })
}

// backwards are events and what came before them, at most limit, newest first.
func (room *RogueRoom) backwards(from, until []string, limit int) (list []*knownEvent) {
	found := map[string]bool{}
	for todo := slices.Clone(from); len(todo) > 0 && len(list) < limit; todo = todo[1:] {
		e := room.find(todo[0])
		if e == nil || found[e.ID] || slices.Contains(until, e.ID) {
			continue
		}
		found[e.ID] = true
		list = append(list, e)
		todo = append(todo, idsOf(e.Get("prev_events"))...)
	}
	return list
}

func jsonOf(list []*knownEvent) []json.RawMessage {
	all := make([]json.RawMessage, len(list))
	for i, e := range list {
		all[i] = e.JSON
	}
	return all
}

func eventIDsOf(list []*knownEvent) []string {
	all := make([]string, len(list))
	for i, e := range list {
		all[i] = e.ID
	}
	return all
}
