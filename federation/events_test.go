package federation_test

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// asking is a rogue in a room of a server, and another room of it that the rogue is not in.
type asking struct {
	t       *testing.T
	network *homeservertest.Network
	server  *homeservertest.Server
	alice   *homeservertest.User
	rogue   *homeservertest.Rogue
	room    string
	joined  *homeservertest.RogueRoom
	secret  string // the other room
	hidden  string // an event there
}

func newAsking(t *testing.T, body map[string]any) *asking {
	t.Helper()
	a := &asking{t: t, network: homeservertest.NewNetwork(t)}
	a.server, a.rogue = a.network.New("one.test"), a.network.Rogue("rogue.test")
	a.alice = a.server.User("alice")
	if body == nil {
		body = map[string]any{}
	}
	body["preset"] = "public_chat"
	a.room = a.alice.CreateRoomWith(body)
	a.secret = a.alice.CreateRoomWith(map[string]any{"preset": "private_chat"})
	a.hidden = a.alice.Send(a.secret, "secret")
	return a
}

// enter lets the rogue into the room.
func (a *asking) enter() *asking {
	a.t.Helper()
	a.joined = a.rogue.Join(a.server, a.room, a.rogue.UserID("mallory"))
	return a
}

func (a *asking) get(path string) *homeservertest.Response {
	a.t.Helper()
	return a.rogue.Do(a.server, "GET", "/_matrix/federation/v1/"+path, nil)
}

func (a *asking) missing(room string, body any) *homeservertest.Response {
	a.t.Helper()
	return a.rogue.Do(a.server, "POST", "/_matrix/federation/v1/get_missing_events/"+url.PathEscape(room), body)
}

func (a *asking) backfill(room string, limit int, from ...string) *homeservertest.Response {
	a.t.Helper()
	query := url.Values{"v": from, "limit": {fmt.Sprint(limit)}}
	return a.get("backfill/" + url.PathEscape(room) + "?" + query.Encode())
}

func (a *asking) state(room, eventID string) *homeservertest.Response {
	a.t.Helper()
	return a.get("state/" + url.PathEscape(room) + "?event_id=" + url.QueryEscape(eventID))
}

func (a *asking) stateIDs(room, eventID string) *homeservertest.Response {
	a.t.Helper()
	return a.get("state_ids/" + url.PathEscape(room) + "?event_id=" + url.QueryEscape(eventID))
}

func (a *asking) auth(room, eventID string) *homeservertest.Response {
	a.t.Helper()
	return a.get("event_auth/" + url.PathEscape(room) + "/" + url.PathEscape(eventID))
}

func (a *asking) event(eventID string) *homeservertest.Response {
	a.t.Helper()
	return a.get("event/" + url.PathEscape(eventID))
}

func (a *asking) near(room string, ts int64, dir string) *homeservertest.Response {
	a.t.Helper()
	return a.get(fmt.Sprintf("timestamp_to_event/%s?ts=%d&dir=%s", url.PathEscape(room), ts, dir))
}

// all asks everything there is to ask about an event of a room.
func (a *asking) all(room, eventID string) map[string]*homeservertest.Response {
	return map[string]*homeservertest.Response{
		"backfill": a.backfill(room, 10, eventID), "state": a.state(room, eventID), "state_ids": a.stateIDs(room, eventID),
		"event_auth": a.auth(room, eventID), "event": a.event(eventID), "timestamp_to_event": a.near(room, 0, "f"),
		"get_missing_events": a.missing(room, map[string]any{"earliest_events": []string{}, "latest_events": []string{eventID}}),
	}
}

// bodies are the bodies of messages, "" for events without.
func bodies(events gjson.Result) (list []string) {
	for _, e := range events.Array() {
		list = append(list, e.Get("content.body").String())
	}
	return list
}

func types(events gjson.Result) (list []string) {
	for _, e := range events.Array() {
		list = append(list, e.Get("type").String())
	}
	return list
}

func TestBackfillTellsTheEventsAndWhatCameBefore(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			a := newAsking(t, map[string]any{"room_version": version})
			for i := range 10 {
				a.alice.Send(a.room, fmt.Sprint(i))
			}
			a.enter()
			last := a.alice.Send(a.room, "last")
			answer := a.backfill(a.room, 5, last).WantOK()
			require.Equal(t, "one.test", answer.Get("origin").String())
			require.Positive(t, answer.Get("origin_server_ts").Int())
			require.Equal(t, []string{"last", "", "9", "8", "7"}, bodies(answer.Get("pdus")))
			first := answer.Get("pdus.0")
			require.Equal(t, version == "1", first.Get("event_id").Exists(), "event_id is part of the first versions' events only")
			require.True(t, first.Get("signatures").Exists())
			require.Empty(t, a.backfill(a.room, 0, last).WantOK().Get("pdus").Array())
			whole := a.backfill(a.room, 100, last).WantOK().Get("pdus").Array()
			require.Equal(t, "m.room.create", whole[len(whole)-1].Get("type").String())
		})
	}
}

