package eventauth_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

func TestNeeded(t *testing.T) {
	const base = "m.room.create/, m.room.power_levels/, m.room.member/@alice:one"
	bob, alice, empty := "@bob:two", "@alice:one", ""
	tests := []struct {
		name, version, eventType string
		stateKey                 *string
		content, want            string
	}{
		{"create", "11", "m.room.create", &empty, `{}`, ""},
		{"message", "11", "m.room.message", nil, `{}`, base},
		{"message in version 12", "12", "m.room.message", nil, `{}`, "m.room.power_levels/, m.room.member/@alice:one"},
		{"state", "11", "m.room.topic", &empty, `{"membership":"join"}`, base},
		{"join", "11", "m.room.member", &alice, `{"membership":"join"}`, base + ", m.room.join_rules/"},
		{"knock", "11", "m.room.member", &alice, `{"membership":"knock"}`, base + ", m.room.join_rules/"},
		{"invite", "11", "m.room.member", &bob, `{"membership":"invite"}`, base + ", m.room.member/@bob:two, m.room.join_rules/"},
		{"kick", "11", "m.room.member", &bob, `{"membership":"leave"}`, base + ", m.room.member/@bob:two"},
		{"ban", "11", "m.room.member", &bob, `{"membership":"ban"}`, base + ", m.room.member/@bob:two"},
		{"not canonical yet", "11", "m.room.member", &bob, " {\n \"x\" : 1, \"membership\" : \"invite\" } ",
			base + ", m.room.member/@bob:two, m.room.join_rules/"},
		{"not JSON", "11", "m.room.member", &bob, `{"membership":"invite"`, base + ", m.room.member/@bob:two"},
		{"third-party invite", "11", "m.room.member", &bob, `{"membership":"invite","third_party_invite":{"signed":{"token":"t"}}}`,
			base + ", m.room.member/@bob:two, m.room.join_rules/, m.room.third_party_invite/t"},
		{"third party, but no invite", "11", "m.room.member", &bob, `{"membership":"leave","third_party_invite":{"signed":{"token":"t"}}}`,
			base + ", m.room.member/@bob:two"},
		{"restricted join", "8", "m.room.member", &alice, `{"membership":"join","join_authorised_via_users_server":"@mod:one"}`,
			base + ", m.room.join_rules/, m.room.member/@mod:one"},
		{"authorised by oneself", "8", "m.room.member", &alice, `{"membership":"join","join_authorised_via_users_server":"@alice:one"}`,
			base + ", m.room.join_rules/"},
		{"restricted, too old", "7", "m.room.member", &alice, `{"membership":"join","join_authorised_via_users_server":"@mod:one"}`,
			base + ", m.room.join_rules/"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rules, _ := roomversion.Get(tt.version)
			got := eventauth.Needed(event.Draft{
				Rules: rules, Sender: "@alice:one", Type: tt.eventType, StateKey: tt.stateKey, Content: []byte(tt.content),
			})
			require.Equal(t, tt.want, places(got))
		})
	}
}

func places(keys []eventauth.Key) string {
	texts := make([]string, len(keys))
	for i, k := range keys {
		texts[i] = k.Type + "/" + k.StateKey
	}
	return strings.Join(texts, ", ")
}

// asked records what Check asks its State for.
type asked struct {
	room
	keys map[eventauth.Key]bool
}

func (a asked) Event(eventType, stateKey string) *event.Event {
	a.keys[eventauth.Key{Type: eventType, StateKey: stateKey}] = true
	return a.room.Event(eventType, stateKey)
}

// The auth events are all that the rules look at: otherwise an event could pass with its auth events
// and fail with the same state.
func TestCheckAsksOnlyForNeeded(t *testing.T) {
	create := eventauth.Key{Type: "m.room.create"}
	look := func(t *testing.T, r room, a attempt) error {
		e := r.event(t, a.draft)
		state := asked{r, map[eventauth.Key]bool{}}
		err := eventauth.Check(e, state)
		for k := range state.keys {
			require.Contains(t, append(eventauth.NeededBy(e), create), k)
		}
		return err
	}
	eachCase(t, look, "create", "member", "send", "power")
}
