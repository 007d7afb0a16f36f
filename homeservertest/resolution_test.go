package homeservertest_test

import (
	"fmt"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// SY-14, SR-02: a demotion on another branch undoes what was done with the power, for which no event is in the timeline:
// clients are told the state that counts now, in the old way and in the new.
func TestStateThatResolutionChangesIsTold(t *testing.T) {
	for _, after := range []string{"false", "true"} {
		t.Run("use_state_after="+after, func(t *testing.T) {
			network := homeservertest.NewNetwork(t)
			hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
			alice, mallory, bob := hs.User("alice"), rogue.UserID("mallory"), rogue.UserID("bob")
			room := rogue.CreateRoom("11", mallory)
			set := func(sender, eventType string, prev []string, content homeservertest.Fields) homeservertest.PDU {
				return room.Extend(homeservertest.Draft{
					Type: eventType, Sender: sender, StateKey: homeservertest.Key(""), Content: content, Prev: prev,
				})
			}
			power := func(level int, prev []string) homeservertest.PDU {
				users := map[string]any{mallory: 100, bob: level}
				return set(mallory, "m.room.power_levels", prev, homeservertest.Fields{"users": users})
			}
			room.Extend(homeservertest.Draft{
				Type: "m.room.member", Sender: bob, StateKey: &bob, Content: homeservertest.Fields{"membership": "join"},
			})
			power(50, nil)
			set(mallory, "m.room.topic", nil, homeservertest.Fields{"topic": "first"})
			alice.Do("POST", "/_matrix/client/v3/join/"+room.ID+"?via=rogue.test", map[string]any{}).WantOK()
			fork := room.Heads()

			sync := func(since string) *homeservertest.Sync {
				return alice.SyncWith(url.Values{"since": {since}, "use_state_after": {after}})
			}
			since := sync("").NextBatch
			second := set(bob, "m.room.topic", fork, homeservertest.Fields{"topic": "second"})
			rogue.Send(hs, []homeservertest.PDU{second}).WantOK()
			told := sync(since)
			require.Contains(t, told.Joined(room.ID).Raw, "second")

			rogue.Send(hs, []homeservertest.PDU{power(0, fork)}).WantOK()
			require.Equal(t, "first", alice.State(room.ID, "m.room.topic", "").WantOK().Get("topic").String())
			last := sync(told.NextBatch).Joined(room.ID)
			require.Equal(t, "first", topicOf(last), "%s", last.Raw)
			require.Contains(t, last.Get("timeline").Raw, "m.room.power_levels")
			require.NotContains(t, last.Get("timeline").Raw, "m.room.topic")

			// FP-10: what bob says on his branch is soft-failed, until another merges the branches and gives him his power back.
			since = alice.Sync("").NextBatch
			branch := room.Heads()
			third := set(bob, "m.room.topic", []string{second.ID}, homeservertest.Fields{"topic": "third"})
			rogue.Send(hs, []homeservertest.PDU{third}).WantOK()
			require.Empty(t, sync(since).Joined(room.ID).Raw, "soft-failed")
			restored := power(50, branch)
			merge := rogue.Text(mallory, "merged")
			merge.Prev = []string{third.ID, restored.ID}
			rogue.Send(hs, []homeservertest.PDU{restored, room.Extend(merge)}).WantOK()
			require.Equal(t, "third", alice.State(room.ID, "m.room.topic", "").WantOK().Get("topic").String())
			last = sync(since).Joined(room.ID)
			require.Equal(t, "third", topicOf(last), "%s", last.Raw)
			require.NotContains(t, last.Get("timeline").Raw, "m.room.topic")
		})
	}
}

// topicOf is the topic in what a sync tells of a room's state.
func topicOf(room gjson.Result) string {
	for _, list := range []string{"state", "state_after", `org\.matrix\.msc4222\.state_after`} {
		if topic := room.Get(fmt.Sprintf(`%s.events.#(type=="m.room.topic").content.topic`, list)); topic.Exists() {
			return topic.String()
		}
	}
	return ""
}