func TestMissingEventsComeOldestFirst(t *testing.T) {
	a := newAsking(t, nil).enter()
	var ids []string
	for i := range 30 {
		ids = append(ids, a.alice.Send(a.room, fmt.Sprint(i)))
	}
	ask := func(limit any, minDepth int64) gjson.Result {
		body := map[string]any{"earliest_events": []string{ids[2]}, "latest_events": []string{ids[9]}, "min_depth": minDepth}
		if limit != nil {
			body["limit"] = limit
		}
		return a.missing(a.room, body).WantOK().Get("events")
	}
	require.Equal(t, []string{"3", "4", "5", "6", "7", "8"}, bodies(ask(nil, 0)))
	require.Equal(t, []string{"7", "8"}, bodies(ask(2, 0)))
	depth := ask(nil, 0).Get("4.depth").Int()
	require.Equal(t, []string{"7", "8"}, bodies(ask(nil, depth)))
	require.Empty(t, ask(0, 0).Array())
	latest := map[string]any{"earliest_events": []string{}, "latest_events": []string{ids[29]}, "limit": 1000000}
	require.Len(t, a.missing(a.room, latest).WantOK().Get("events").Array(), 20)
	delete(latest, "limit")
	require.Len(t, a.missing(a.room, latest).WantOK().Get("events").Array(), 10)
	require.Empty(t, a.missing(a.room, map[string]any{}).WantOK().Get("events").Array())
}

func TestStateBeforeAnEvent(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			a := newAsking(t, map[string]any{"room_version": version}).enter()
			a.alice.SetState(a.room, "m.room.topic", "", map[string]any{"topic": "before"}).WantOK()
			topic := a.alice.SetState(a.room, "m.room.topic", "", map[string]any{"topic": "after"}).WantOK().Get("event_id").String()
			answer := a.state(a.room, topic).WantOK()
			require.Equal(t, "before", answer.Get(`pdus.#(type=="m.room.topic").content.topic`).String())
			require.Contains(t, types(answer.Get("auth_chain")), "m.room.create")
			require.NotContains(t, types(answer.Get("auth_chain")), "m.room.topic")
			ids := a.stateIDs(a.room, topic).WantOK()
			require.Len(t, ids.Get("pdu_ids").Array(), len(answer.Get("pdus").Array()))
			require.Len(t, ids.Get("auth_chain_ids").Array(), len(answer.Get("auth_chain").Array()))
			create := a.alice.Do("GET", v3+"/rooms/"+url.PathEscape(a.room)+"/state/m.room.create/?format=event", nil).WantOK().Get("event_id").String()
			require.Contains(t, ids.Get("auth_chain_ids").String(), create)
			require.Empty(t, a.stateIDs(a.room, create).WantOK().Get("pdu_ids").Array(), "there is nothing before the create event")
			a.server.Restart()
			require.Equal(t, string(ids.Body), string(a.stateIDs(a.room, topic).WantOK().Body), "from storage it is the same")
			require.Equal(t, string(answer.Body), string(a.state(a.room, topic).WantOK().Body))
		})
	}
}

func TestEventAuthIsTheWholeChainAndNothingElse(t *testing.T) {
	for _, version := range versions {
		t.Run(version, func(t *testing.T) {
			a := newAsking(t, map[string]any{"room_version": version})
			bob := a.server.User("bob")
			bob.MustJoin(a.room)
			bob.MustLeave(a.room)
			bob.MustJoin(a.room)
			a.enter()
			message := bob.Send(a.room, "hi")
			require.ElementsMatch(t,
				[]string{"m.room.create", "m.room.member", "m.room.power_levels", "m.room.join_rules", "m.room.member", "m.room.member", "m.room.member"},
				types(a.auth(a.room, message).WantOK().Get("auth_chain")))
		})
	}
}

