package homeservertest_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// FM-06: who joins believes of the state that the resident server tells what is signed, unchanged, of the room and allowed.
func TestJoinersCheckTheState(t *testing.T) {
	for _, version := range []string{"1", "6", "11", "12"} {
		t.Run(version, func(t *testing.T) {
			network := homeservertest.NewNetwork(t)
			rogue := network.Rogue("rogue.test")
			alice := network.New("one.test").User("alice")
			mallory := rogue.UserID("mallory")
			room := rogue.CreateRoom(version, mallory)
			state := func(eventType, sender string, before, after func(homeservertest.Fields)) {
				room.Extend(homeservertest.Draft{
					Type: eventType, Sender: sender, StateKey: homeservertest.Key(""),
					Content: homeservertest.Fields{"said": eventType}, Before: before, After: after,
				})
			}
			set := func(key string, value any) func(homeservertest.Fields) {
				return func(f homeservertest.Fields) { f[key] = value }
			}
			state("org.example.good", mallory, nil, nil)
			state("org.example.stranger", rogue.UserID("stranger"), nil, nil)
			state("org.example.forged", mallory, nil, set("signatures", map[string]any{
				"rogue.test": map[string]any{rogue.KeyID: strings.Repeat("A", 86)},
			}))
			state("org.example.changed", mallory, nil, set("content", map[string]any{"said": "something else"}))
			state("org.example.elsewhere", mallory, set("room_id", "!elsewhere:rogue.test"), nil)
			alice.Do("POST", "/_matrix/client/v3/join/"+room.ID+"?via=rogue.test", map[string]any{}).WantOK()
			require.Equal(t, "org.example.good", alice.State(room.ID, "org.example.good", "").WantOK().Get("said").String())
			for _, eventType := range []string{"org.example.stranger", "org.example.forged", "org.example.elsewhere"} {
				alice.State(room.ID, eventType, "").WantError(404, "M_NOT_FOUND")
			}
			require.JSONEq(t, `{}`, string(alice.State(room.ID, "org.example.changed", "").WantOK().Body), "as it is redacted")
		})
	}
}

// FM-06: no room begins without its m.room.create.
func TestJoinersWantTheCreateEvent(t *testing.T) {
	for name, spoil := range map[string]func(list string, other json.RawMessage) string{
		"no state":        func(string, json.RawMessage) string { return `[]` },
		"no create event": func(list string, _ json.RawMessage) string { return withoutCreate(list) },
		"that of another room": func(list string, other json.RawMessage) string {
			list, _ = sjson.SetRaw(withoutCreate(list), "-1", string(other))
			return list
		},
	} {
		t.Run(name, func(t *testing.T) {
			network := homeservertest.NewNetwork(t)
			rogue := network.Rogue("rogue.test")
			alice := network.New("one.test").User("alice")
			room, other := rogue.CreateRoom("11", rogue.UserID("mallory")), rogue.CreateRoom("11", rogue.UserID("mallory"))
			create, _ := other.State("m.room.create", "")
			network.Add("rogue.test", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				recorder := httptest.NewRecorder()
				rogue.ServeHTTP(recorder, r)
				body := recorder.Body.String()
				for _, key := range []string{"state", "auth_chain"} {
					if list := gjson.Get(body, key); strings.Contains(r.URL.Path, "/send_join/") && list.IsArray() {
						body, _ = sjson.SetRaw(body, key, spoil(list.Raw, create.JSON))
					}
				}
				w.WriteHeader(recorder.Code)
				w.Write([]byte(body)) //nolint:errcheck // who has asked has gone
			}))
			answer := alice.Do("POST", "/_matrix/client/v3/join/"+room.ID+"?via=rogue.test", map[string]any{})
			require.GreaterOrEqual(t, answer.Status, 400, "%s", answer.Body)
			require.NotEmpty(t, rogue.Asked("/_matrix/federation/v2/send_join/"))
			require.Empty(t, alice.Sync("").Joined(room.ID).Raw)
			require.Equal(t, `[]`, alice.Do("GET", "/_matrix/client/v3/joined_rooms", nil).WantOK().Get("joined_rooms").Raw)
		})
	}
}

func withoutCreate(list string) string {
	kept := `[]`
	for _, e := range gjson.Parse(list).Array() {
		if e.Get("type").String() != "m.room.create" {
			kept, _ = sjson.SetRaw(kept, "-1", e.Raw)
		}
	}
	return kept
}

// MSC4293: who joins a room finds nothing that somebody had sent who was banned with all of it, though the ban is only
// told, and neither do they when it comes late.
func TestJoinersSeeNothingOfTheBanned(t *testing.T) {
	for _, version := range []string{"10", "12"} {
		network := homeservertest.NewNetwork(t)
		rogue := network.Rogue("rogue.test")
		one := network.New("one.test")
		alice, mallory, eve := one.User("alice"), rogue.UserID("mallory"), rogue.UserID("eve")
		room := rogue.CreateRoom(version, mallory)
		member := func(sender, target string, content homeservertest.Fields) homeservertest.PDU {
			return room.Extend(homeservertest.Draft{
				Type: "m.room.member", Sender: sender, StateKey: homeservertest.Key(target), Content: content,
			})
		}
		join := member(eve, eve, homeservertest.Fields{"membership": "join"})
		early := room.Extend(rogue.Text(eve, "spam"))
		late := rogue.Text(eve, "late spam")
		late.Prev, late.Before = []string{join.ID}, func(f homeservertest.Fields) { f["depth"] = 1000 }
		lateEvent := room.Build(late)
		member(mallory, eve, homeservertest.Fields{"membership": "ban", "org.matrix.msc4293.redact_events": true})
		alice.Do("POST", "/_matrix/client/v3/join/"+room.ID+"?via=rogue.test", map[string]any{}).WantOK()
		room.Add(lateEvent)
		answer := rogue.Send(one, []homeservertest.PDU{lateEvent}).WantOK()
		require.Empty(t, answer.Get("pdus").Map()[lateEvent.ID].Get("error").String())
		chunk := alice.Messages(room.ID, url.Values{"dir": {"b"}, "limit": {"100"}}).WantOK().Get("chunk").Array()
		found := false
		for _, e := range chunk {
			if e.Get("event_id").String() == early.ID {
				found = true
				require.Equal(t, "{}", e.Get("content").Raw)
				require.Equal(t, "m.room.member", e.Get("unsigned.redacted_because.type").String())
			}
			require.NotEqual(t, lateEvent.ID, e.Get("event_id").String())
		}
		require.True(t, found)
	}
}
