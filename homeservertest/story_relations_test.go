package homeservertest_test

import (
	"net/url"

	"github.com/stretchr/testify/require"
)

// relate has bob react to alice, she corrects herself, and both talk in a thread.
func relate(alice, bob *person, here string) {
	v1 := "/_matrix/client/v1/rooms/" + url.PathEscape(here)
	say := func(p *person, txn, eventType string, content object) string {
		return p.put(room(here)+"/send/"+eventType+"/"+txn, content)["event_id"].(string)
	}
	root := say(alice, "root", "m.room.message", object{"msgtype": "m.text", "body": "teh"})
	say(alice, "edit", "m.room.message", object{
		"msgtype": "m.text", "body": "* the", "m.new_content": object{"msgtype": "m.text", "body": "the"},
		"m.relates_to": object{"rel_type": "m.replace", "event_id": root},
	})
	say(bob, "reaction", "m.reaction", object{"m.relates_to": object{"rel_type": "m.annotation", "event_id": root, "key": "👍"}})
	reply := say(bob, "reply", "m.room.message", object{
		"msgtype": "m.text", "body": "yes", "m.relates_to": object{"rel_type": "m.thread", "event_id": root},
	})
	say(alice, "reference", "org.example.poll", object{"m.relates_to": object{"rel_type": "m.reference", "event_id": reply}})
	relations := v1 + "/relations/" + url.PathEscape(root)
	require.Len(alice.t, alice.get(relations + "?limit=2")["chunk"], 2)
	alice.get(relations + "?recurse=true&dir=f")
	require.Len(alice.t, alice.get(relations + "/m.thread")["chunk"], 1)
	require.Len(alice.t, alice.get(relations + "/m.annotation/m.reaction")["chunk"], 1)
	threads := alice.get(v1 + "/threads?include=participated")["chunk"].([]any)
	require.Len(alice.t, threads, 1)
	bundled := threads[0].(object)["unsigned"].(object)["m.relations"].(object)
	require.EqualValues(alice.t, 1, bundled["m.thread"].(object)["count"])
	require.Contains(alice.t, bundled, "m.replace")
	bob.post(room(here)+"/receipt/m.read/"+url.PathEscape(reply), object{"thread_id": root})
}
