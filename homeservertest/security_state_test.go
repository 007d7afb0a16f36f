package homeservertest_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// F-28: what a user without power tries, and one who is not in the room at all.
func TestF28NoPower(t *testing.T) {
	for _, version := range []string{"1", "11", "12"} {
		t.Run(version, func(t *testing.T) {
			s := besiege(t, version)
			bob := s.hs.User("bob")
			bob.MustJoin(s.id)
			settle(t, s.network)
			before := s.state()
			outsider := s.rogue.UserID("outsider")
			for name, d := range map[string]homeservertest.Draft{
				"takes power":        stateful(s.mal, "m.room.power_levels", "", map[string]any{"users": map[string]int{s.mal: 100}}),
				"a name":             stateful(s.mal, "m.room.name", "", map[string]any{"name": "mine"}),
				"kicks alice":        member(s.mal, s.alice.ID, "leave"),
				"bans alice":         member(s.mal, s.alice.ID, "ban"),
				"bans bob":           member(s.mal, bob.ID, "ban"),
				"unbans":             member(s.mal, outsider, "leave"),
				"joins another":      member(s.mal, outsider, "join"),
				"join rules":         stateful(s.mal, "m.room.join_rules", "", map[string]any{"join_rule": "invite"}),
				"visibility":         stateful(s.mal, "m.room.history_visibility", "", map[string]any{"history_visibility": "world_readable"}),
				"access":             stateful(s.mal, "m.room.server_acl", "", map[string]any{"allow": []string{"rogue.test"}}),
				"a tombstone":        stateful(s.mal, "m.room.tombstone", "", map[string]any{"replacement_room": "!x:rogue.test"}),
				"somebody's own key": stateful(s.mal, "m.x", s.alice.ID, nil),
				"an outsider":        s.rogue.Text(outsider, "let me in"),
				"as alice":           s.rogue.Text(s.alice.ID, "I am alice"),
				"alice's name":       stateful(s.alice.ID, "m.room.name", "", map[string]any{"name": "mine"}),
			} {
				s.drops(name, s.room.Build(d))
				require.Equal(t, before, s.state(), name)
			}
		})
	}
}

