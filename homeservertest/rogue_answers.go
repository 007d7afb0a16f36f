package homeservertest

import (
	"encoding/json"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// answer is what a rogue answers by itself.
func (r *Rogue) answer(w http.ResponseWriter, request *http.Request, body []byte) {
	path := request.URL.EscapedPath()
	switch {
	case strings.HasPrefix(path, "/_matrix/key/v2/server"):
		respond(w, 200, json.RawMessage(r.Keys()))
	case path == "/_matrix/federation/v1/version":
		respond(w, 200, Fields{"server": Fields{"name": "rogue", "version": "1"}})
	case request.Method == "PUT" && strings.HasPrefix(path, sendPath):
		r.take(gjson.GetBytes(body, "pdus").Array())
		respond(w, 200, Fields{"pdus": Fields{}})
	default:
		r.answerAbout(w, request, body)
	}
}

func respond(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v) //nolint:errcheck // who has asked has gone
}

func refuse(w http.ResponseWriter, status int, errcode string) {
	respond(w, status, Fields{"errcode": errcode, "error": "so says the rogue"})
}

// question is a request about a room: /_matrix/federation/{version}/{verb}/{room}/{last}.
type question struct {
	verb, last string
	query      url.Values
	body       gjson.Result
	room       *RogueRoom
}

// answerAbout answers what is asked about a room.
func (r *Rogue) answerAbout(w http.ResponseWriter, request *http.Request, body []byte) {
	segments := strings.Split(strings.TrimPrefix(request.URL.EscapedPath(), "/_matrix/federation/"), "/")
	for i := range segments {
		segments[i], _ = url.PathUnescape(segments[i]) // what is no path finds nothing
	}
	if len(segments) < 3 || answers()[segments[1]] == nil {
		refuse(w, 404, "M_UNRECOGNIZED")
		return
	}
	q := question{verb: segments[1], last: segments[len(segments)-1], query: request.URL.Query(), body: gjson.ParseBytes(body)}
	r.mu.Lock()
	defer r.mu.Unlock()
	if q.room = r.rooms[segments[2]]; q.verb == "event" {
		q.room = r.roomOfLocked(q.last)
	}
	if q.room == nil && q.verb != "invite" {
		refuse(w, 404, "M_NOT_FOUND")
		return
	}
	if answer := answers()[q.verb](r, q); answer != nil {
		respond(w, 200, answer)
		return
	}
	refuse(w, 404, "M_NOT_FOUND")
}

func (r *Rogue) roomOfLocked(eventID string) *RogueRoom {
	for _, room := range r.rooms {
		if room.find(eventID) != nil {
			return room
		}
	}
	return nil
}

// answers are what can be asked about a room; nil is for what is not there. The rogue's mu is held.
func answers() map[string]func(*Rogue, question) any {
	return map[string]func(*Rogue, question) any{
		"event": (*Rogue).tellEvent, "state": (*Rogue).tellState, "state_ids": (*Rogue).tellStateIDs,
		"event_auth": (*Rogue).tellAuth, "backfill": (*Rogue).tellPast, "get_missing_events": (*Rogue).tellMissing,
		"make_join": (*Rogue).template, "make_leave": (*Rogue).template, "make_knock": (*Rogue).template,
		"send_join": (*Rogue).accept, "send_leave": (*Rogue).accept, "send_knock": (*Rogue).accept,
		"invite": (*Rogue).beInvited,
	}
}

func (r *Rogue) told(key string, list []*knownEvent) Fields {
	return Fields{"origin": r.name, "origin_server_ts": time.Now().UnixMilli(), key: jsonOf(list)}
}

func (r *Rogue) tellEvent(q question) any { return r.told("pdus", []*knownEvent{q.room.find(q.last)}) }

func (r *Rogue) tellState(q question) any {
	e := q.room.find(q.query.Get("event_id"))
	if e == nil {
		return nil
	}
	state := q.room.stateBefore(e)
	return Fields{"pdus": jsonOf(state), "auth_chain": jsonOf(q.room.authChain(eventIDsOf(state)))}
}

func (r *Rogue) tellStateIDs(q question) any {
	e := q.room.find(q.query.Get("event_id"))
	if e == nil {
		return nil
	}
	state := q.room.stateBefore(e)
	return Fields{"pdu_ids": eventIDsOf(state), "auth_chain_ids": eventIDsOf(q.room.authChain(eventIDsOf(state)))}
}

func (r *Rogue) tellAuth(q question) any {
	return Fields{"auth_chain": jsonOf(q.room.authChain([]string{q.last}))}
}

func (r *Rogue) tellPast(q question) any {
	limit, _ := strconv.Atoi(q.query.Get("limit")) // nothing for what is no number
	return r.told("pdus", q.room.backwards(q.query["v"], nil, limit))
}

func (r *Rogue) tellMissing(q question) any {
	limit := 10
	if n := q.body.Get("limit"); n.Exists() {
		limit = int(n.Int())
	}
	latest, earliest := idsOf(q.body.Get("latest_events")), idsOf(q.body.Get("earliest_events"))
	found := map[string]bool{}
	for _, e := range q.room.backwards(latest, earliest, limit+len(latest)) {
		found[e.ID] = true
	}
	for _, eventID := range latest {
		delete(found, eventID)
	}
	return Fields{"events": jsonOf(q.room.chosen(func(e *knownEvent) bool { return found[e.ID] }))}
}

// template is the answer to make_join and its like.
func (r *Rogue) template(q question) any {
	fields := q.room.unstamped(Draft{
		Type: "m.room.member", Sender: q.last, StateKey: &q.last,
		Content: Fields{"membership": strings.TrimPrefix(q.verb, "make_")},
	})
	return Fields{"room_version": q.room.Version, "event": fields}
}

// accept is the answer to send_join and its like.
func (r *Rogue) accept(q question) any {
	p := identified(r.network.t, q.room.rules, []byte(q.body.Raw))
	before := q.room.stateAfter(idsOf(p.Get("prev_events")))
	q.room.addLocked(p, before)
	q.room.headLocked(p)
	state := q.room.stateBefore(q.room.find(p.ID))
	switch q.verb {
	case "send_leave":
		return Fields{}
	case "send_knock":
		return Fields{"knock_room_state": stripped(state)}
	}
	return Fields{
		"origin": r.name, "event": json.RawMessage(p.JSON), "members_omitted": false,
		"state": jsonOf(state), "auth_chain": jsonOf(q.room.authChain(eventIDsOf(state))),
	}
}

// stripped is what outsiders see of a state.
func stripped(state []*knownEvent) []Fields {
	list := []Fields{}
	for _, e := range state {
		list = append(list, Fields{
			"type": e.Get("type").String(), "state_key": e.Get("state_key").String(),
			"sender": e.Get("sender").String(), "content": json.RawMessage(e.Get("content").Raw),
		})
	}
	return list
}

// beInvited signs an invite of version 2 of the endpoint.
func (r *Rogue) beInvited(q question) any {
	raw := []byte(q.body.Get("event").Raw)
	rules, ok := roomversion.Get(q.body.Get("room_version").String())
	if !ok || len(raw) == 0 {
		return nil
	}
	fields := fieldsOf(r.network.t, raw)
	fields["signatures"] = r.signatures(rules, fields)
	return Fields{"event": fields}
}
