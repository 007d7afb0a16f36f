package homeservertest_test

import (
	"encoding/json"
	"net/http"
	"strings"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// answerMake has a rogue answer make_join with a template that is changed.
func answerMake(rogue *homeservertest.Rogue, change func(made homeservertest.Fields)) {
	rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasPrefix(r.URL.Path, "/_matrix/federation/v1/make_join/") {
			return false
		}
		segments := strings.Split(r.URL.Path, "/")
		room, user := segments[5], segments[6]
		made := homeservertest.Fields{"room_version": "11", "event": homeservertest.Fields{
			"type": "m.room.member", "sender": user, "state_key": user, "room_id": room, "depth": 5,
			"content":     homeservertest.Fields{"membership": "join"},
			"prev_events": rogue.Room(room).Heads(), "auth_events": []string{},
		}}
		change(made)
		json.NewEncoder(w).Encode(made) //nolint:errcheck // who has asked has gone
		return true
	})
}