// F-30: auth events of another room, in which mal has all the power.
func TestF30AuthEventsOfAnotherRoom(t *testing.T) {
	s := besiege(t, "11")
	first := s.id
	s.enter(s.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_version": "11"}))
	s.levels(nil, map[string]int{s.mal: 100})
	var foreign []string
	for _, key := range [][2]string{{"m.room.create", ""}, {"m.room.power_levels", ""}, {"m.room.member", s.mal}} {
		p, known := s.room.State(key[0], key[1])
		require.True(t, known)
		foreign = append(foreign, p.ID)
	}
	s.id, s.room = first, s.rogue.Room(first)
	own := func(eventType, key string) string {
		p, known := s.room.State(eventType, key)
		require.True(t, known)
		return p.ID
	}
	before := s.state()
	for name, auth := range map[string][]string{
		"all of them": foreign, "the power": {own("m.room.create", ""), foreign[1], own("m.room.member", s.mal)},
		"beside the right ones": {own("m.room.create", ""), own("m.room.power_levels", ""), own("m.room.member", s.mal), foreign[1]},
		"the create event":      {foreign[0], own("m.room.power_levels", ""), own("m.room.member", s.mal)},
	} {
		d := stateful(s.mal, "m.room.topic", "", map[string]any{"topic": "mine"})
		d.Auth = auth
		s.drops(name, s.room.Build(d))
		require.Equal(t, before, s.state(), name)
		d = s.text()
		d.Auth = auth
		s.drops(name+", a message", s.room.Build(d))
	}
}

// F-32: what version 12 says of create events and creators.
func TestF32CreatorsOfVersion12(t *testing.T) {
	s := besiege(t, "12")
	s.levels(nil, map[string]int{s.mal: 100})
	levels := func(users map[string]any) homeservertest.PDU {
		return s.room.Build(stateful(s.mal, "m.room.power_levels", "", map[string]any{"users": users}))
	}
	s.drops("power levels that name the creator", levels(map[string]any{s.mal: 100, s.alice.ID: 100}))
	s.drops("power levels below the creator", levels(map[string]any{s.mal: 100, s.alice.ID: 0}))
	d := s.text()
	d.Auth = []string{"$" + s.id[1:]}
	for _, key := range [][2]string{{"m.room.power_levels", ""}, {"m.room.member", s.mal}} {
		p, known := s.room.State(key[0], key[1])
		require.True(t, known)
		d.Auth = append(d.Auth, p.ID)
	}
	s.drops("the create event among the auth events", s.room.Build(d))
	s.drops("a second create event", s.room.Build(stateful(s.mal, "m.room.create", "", map[string]any{"room_version": "12"})))
	s.drops("a kick of the creator", s.room.Build(member(s.mal, s.alice.ID, "leave")))
	for name, content := range map[string]string{
		"a number": `[1]`, "no user id": `["x"]`, "a string": `"@a:hs.test"`, "an object": `{}`, "null inside": `[null]`, "no server": `["@a"]`,
	} {
		answer := s.alice.Do("POST", v3+"/createRoom", []byte(`{"room_version":"12","creation_content":{"additional_creators":`+content+`}}`))
		require.Equal(t, 400, answer.Status, "%s: %s", name, answer.Body)
	}
	named := s.alice.Do("POST", v3+"/createRoom", map[string]any{
		"room_version": "12", "power_level_content_override": map[string]any{"users": map[string]int{s.alice.ID: 100}},
	})
	require.Equal(t, 400, named.Status, "%s", named.Body)
	creator := s.rogue.UserID("creator")
	for name, found := range map[string]func(f homeservertest.Fields){
		"with a room id":           func(f homeservertest.Fields) { f["room_id"] = "!x:rogue.test" },
		"with creators that are 1": func(f homeservertest.Fields) { f["content"] = creators(1) },
		"with creators that are x": func(f homeservertest.Fields) { f["content"] = creators("x") },
		"with prev_events":         func(f homeservertest.Fields) { f["prev_events"] = []string{"$" + strings.Repeat("x", 43)} },
		"with creators not in a list": func(f homeservertest.Fields) {
			f["content"] = map[string]any{"room_version": "12", "additional_creators": creator}
		},
	} {
		room := s.rogue.Found("12", creator, map[string]any{"room_version": "12"}, found)
		room.Populate(creator)
		answer := s.alice.Do("POST", v3+"/join/"+room.ID+"?server_name=rogue.test", map[string]any{})
		require.NotEqual(t, 200, answer.Status, "a create event %s: %s", name, answer.Body)
		require.Len(t, s.alice.Sync("").Get("rooms.join").Map(), 1, name)
	}
	good := s.rogue.Found("12", creator, creators(s.mal), nil)
	good.Populate(creator)
	s.alice.Do("POST", v3+"/join/"+good.ID+"?server_name=rogue.test", map[string]any{}).WantOK()
}

func creators(more ...any) map[string]any {
	return map[string]any{"room_version": "12", "additional_creators": more}
}

// F-35: three forks whose users change each other's power, ban each other and write topics at the same time, merged:
// the state is that of a naive reading of the specification.
func TestF35ForksMerge(t *testing.T) {
	for seed := range uint64(forks) {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) { mergeForks(t, seed) })
	}
}