func TestMissingParameters(t *testing.T) {
	a := newAsking(t, nil).enter()
	room := url.PathEscape(a.room)
	event := url.QueryEscape(a.alice.Send(a.room, "hi"))
	for path, errcode := range map[string]string{
		"backfill/" + room:                                   "M_MISSING_PARAM",
		"backfill/" + room + "?v=" + event:                   "M_MISSING_PARAM",
		"backfill/" + room + "?limit=10":                     "M_MISSING_PARAM",
		"backfill/" + room + "?limit=-1&v=" + event:          "M_INVALID_PARAM",
		"backfill/" + room + "?limit=x&v=" + event:           "M_INVALID_PARAM",
		"backfill/" + room + "?limit=10&v=x":                 "M_INVALID_PARAM",
		"state/" + room:                                      "M_MISSING_PARAM",
		"state_ids/" + room:                                  "M_MISSING_PARAM",
		"state_ids/" + room + "?event_id=x":                  "M_INVALID_PARAM",
		"timestamp_to_event/" + room + "?ts=1":               "M_MISSING_PARAM",
		"timestamp_to_event/" + room + "?dir=f":              "M_MISSING_PARAM",
		"timestamp_to_event/" + room + "?dir=x&ts=1":         "M_INVALID_PARAM",
		"timestamp_to_event/" + room + "?dir=f&ts=yesterday": "M_INVALID_PARAM",
		"state/notaroombutitdoesntmatter":                    "M_INVALID_PARAM",
	} {
		a.get(path).WantError(400, errcode)
	}
	a.missing(a.room, map[string]any{"latest_events": "x"}).WantError(400, "M_BAD_JSON")
	a.missing(a.room, map[string]any{"latest_events": []any{1}}).WantError(400, "M_BAD_JSON")
	a.missing(a.room, map[string]any{"latest_events": []string{"x"}}).WantError(400, "M_INVALID_PARAM")
	a.missing(a.room, map[string]any{"limit": -1}).WantError(400, "M_INVALID_PARAM")
}

func TestF54ServersThatTheACLDenies(t *testing.T) {
	a := newAsking(t, nil).enter()
	event := a.alice.Send(a.room, "hi")
	for name, answer := range a.all(a.room, event) {
		require.Equal(t, 200, answer.Status, "%s: %s", name, answer.Body)
	}
	a.alice.SetState(a.room, "m.room.server_acl", "", map[string]any{"allow": []string{"*"}, "deny": []string{"ROGUE.test"}}).WantOK()
	for name, answer := range a.all(a.room, event) {
		if name == "event" {
			answer.WantError(404, "M_NOT_FOUND")
			continue
		}
		answer.WantError(403, "M_FORBIDDEN")
	}
}

func TestF61BackfillIsBounded(t *testing.T) {
	a := newAsking(t, nil).enter()
	var last string
	for i := range 130 {
		last = a.alice.Send(a.room, fmt.Sprint(i))
	}
	require.Len(t, a.backfill(a.room, 1_000_000, last).WantOK().Get("pdus").Array(), 100)
	a.backfill(a.room, -1, last).WantError(400, "M_INVALID_PARAM")
	many := make([]string, 5000)
	for i := range many {
		many[i] = fmt.Sprintf("$%043d", i)
	}
	many[0] = last
	require.Len(t, a.backfill(a.room, 1000, many...).WantOK().Get("pdus").Array(), 100)
	require.Empty(t, a.backfill(a.room, 10, "$unknown").WantOK().Get("pdus").Array())
}

func TestF91EventsOfOtherRoomsLookLikeUnknownOnes(t *testing.T) {
	a := newAsking(t, nil).enter()
	a.alice.Send(a.room, "hi")
	unknown := a.all(a.room, "$"+strings.Repeat("x", 43))
	for name, answer := range a.all(a.room, a.hidden) {
		require.Equal(t, unknown[name].Status, answer.Status, name)
		if name != "backfill" && name != "timestamp_to_event" { // these have a time in them
			require.Equal(t, string(unknown[name].Body), string(answer.Body), name)
		}
		require.NotContains(t, string(answer.Body), "secret", name)
	}
	for _, name := range []string{"state", "state_ids", "event_auth", "event"} {
		unknown[name].WantError(404, "M_NOT_FOUND")
	}
	require.Empty(t, unknown["backfill"].WantOK().Get("pdus").Array())
	require.Empty(t, unknown["get_missing_events"].WantOK().Get("events").Array())
}

func TestF92RoomsThatAServerIsNotIn(t *testing.T) {
	a := newAsking(t, nil)
	event := a.alice.Send(a.room, "hi")
	elsewhere := a.all("!nowhere:one.test", event)
	for name, answer := range a.all(a.room, event) {
		require.Equal(t, elsewhere[name].Status, answer.Status, name)
		require.Equal(t, string(elsewhere[name].Body), string(answer.Body), name)
		require.Contains(t, []int{403, 404}, answer.Status, name)
	}
}

