package homeservertest_test

import (
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// An event from before the server joined, that comes late and alone, is history: it is no branch that takes part in the
// state, from which the join would be missing.
func TestOldEventsAreNoForks(t *testing.T) {
	for _, v := range []string{"1", "6", "11", "12"} {
		t.Run(v, func(t *testing.T) {
			s := besiege(t, "11")
			s.mal = s.rogue.UserID("creator")
			s.room = s.rogue.CreateRoom(v, s.mal)
			s.id = s.room.ID
			a := s.rogue.UserID("a")
			old := s.room.Extend(member(a, a, "join"))
			text := s.room.Extend(s.rogue.Text(s.mal, "old"))
			s.room.Extend(stateful(s.mal, "m.room.topic", "", map[string]any{"topic": "1"}))
			s.room.Extend(s.rogue.Text(s.mal, "old2"))
			s.alice.Do("POST", v3+"/join/"+url.PathEscape(s.id)+"?server_name=rogue.test", map[string]any{}).WantOK()
			s.takes("jr", s.room.Build(stateful(s.mal, "m.room.join_rules", "", map[string]any{"join_rule": "invite"})))
			before := s.state()
			for _, p := range []homeservertest.PDU{text, old} {
				s.rogue.Send(s.hs, []homeservertest.PDU{p}).WantOK()
				require.Equal(t, before, s.state())
			}
			s.alice.Send(s.id, "x")
			s.told()
		})
	}
}