func mergeForks(t *testing.T, seed uint64) {
	version := []string{"1", "2", "6", "10", "11", "12"}[seed%6]
	dice := rand.New(rand.NewPCG(seed, 35))
	network := homeservertest.NewNetwork(t)
	hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
	alice, root := hs.User("alice"), rogue.UserID("root")
	room := rogue.CreateRoom(version, root)
	s := &siege{t: t, network: network, hs: hs, rogue: rogue, alice: alice, mal: root, id: room.ID, room: room}
	users := []string{rogue.UserID("a"), rogue.UserID("b"), rogue.UserID("c"), rogue.UserID("d")}
	for _, user := range users {
		room.Extend(member(user, user, "join"))
	}
	room.Extend(stateful(root, "m.room.power_levels", "", powerOf(version, root, map[string]any{users[0]: 75, users[1]: 60, users[2]: 60, users[3]: 50})))
	alice.Do("POST", v3+"/join/"+url.PathEscape(room.ID)+"?server_name=rogue.test", map[string]any{}).WantOK()
	base, at := room.Heads(), time.Now()
	var heads []string
	var forks []homeservertest.PDU
	for range 3 {
		prev := base
		for range 2 + dice.IntN(6) {
			d := contention(dice, version, root, users)
			d.Prev, d.At = prev, at.Add(time.Duration(dice.IntN(1000))*time.Millisecond)
			p := room.Extend(d)
			forks, prev = append(forks, p), []string{p.ID}
		}
		heads = append(heads, prev[0])
	}
	dice.Shuffle(len(forks), func(i, j int) { forks[i], forks[j] = forks[j], forks[i] })
	rogue.Send(hs, forks[:len(forks)/2]).WantOK()
	rogue.Send(hs, forks[len(forks)/2:]).WantOK()
	want := naiveState(t, room)
	merge := rogue.Text(root, "merged")
	merge.Prev, merge.Auth = heads, authFrom(version, want, root)
	s.takes("the merge", room.Extend(merge))
	require.Equal(t, want, s.state(), "in version %s", version)
}

// authFrom are the auth events of a message that a user sends in a state.
func authFrom(version string, state map[string]string, user string) (ids []string) {
	for _, key := range []string{"m.room.create ", "m.room.power_levels ", "m.room.member " + user} {
		if version != "12" || key != "m.room.create " {
			ids = append(ids, state[key])
		}
	}
	return ids
}

// powerOf is the content of m.room.power_levels.
func powerOf(version, root string, users map[string]any) map[string]any {
	if version != "12" {
		users[root] = 100
	}
	return map[string]any{"users": users}
}

// contention is something that some user does to the state, mostly allowed.
func contention(dice *rand.Rand, version, root string, users []string) homeservertest.Draft {
	sender, target := append(users, root)[dice.IntN(5)], users[dice.IntN(4)]
	switch dice.IntN(6) {
	case 0:
		return member(sender, target, "ban")
	case 1:
		return member(sender, target, "leave")
	case 2:
		levels := map[string]any{}
		for i, user := range users {
			levels[user] = []int{75, 60, 60, 50}[i]
		}
		levels[target] = dice.IntN(60)
		return stateful(sender, "m.room.power_levels", "", powerOf(version, root, levels))
	case 3:
		return stateful(sender, "m.room.join_rules", "", map[string]any{"join_rule": []string{"invite", "public"}[dice.IntN(2)]})
	case 4:
		return member(sender, sender, "join")
	}
	return stateful(sender, "m.room.topic", "", map[string]any{"topic": fmt.Sprint(sender, dice.IntN(1000))})
}