func TestF94ServersThatHaveLeft(t *testing.T) {
	a := newAsking(t, nil).enter()
	before := a.alice.Send(a.room, "before")
	a.joined.Send(a.server, homeservertest.Draft{
		Type: "m.room.member", Sender: a.rogue.UserID("mallory"), StateKey: homeservertest.Key(a.rogue.UserID("mallory")),
		Content: map[string]any{"membership": "leave"},
	})
	after := a.alice.Send(a.room, "after")
	require.Equal(t, "before", a.event(before).WantOK().Get("pdus.0.content.body").String())
	require.Contains(t, bodies(a.backfill(a.room, 5, before).WantOK().Get("pdus")), "before")
	a.state(a.room, before).WantOK()
	unknown := a.all(a.room, "$"+strings.Repeat("x", 43))
	for name, answer := range a.all(a.room, after) {
		if name == "timestamp_to_event" {
			continue
		}
		require.NotContains(t, string(answer.Body), `"after"`, name)
		if name == "state" || name == "state_ids" || name == "event_auth" || name == "event" {
			require.Contains(t, []int{403, 404}, answer.Status, name)
			require.Equal(t, string(unknown[name].Body), string(answer.Body), name)
		}
	}
}

func TestF95RedactedEventsAreToldRedacted(t *testing.T) {
	a := newAsking(t, nil).enter()
	event := a.alice.Send(a.room, "regret")
	a.alice.Redact(a.room, event).WantOK()
	last := a.alice.Send(a.room, "last")
	require.Equal(t, "{}", a.event(event).WantOK().Get("pdus.0.content").Raw)
	for name, answer := range a.all(a.room, last) {
		require.NotContains(t, string(answer.Body), "regret", name)
	}
}

// What a server may not see by the room's history visibility, it gets redacted.
func TestHistoryVisibilityForServers(t *testing.T) {
	tests := []struct {
		visibility string
		early      bool // what was said before the server was in the room is told whole
	}{{"world_readable", true}, {"shared", true}, {"invited", false}, {"joined", false}}
	for _, tt := range tests {
		t.Run(tt.visibility, func(t *testing.T) {
			a := newAsking(t, nil)
			a.alice.SetState(a.room, "m.room.history_visibility", "", map[string]any{"history_visibility": tt.visibility}).WantOK()
			old := a.alice.SetState(a.room, "m.room.topic", "", map[string]any{"topic": "old topic"}).WantOK().Get("event_id").String()
			early := a.alice.Send(a.room, "early")
			a.alice.SetState(a.room, "m.room.topic", "", map[string]any{"topic": "topic"}).WantOK()
			a.enter()
			late := a.alice.Send(a.room, "late")
			told := string(a.backfill(a.room, 100, late).WantOK().Body)
			require.Contains(t, told, `"late"`)
			require.Equal(t, tt.early, strings.Contains(told, `"early"`))
			require.Equal(t, tt.early, strings.Contains(told, "old topic"))
			require.Contains(t, told, `"topic":"topic"`, "the current state is for all in the room")
			require.Contains(t, told, `"m.room.message"`)
			require.Equal(t, tt.early, a.event(early).WantOK().Get("pdus.0.content.body").Exists())
			require.Equal(t, tt.early, strings.Contains(string(a.state(a.room, early).WantOK().Body), "old topic"))
			require.Equal(t, tt.early, strings.Contains(string(a.event(old).WantOK().Body), "old topic"))
			missing := a.missing(a.room, map[string]any{"earliest_events": []string{}, "latest_events": []string{late}})
			require.Equal(t, tt.early, strings.Contains(string(missing.WantOK().Body), `"early"`))
		})
	}
}

func TestRejectedEventsAreNotTold(t *testing.T) {
	a := newAsking(t, nil).enter()
	rejected := a.joined.Extend(a.rogue.Text("@stranger:rogue.test", "rejected"))
	a.rogue.Send(a.server, []homeservertest.PDU{rejected}).WantOK()
	after := a.joined.Extend(a.rogue.Text(a.rogue.UserID("mallory"), "good"))
	a.rogue.Send(a.server, []homeservertest.PDU{after}).WantOK()
	last := a.alice.Send(a.room, "last")
	for name, answer := range a.all(a.room, last) {
		require.NotContains(t, string(answer.Body), `"rejected"`, name)
	}
	backfill := bodies(a.backfill(a.room, 10, after.ID).WantOK().Get("pdus"))
	require.Contains(t, backfill, "good")
	require.Contains(t, types(a.backfill(a.room, 10, after.ID).WantOK().Get("pdus")), "m.room.power_levels", "what is behind it is told")
	for name, answer := range a.all(a.room, rejected.ID) {
		require.NotContains(t, string(answer.Body), `"rejected"`, name)
	}
	a.state(a.room, rejected.ID).WantError(404, "M_NOT_FOUND")
	a.stateIDs(a.room, rejected.ID).WantError(404, "M_NOT_FOUND")
	a.event(rejected.ID).WantError(404, "M_NOT_FOUND")
}

