package homeservertest_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/homeservertest/openapi"
)

// federate has another server use every endpoint that servers offer each other.
func federate(t *testing.T, network *homeservertest.Network, server *homeservertest.Server, spec *openapi.Specification) {
	t.Helper()
	network.Add(server.Name(), judged(t, spec, server))
	peer := network.Rogue("peer.test")
	carol := server.User("carol")
	nobody := &person{t: t, http: &http.Client{Transport: &watched{t: t, spec: spec, to: server}}}
	askForKeys(nobody, server, peer)
	room := carol.CreateRoomWith(map[string]any{
		"preset": "public_chat", "room_version": "11", "visibility": "public", "room_alias_name": "square", "name": "Square",
	})
	ask := func(path string) *homeservertest.Response {
		return peer.Do(server, "GET", "/_matrix/federation/v1/"+path, nil).WantOK()
	}
	lookAround(ask, peer, server, carol, room)
	joined := peer.Join(server, room, peer.UserID("dave"))
	lookBack(ask, peer, server, joined)
	joined.Send(server, peer.Text(peer.UserID("dave"), "hi"))
	carol.Expect(room, homeservertest.Text("hi"))
	peer.Leave(server, room, peer.UserID("dave")).WantOK()
	askForUsersKeys(peer, server, carol)
	fetchFiles(peer, server, carol)
	askToComeIn(peer, server, carol)
	bringProof(peer, server, carol)
}

// judged is what others ask of a server, each answer judged.
func judged(t *testing.T, spec *openapi.Specification, server *homeservertest.Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := httptest.NewRecorder()
		server.Homeserver().FederationHandler().ServeHTTP(recorder, r)
		if spec != nil {
			err := spec.Judge(r.Method, r.URL, recorder.Code, recorder.Header(), recorder.Body.Bytes())
			if err != nil {
				t.Errorf("answer does not fit the specification: %v", err)
			}
		}
		for name, values := range recorder.Header() {
			w.Header()[name] = values
		}
		w.WriteHeader(recorder.Code)
		w.Write(recorder.Body.Bytes()) //nolint:errcheck // who has asked has gone
	})
}

// askForKeys asks a server as a notary.
func askForKeys(nobody *person, server *homeservertest.Server, peer *homeservertest.Rogue) {
	for _, name := range []string{server.Name(), peer.Name()} {
		nobody.get("/_matrix/key/v2/query/" + name)
	}
	nobody.post("/_matrix/key/v2/query", object{"server_keys": object{peer.Name(): object{}}})
}

// lookAround finds users, names and rooms.
func lookAround(ask func(string) *homeservertest.Response, peer *homeservertest.Rogue, server *homeservertest.Server, carol *homeservertest.User, room string) {
	ask("query/profile?user_id=" + url.QueryEscape(carol.ID))
	ask("query/directory?room_alias=" + url.QueryEscape("#square:"+server.Name()))
	ask("publicRooms?limit=10")
	peer.Do(server, "POST", "/_matrix/federation/v1/publicRooms", map[string]any{"limit": 10}).WantOK()
	ask("hierarchy/" + url.PathEscape(room))
	ask("user/devices/" + url.PathEscape(carol.ID))
}

// lookBack reads the history of a room.
func lookBack(ask func(string) *homeservertest.Response, peer *homeservertest.Rogue, server *homeservertest.Server, room *homeservertest.RogueRoom) {
	roomID, head := url.PathEscape(room.ID), url.QueryEscape(room.Heads()[0])
	create, _ := room.State("m.room.create", "")
	ask("event/" + url.PathEscape(room.Heads()[0]))
	ask("state/" + roomID + "?event_id=" + head)
	ask("state_ids/" + roomID + "?event_id=" + head)
	ask("event_auth/" + roomID + "/" + url.PathEscape(room.Heads()[0]))
	ask("backfill/" + roomID + "?limit=5&v=" + head)
	ask("timestamp_to_event/" + roomID + "?dir=f&ts=" + fmt.Sprint(create.Get("origin_server_ts").Int()))
	peer.Do(server, "POST", "/_matrix/federation/v1/get_missing_events/"+roomID, map[string]any{
		"earliest_events": []string{create.ID}, "latest_events": room.Heads(), "limit": 10,
	}).WantOK()
}

// askToComeIn knocks at a room of carol's and invites her to another.
func askToComeIn(peer *homeservertest.Rogue, server *homeservertest.Server, carol *homeservertest.User) {
	closed := carol.CreateRoomWith(map[string]any{"room_version": "11", "initial_state": []any{
		map[string]any{"type": "m.room.join_rules", "content": map[string]any{"join_rule": "knock"}},
	}})
	peer.Knock(server, closed, peer.UserID("dave")).WantOK()
	for _, version := range []string{"1", "12"} {
		peer.CreateRoom(version, peer.UserID("dave")).Invite(server, peer.UserID("dave"), carol.ID)
	}
	old := peer.CreateRoom("2", peer.UserID("dave"))
	invite := old.Build(homeservertest.Draft{
		Type: "m.room.member", Sender: peer.UserID("dave"), StateKey: &carol.ID, Content: object{"membership": "invite"},
		Before: func(event homeservertest.Fields) { event["origin"] = peer.Name() },
	})
	peer.Do(server, "PUT", "/_matrix/federation/v1/invite/"+url.PathEscape(old.ID)+"/"+url.PathEscape(invite.ID), invite.JSON).WantOK()
}

// bringProof turns third-party invites of carol's into invites: of a user elsewhere, and of one here.
func bringProof(peer *homeservertest.Rogue, server *homeservertest.Server, carol *homeservertest.User) {
	room, dave, erin := carol.CreateRoom(homeservertest.Private), peer.UserID("dave"), server.User("erin").ID
	key := base64.RawStdEncoding.EncodeToString(peer.Key.Public().(ed25519.PublicKey))
	proof := func(mxid, token string) json.RawMessage {
		carol.SetState(room, "m.room.third_party_invite", token, object{
			"display_name": "…", "public_key": "", "key_validity_url": "", "public_keys": []object{{"public_key": key}},
		}).WantOK()
		return peer.SignJSON(object{"mxid": mxid, "token": token, "sender": carol.ID})
	}
	peer.Do(server, "PUT", "/_matrix/federation/v1/exchange_third_party_invite/"+url.PathEscape(room), object{
		"type": "m.room.member", "room_id": room, "sender": carol.ID, "state_key": dave, "content": object{
			"membership": "invite", "third_party_invite": object{"display_name": "…", "signed": proof(dave, "one")},
		},
	}).WantOK()
	peer.Do(server, "PUT", "/_matrix/federation/v1/3pid/onbind", object{
		"medium": "email", "address": "erin@mail.test", "mxid": erin, "invites": []object{{
			"medium": "email", "address": "erin@mail.test", "mxid": erin, "room_id": room, "sender": carol.ID, "signed": proof(erin, "two"),
		}},
	}).WantOK()
}