// F-37: redactions that do not apply change nothing, however they refer to each other.
func TestF37Redactions(t *testing.T) {
	for _, version := range []string{"1", "10", "11"} {
		t.Run(version, func(t *testing.T) {
			s := besiege(t, version)
			other := s.hs.User("bob").CreateRoomWith(map[string]any{"preset": "public_chat", "room_version": version})
			elsewhere := s.rogue.Join(s.hs, other, s.rogue.UserID("eve"))
			foreign := elsewhere.Send(s.hs, s.rogue.Text(s.rogue.UserID("eve"), "elsewhere"))
			target := s.alice.Send(s.id, "stays")
			settle(t, s.network)
			create, _ := s.room.State("m.room.create", "")
			redaction := func(target string) homeservertest.PDU {
				d := homeservertest.Draft{Type: "m.room.redaction", Sender: s.mal, Content: map[string]any{"redacts": target}}
				if version != "11" {
					d = with(homeservertest.Draft{Type: "m.room.redaction", Sender: s.mal}, "redacts", target)
				}
				return s.room.Build(d)
			}
			began := time.Now()
			loop := redaction("$loop:rogue.test")
			for _, p := range []homeservertest.PDU{redaction(target), redaction(create.ID), redaction(foreign.ID), loop, redaction(loop.ID), redaction("x"), redaction("")} {
				s.rogue.Send(s.hs, []homeservertest.PDU{p}).WantOK()
			}
			if version == "1" { // in which an event may have any id
				fields := decoded(t, redaction(loop.ID))
				fields["event_id"] = "$loop:rogue.test"
				s.rogue.Send(s.hs, []homeservertest.PDU{s.rogue.Sign(version, fields, nil)}).WantOK()
			}
			require.Less(t, time.Since(began), 2*time.Second)
			require.Equal(t, "stays", s.read("event", target).WantOK().Get("content.body").String())
			require.NotContains(t, string(s.read("event", create.ID).WantOK().Body), "redacted_because")
			told := s.rogue.Do(s.hs, "GET", "/_matrix/federation/v1/event/"+url.PathEscape(foreign.ID), nil).WantOK()
			require.Equal(t, "elsewhere", told.Get("pdus.0.content.body").String())
			s.takes("a message", s.room.Build(s.text()))
			s.pages()
		})
	}
}

// F-39: an auth chain of thousands of events, and forks at its ends.
func TestF39AuthChain(t *testing.T) {
	dir := t.TempDir()
	s := besiege(t, "11", func(cfg *homeserver.Config) {
		engine, err := sqlite.Open(filepath.Join(dir, "db"))
		require.NoError(t, err)
		cfg.Storage = engine
	})
	s.levels(nil, map[string]int{s.mal: 100})
	events, before := s.powerChain(chain), size(t, dir)
	began := time.Now()
	s.alive(200, func() {
		for transaction := range slices.Chunk(events, 50) {
			answer := s.rogue.Send(s.hs, transaction).WantOK()
			require.NotContains(t, string(answer.Body), "error")
		}
		for _, prev := range []string{events[0].ID, events[chain/2].ID} {
			d := s.text()
			d.Prev = []string{prev}
			d.Auth = s.authOf(prev)
			s.rogue.Send(s.hs, []homeservertest.PDU{s.room.Build(d)}).WantOK()
		}
		s.alice.Send(s.id, "after all of it")
	})
	require.Less(t, time.Since(began), time.Minute)
	require.Less(t, size(t, dir)-before, int64(50<<20))
	require.Equal(t, events[chain-1].ID, s.state()["m.room.power_levels "])
}

// powerChain are power levels events of mal, each of which is allowed by the one before.
func (s *siege) powerChain(n int) []homeservertest.PDU {
	auth := s.authOf("")
	prev, events := s.room.Heads(), make([]homeservertest.PDU, 0, n)
	for i := range n {
		d := stateful(s.mal, "m.room.power_levels", "", map[string]any{
			"users": map[string]int{s.alice.ID: 100, s.mal: 100}, "events": map[string]int{"x": i % 100},
		})
		d.Prev, d.Auth = prev, auth
		p := s.room.Build(with(d, "depth", i+20))
		events = append(events, p)
		prev, auth[1] = []string{p.ID}, p.ID
	}
	return events
}

// authOf are the auth events of an event of mal under the power levels with an id, or the current ones.
func (s *siege) authOf(levels string) []string {
	var ids []string
	for _, key := range [][2]string{{"m.room.create", ""}, {"m.room.power_levels", ""}, {"m.room.member", s.mal}} {
		p, known := s.room.State(key[0], key[1])
		require.True(s.t, known, key[0])
		ids = append(ids, p.ID)
	}
	if levels != "" {
		ids[1] = levels
	}
	return ids
}