// A soft-failed event is part of the room's graph: clients are not told of it, servers are.
func TestSoftFailedEventsAreTold(t *testing.T) {
	a := newAsking(t, nil).enter()
	mallory := a.rogue.UserID("mallory")
	prev := a.joined.Heads()
	a.alice.Do("POST", v3+"/rooms/"+url.PathEscape(a.room)+"/ban", map[string]any{"user_id": mallory}).WantOK()
	late := a.rogue.Text(mallory, "too late")
	late.Prev = prev
	failed := a.joined.Build(late)
	a.rogue.Send(a.server, []homeservertest.PDU{failed}).WantOK()
	a.alice.Do("GET", v3+"/rooms/"+url.PathEscape(a.room)+"/event/"+url.PathEscape(failed.ID), nil).WantError(404, "M_NOT_FOUND")
	require.Equal(t, "too late", a.event(failed.ID).WantOK().Get("pdus.0.content.body").String())
	require.Equal(t, "too late", bodies(a.backfill(a.room, 3, failed.ID).WantOK().Get("pdus"))[0])
}

func TestErasedUsersAreToldRedacted(t *testing.T) {
	a := newAsking(t, nil).enter()
	a.server.User("remaining").MustJoin(a.room)
	bob := a.server.User("bob")
	bob.MustJoin(a.room)
	event := bob.Send(a.room, "forget me")
	require.Contains(t, string(a.event(event).WantOK().Body), "forget me")
	body := map[string]any{"erase": true}
	asked := bob.Do("POST", v3+"/account/deactivate", body)
	body["auth"] = map[string]any{
		"type": "m.login.password", "session": asked.Get("session").String(), "password": bob.Password,
		"identifier": map[string]any{"type": "m.id.user", "user": "bob"},
	}
	bob.Do("POST", v3+"/account/deactivate", body).WantOK()
	require.NotContains(t, string(a.event(event).WantOK().Body), "forget me")
	require.NotContains(t, string(a.backfill(a.room, 20, event).WantOK().Body), "forget me")
}

func TestTimestampToEvent(t *testing.T) {
	a := newAsking(t, nil).enter()
	first, second := a.alice.Send(a.room, "first"), a.alice.Send(a.room, "second")
	ts := func(eventID string) int64 { return a.event(eventID).WantOK().Get("pdus.0.origin_server_ts").Int() }
	require.Equal(t, second, a.near(a.room, ts(second)+1000, "b").WantOK().Get("event_id").String())
	a.near(a.room, ts(second)+1000, "f").WantError(404, "M_NOT_FOUND")
	a.near(a.room, 1, "b").WantError(404, "M_NOT_FOUND")
	oldest := a.near(a.room, 0, "f").WantOK()
	require.Equal(t, "m.room.create", a.event(oldest.Get("event_id").String()).WantOK().Get("pdus.0.type").String())
	found := a.near(a.room, ts(first), "b").WantOK()
	require.Equal(t, ts(first), found.Get("origin_server_ts").Int())
	third := a.alice.Send(a.room, "third")
	require.Equal(t, third, a.near(a.room, ts(third)+1000, "b").WantOK().Get("event_id").String(), "the index goes on")
}

// What a server may see of the events before its time is decided for each: nothing leaks by time either.
func TestTimestampToEventTellsOnlyWhatMayBeSeen(t *testing.T) {
	for _, tt := range []struct {
		visibility string
		told       bool
	}{{"shared", true}, {"joined", false}} {
		t.Run(tt.visibility, func(t *testing.T) {
			a := newAsking(t, nil)
			a.alice.SetState(a.room, "m.room.history_visibility", "", map[string]any{"history_visibility": tt.visibility}).WantOK()
			time.Sleep(2 * time.Millisecond) // alone in its millisecond
			early := a.alice.Send(a.room, "early")
			time.Sleep(2 * time.Millisecond)
			a.enter()
			a.alice.Send(a.room, "late")
			path := v3 + "/rooms/" + url.PathEscape(a.room) + "/event/" + url.PathEscape(early)
			ts := a.alice.Do("GET", path, nil).WantOK().Get("origin_server_ts").Int()
			for _, dir := range []string{"f", "b"} {
				require.Equal(t, tt.told, a.near(a.room, ts, dir).Get("event_id").String() == early, dir)
			}
		})
	}
}
