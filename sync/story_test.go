package syncing_test

import (
	"net/url"
	"slices"
	"testing"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// Test servers and their answers, read in the words of these tests.

const (
	public  = homeservertest.Public
	private = homeservertest.Private
)

type object = map[string]any

// people starts a server with users of these names.
func people(t testing.TB, names ...string) []*homeservertest.User {
	t.Helper()
	hs := homeservertest.New(t)
	users := make([]*homeservertest.User, len(names))
	for i, name := range names {
		users[i] = hs.User(name)
	}
	return users
}

func two(t testing.TB) (alice, bob *homeservertest.User) {
	t.Helper()
	p := people(t, "alice", "bob")
	return p[0], p[1]
}

// ask syncs with pairs of parameters and values.
func ask(u *homeservertest.User, pairs ...string) *homeservertest.Sync {
	query := url.Values{}
	for i := 0; i < len(pairs); i += 2 {
		query.Set(pairs[i], pairs[i+1])
	}
	return u.SyncWith(query)
}

// texts are the bodies of the messages in a timeline.
func texts(room gjson.Result) []string {
	var list []string
	for _, e := range room.Get("timeline.events").Array() {
		if e.Get("type").Str == "m.room.message" {
			list = append(list, e.Get("content.body").Str)
		}
	}
	return list
}

// keys are the types and state keys of the state events in a list, as "type/key", sorted.
func keys(events gjson.Result) []string {
	list := []string{}
	for _, e := range events.Array() {
		if e.Get("state_key").Exists() {
			list = append(list, e.Get("type").Str+"/"+e.Get("state_key").Str)
		}
	}
	slices.Sort(list)
	return list
}

// membersIn are the members of whom a list has the member event, with their memberships.
func membersIn(events gjson.Result) map[string]string {
	list := map[string]string{}
	for _, e := range events.Array() {
		if e.Get("type").Str == "m.room.member" {
			list[e.Get("state_key").Str] = e.Get("content.membership").Str
		}
	}
	return list
}

// state finds the last state event of a kind in a list.
func state(events gjson.Result, eventType, stateKey string) (last gjson.Result) {
	for _, e := range events.Array() {
		if e.Get("type").Str == eventType && e.Get("state_key").Exists() && e.Get("state_key").Str == stateKey {
			last = e
		}
	}
	return last
}

// send sends messages and returns their texts.
func send(u *homeservertest.User, room string, texts ...string) {
	for _, text := range texts {
		u.Send(room, text)
	}
}

func name(u *homeservertest.User, room, name string) {
	u.SetState(room, "m.room.name", "", object{"name": name}).WantOK()
}

// setData sets global account data.
func setData(u *homeservertest.User, typ string, content any) {
	u.Do("PUT", dataPath(u, "", typ), content).WantOK()
}

func dataPath(u *homeservertest.User, room, typ string) string {
	p := "/_matrix/client/v3/user/" + url.PathEscape(u.ID)
	if room != "" {
		p += "/rooms/" + url.PathEscape(room)
	}
	return p + "/account_data/" + url.PathEscape(typ)
}