// size is how many bytes the files of a directory have.
func size(t *testing.T, dir string) (total int64) {
	t.Helper()
	files, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, f := range files {
		info, err := f.Info()
		require.NoError(t, err)
		total += info.Size()
	}
	return total
}

// F-41: hundreds of events that all follow the same one leave a room in which events can be sent.
func TestF41Fan(t *testing.T) {
	s := besiege(t, "11")
	base := s.room.Heads()
	for range 6 {
		var fan []homeservertest.PDU
		for range 50 {
			d := s.text()
			d.Prev = base
			fan = append(fan, s.room.Build(d))
		}
		require.NotContains(t, string(s.rogue.Send(s.hs, fan).WantOK().Body), "error")
	}
	began := time.Now()
	after := s.alice.Send(s.id, "after all of them")
	require.Less(t, time.Since(began), time.Second)
	s.told()
	p, known := s.room.Event(after)
	require.True(t, known)
	require.LessOrEqual(t, len(p.Get("prev_events").Array()), 20)
	require.Len(t, s.bodies(), 301)
}

// F-43: rooms that do not federate let nobody in from elsewhere, and nobody goes there.
func TestF43RoomsThatDoNotFederate(t *testing.T) {
	s := besiege(t, "11")
	closed := s.alice.CreateRoomWith(map[string]any{"preset": "public_chat", "room_version": "11", "creation_content": map[string]any{"m.federate": false}})
	s.rogue.Do(s.hs, "GET", "/_matrix/federation/v1/make_join/"+closed+"/"+s.mal+"?ver=11", nil).WantError(403, "M_FORBIDDEN")
	join := decoded(t, s.room.Build(member(s.mal, s.mal, "join")))
	join["room_id"] = closed
	var ids []string
	for _, e := range s.alice.Do("GET", v3+"/rooms/"+closed+"/state", nil).WantOK().Get("@this").Array() {
		switch e.Get("type").String() {
		case "m.room.create", "m.room.power_levels", "m.room.join_rules":
			ids = append(ids, e.Get("event_id").String())
		}
	}
	join["auth_events"], join["prev_events"] = ids, ids[:1]
	p := s.rogue.Sign("11", join, nil)
	for _, version := range []string{"v1", "v2"} {
		path := "/_matrix/federation/" + version + "/send_join/" + closed + "/" + p.ID
		s.rogue.Do(s.hs, "PUT", path, p.JSON).WantError(403, "M_FORBIDDEN")
	}
	s.rogue.Send(s.hs, []homeservertest.PDU{p}).WantOK()
	require.NotContains(t, string(s.alice.Do("GET", v3+"/rooms/"+closed+"/members", nil).WantOK().Body), s.mal)
	s.alice.Do("POST", v3+"/rooms/"+closed+"/invite", map[string]any{"user_id": s.mal}).WantError(403, "M_FORBIDDEN")
	require.Empty(t, s.rogue.Asked("/_matrix/federation/v2/invite"))

	creator := s.rogue.UserID("creator")
	theirs := s.rogue.Found("11", creator, map[string]any{"room_version": "11", "m.federate": false}, nil)
	theirs.Populate(creator)
	refused := s.alice.Do("POST", v3+"/join/"+theirs.ID+"?server_name=rogue.test", map[string]any{})
	require.NotEqual(t, 200, refused.Status, "%s", refused.Body)
	require.Len(t, s.alice.Sync("").Get("rooms.join").Map(), 2)
	invite := theirs.Build(member(creator, s.alice.ID, "invite"))
	create, _ := theirs.State("m.room.create", "")
	body := map[string]any{"room_version": "11", "event": json.RawMessage(invite.JSON), "invite_room_state": []any{json.RawMessage(create.JSON)}}
	s.rogue.Do(s.hs, "PUT", "/_matrix/federation/v2/invite/"+theirs.ID+"/"+invite.ID, body)
	s.alice.Join(theirs.ID)
	require.Len(t, s.alice.Sync("").Get("rooms.join").Map(), 2, "an invite changes nothing of it")
}
