package homeservertest_test

import (
	"encoding/json"
	"fmt"
	"math"
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/postgres/postgrestest"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// with sets a field of an event before it is hashed and signed.
func with(d homeservertest.Draft, key string, value any) homeservertest.Draft {
	d.Before = func(f homeservertest.Fields) { f[key] = value }
	return d
}

// F-01: a depth that no event can have is dropped, and ours stay in range.
func TestF01Depth(t *testing.T) {
	s := besiege(t, "11")
	for _, depth := range []any{int64(math.MaxInt64), int64(1) << 53, -1, json.RawMessage(`1.0`), "1", nil} {
		s.drops(fmt.Sprint("depth ", depth), s.room.Build(with(s.text(), "depth", depth)))
	}
	after := s.alice.Send(s.id, "after it")
	s.told()
	p, known := s.room.Event(after)
	require.True(t, known)
	require.LessOrEqual(t, p.Get("depth").Int(), int64(event.MaxDepth))
}

// F-03: behind the largest depth there is room for more events, in their order.
func TestF03LargestDepth(t *testing.T) {
	s := besiege(t, "11")
	s.takes("the largest depth", s.room.Build(with(s.text(), "depth", int64(event.MaxDepth))))
	var sent []string
	for i := range 3 {
		sent = append(sent, s.alice.Send(s.id, fmt.Sprint("after ", i)))
	}
	require.Equal(t, []string{"good 1", "after 0", "after 1", "after 2"}, s.bodies())
	var told []string
	for _, p := range s.told() {
		require.LessOrEqual(t, p.Get("depth").Int(), int64(event.MaxDepth))
		told = append(told, p.Get("content.body").String())
	}
	require.Equal(t, []string{"after 0", "after 1", "after 2"}, told)
	for _, eventID := range sent {
		_, known := s.room.Event(eventID)
		require.True(t, known)
	}
}

// F-05: an event of 65,536 bytes is taken, one more is too many.
func TestF05Size(t *testing.T) {
	s := besiege(t, "11")
	padded := func(n int) homeservertest.PDU { return s.room.Build(s.rogue.Text(s.mal, strings.Repeat("x", n))) }
	room := event.MaxPDU - len(padded(0).JSON)
	large, larger := padded(room), padded(room+1)
	require.Len(t, large.JSON, 65536)
	require.Len(t, larger.JSON, 65537)
	s.drops("65,537 bytes", larger)
	s.takes("65,536 bytes", padded(room))
}

// F-07: numbers that are not in canonical JSON, signed as a server would that does not mind.
func TestF07Numbers(t *testing.T) {
	s := besiege(t, "11")
	number := func(n, canonical string) homeservertest.PDU {
		p := s.room.Build(homeservertest.Draft{Type: "m.room.message", Sender: s.mal, Content: json.RawMessage(`{"n":` + n + `}`)})
		return reworded(t, p, `"n":`+canonical, `"n":`+n)
	}
	for n, canonical := range map[string]string{
		"1.0": "1.0", "1e3": "1000", "-0": "0", "9007199254740992": "9007199254740992", "-9007199254740992": "-9007199254740992",
		"1.5": "1.5", "1E-3": "1E-3", "10000000000000000000000": "10000000000000000000000",
	} {
		s.drops(n, number(n, canonical))
	}
	for _, n := range []string{"NaN", "Infinity", "01", "0x1"} {
		bad := reworded(t, number("0", "0"), `"n":0`, `"n":`+n)
		answer := s.rogue.Send(s.hs, []homeservertest.PDU{bad, s.room.Build(s.text())})
		require.Contains(t, []int{400, 401}, answer.Status, "a transaction that is no JSON: %s", answer.Body)
		s.unseen(n, bad)
	}
	s.takes("the largest number", number("9007199254740991", "9007199254740991"))
}

// F-09: nesting costs neither the stack nor memory.
func TestF09Nesting(t *testing.T) {
	s := besiege(t, "11")
	nest := func(n int) string { return strings.Repeat("[", n) + strings.Repeat("]", n) }
	plain := func() homeservertest.PDU { return s.room.Build(s.rogue.Text(s.mal, "nested")) }
	s.alive(50, func() {
		s.drops("9,000 lists", reworded(t, plain(), `"nested"`, nest(9000)))
		s.drops("30,000 lists", reworded(t, plain(), `"nested"`, nest(30000)))
		s.drops("9,000 objects", reworded(t, plain(), `"nested"`, strings.Repeat(`{"a":`, 9000)+`1`+strings.Repeat(`}`, 9000)))
		s.drops("lists in unsigned", reworded(t, plain(), `"content":`, `"unsigned":`+nest(9000)+`,"content":`))
		open := reworded(t, plain(), `"nested"`, strings.Repeat("[", 60000))
		require.Contains(t, []int{400, 401}, s.rogue.Send(s.hs, []homeservertest.PDU{open}).Status)
		s.unseen("60,000 open lists", open)
	})
	s.takes("a message", s.room.Build(s.text()))
}

// engines are the storage engines that there are for tests.
func engines() map[string]func(testing.TB) storage.Engine {
	all := map[string]func(testing.TB) storage.Engine{"sqlite": func(testing.TB) storage.Engine { return sqlite.Memory() }}
	if postgrestest.Available() {
		all["postgres"] = postgrestest.New
	}
	return all
}

// F-10: text that is no UTF-8, that no database need bear, or that is half a letter: in every place of an event, with
// every engine, nothing that is asked later fails.
func TestF10OddText(t *testing.T) {
	for name, engine := range engines() {
		t.Run(name, func(t *testing.T) {
			s := besiege(t, "11", func(cfg *homeserver.Config) { cfg.Storage = engine(t) })
			s.levels(map[string]any{"state_default": 0, "events_default": 0}, nil)
			for _, odd := range []string{"\xff", "\xc0\x80", "\xed\xa0\x80", `\ud800`, `\udc00\ud800`, `\u0000`, `\u202e`, `\\u0000`, `\ud83d\ude00`} {
				for place, d := range s.places() {
					p := reworded(t, s.room.Build(d), "ODD", odd)
					if utf8.ValidString(odd) && !strings.HasPrefix(odd, `\ud800`) && !strings.HasPrefix(odd, `\udc`) {
						p = s.rogue.Sign("11", decoded(t, p), nil) // what can be read is signed as it is
					}
					answer := s.rogue.Send(s.hs, []homeservertest.PDU{p}).WantOK()
					if answer.Get("pdus").Map()[p.ID].Raw == `{}` {
						s.room.Add(p)
					}
					for path, page := range s.pages() {
						require.Equal(t, 200, page.Status, "%q in %s: %s", odd, place, path)
						require.True(t, gjson.ValidBytes(page.Body), "%q in %s: %s", odd, place, path)
					}
				}
			}
			s.takes("a message", s.room.Build(s.text()))
		})
	}
}

// places are events of mal with ODD in different places.
func (s *siege) places() map[string]homeservertest.Draft {
	type fields = homeservertest.Fields
	return map[string]homeservertest.Draft{
		"a body":         s.rogue.Text(s.mal, "ODD"),
		"a key":          {Type: "m.room.message", Sender: s.mal, Content: fields{"ODD": 1}},
		"a type":         {Type: "xODD", Sender: s.mal},
		"a display name": stateful(s.mal, "m.room.member", s.mal, fields{"membership": "join", "displayname": "ODD"}),
		"a topic":        stateful(s.mal, "m.room.topic", "", fields{"topic": "ODD"}),
		"a state key":    stateful(s.mal, "x", "ODD", nil),
		"unsigned":       {Type: "x", Sender: s.mal, After: func(f fields) { f["unsigned"] = fields{"ODD": "ODD"} }},
	}
}

// F-11: prev_events of the wrong form or number are dropped, and nobody is asked for any of them.
func TestF11PrevEvents(t *testing.T) {
	s := besiege(t, "11")
	ids := func(n int) (list []string) {
		for i := range n {
			list = append(list, fmt.Sprintf("$%043d", i))
		}
		return list
	}
	head := s.room.Heads()[0]
	s.alive(50, func() {
		for name, prev := range map[string]any{
			"a string": head, "an object": map[string]any{head: 1}, "pairs": []any{[]any{head, map[string]string{"sha256": "x"}}},
			"integers": []int{1, 2}, "none": []string{}, "21": ids(21), "10,000": make([]string, 10000), "null": nil, "nulls": []any{nil},
			"800 that look right": ids(800), "what is no id": []string{"x"}, "ids of rooms": []string{s.id},
		} {
			s.drops(name, s.room.Build(with(s.text(), "prev_events", prev)))
		}
	})
	require.Empty(t, s.questions())
}

// questions are what the rogue was asked about rooms.
func (s *siege) questions() (asked []string) {
	for _, prefix := range []string{"get_missing_events", "event/", "state", "event_auth", "backfill"} {
		for _, a := range s.rogue.Asked("/_matrix/federation/v1/" + prefix) {
			asked = append(asked, a.Path)
		}
	}
	return asked
}

// F-15: of an event whose content was changed after it was signed only the redacted form counts.
func TestF15ChangedContent(t *testing.T) {
	s := besiege(t, "11")
	for name, d := range map[string]homeservertest.Draft{
		"message": s.rogue.Text(s.mal, "original"),
		"member":  stateful(s.mal, "m.room.member", s.mal, homeservertest.Fields{"membership": "join", "displayname": "original"}),
	} {
		p := reworded(t, s.room.Build(d), `"original"`, `"altered"`)
		s.takes(name, p)
		seen := s.read("event", p.ID).WantOK()
		require.NotContains(t, string(seen.Body), "original")
		told := s.rogue.Do(s.hs, "GET", "/_matrix/federation/v1/event/"+p.ID, nil).WantOK()
		require.NotContains(t, string(told.Body), "altered")
		for path, page := range s.pages() {
			require.NotContains(t, string(page.Body), "altered", path)
		}
	}
	require.Equal(t, "join", s.alice.State(s.id, "m.room.member", s.mal).WantOK().Get("membership").String())
}

// signedWith replaces the signatures of an event by what change makes of the right one.
func signedWith(d homeservertest.Draft, change func(signature string) any) homeservertest.Draft {
	d.After = func(f homeservertest.Fields) {
		right := gjson.GetBytes(f["signatures"].(json.RawMessage), `rogue\.test.ed25519:rogue`).String()
		f["signatures"] = change(right)
	}
	return d
}

// F-16, F-17: an event counts that its sender's server has signed with a key that it has; padding does not matter.
func TestF16Signatures(t *testing.T) {
	s := besiege(t, "11")
	other := s.network.Rogue("other.test")
	by := func(server, keyID string, signature any) any {
		return map[string]any{server: map[string]any{keyID: signature}}
	}
	const mine, key = "rogue.test", "ed25519:rogue"
	flipped := func(signature string) string {
		if signature[0] == 'A' {
			return "B" + signature[1:]
		}
		return "A" + signature[1:]
	}
	for name, change := range map[string]func(signature string) any{
		"none":                       func(string) any { return map[string]any{} },
		"no list of keys":            func(string) any { return map[string]any{mine: 1} },
		"no signature":               func(string) any { return by(mine, key, 1) },
		"of nothing":                 func(string) any { return by(mine, key, "") },
		"another key id":             func(right string) any { return by(mine, "ed25519:other", right) },
		"a key that it has not":      func(right string) any { return by(mine, "ed25519:x", right) },
		"an algorithm nobody knows":  func(right string) any { return by(mine, "rsa:1", right) },
		"a key without a version":    func(right string) any { return by(mine, "ed25519", right) },
		"the name of another server": func(right string) any { return by("other.test", key, right) },
		"one bit flipped":            func(right string) any { return by(mine, key, flipped(right)) },
		"a space inside":             func(right string) any { return by(mine, key, right[:10]+" "+right[10:]) },
		"a line break inside":        func(right string) any { return by(mine, key, right[:10]+"\n"+right[10:]) },
		"one letter less":            func(right string) any { return by(mine, key, right[:85]) },
		"twice the signature":        func(right string) any { return by(mine, key, right+right) },
		"padding inside":             func(right string) any { return by(mine, key, right[:40]+"=="+right[40:]) },
	} {
		s.drops(name, s.room.Build(signedWith(s.text(), change)))
	}
	foreign := other.Sign("11", decoded(t, s.room.Build(s.text())), nil)
	s.drops("signed by another server", foreign)
	s.takes("with padding", s.room.Build(signedWith(s.text(), func(right string) any { return by(mine, key, right+"==") })))
	s.takes("beside an unknown algorithm", s.room.Build(signedWith(s.text(), func(right string) any {
		return map[string]any{mine: map[string]any{key: right, "rsa:1": "x", "ed25519:x": right}}
	})))
}

// F-27: events in the format of another room version.
func TestF27FormatOfAnotherVersion(t *testing.T) {
	for _, versions := range [][2]string{{"11", "12"}, {"12", "11"}, {"11", "1"}, {"2", "11"}} {
		t.Run(versions[0]+" as "+versions[1], func(t *testing.T) {
			s := besiege(t, versions[0])
			fields := decoded(t, s.room.Build(s.text()))
			create := decoded(t, s.room.Build(stateful(s.mal, "m.room.create", "", map[string]any{"room_version": versions[1]})))
			switch versions[1] {
			case "12":
				delete(create, "room_id")
				fields["auth_events"] = fields["auth_events"].([]any)[1:]
			case "11":
				fields["auth_events"] = append([]any{"$" + strings.Repeat("x", 43)}, fields["auth_events"].([]any)...)
				delete(fields, "event_id")
			case "1":
				fields["event_id"], create["event_id"] = "$x:rogue.test", "$y:rogue.test"
				fields["prev_events"] = []any{[]any{"$x:rogue.test", map[string]any{"sha256": "x"}}}
			}
			s.drops("a message", s.rogue.Sign(versions[1], fields, nil))
			s.drops("a create", s.rogue.Sign(versions[1], create, nil))
		})
	}
}

// F-27: rooms whose create event says another version than make_join, or none that is known.
func TestF27VersionsOfRooms(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	hs, rogue := network.New("hs.test"), network.Rogue("rogue.test")
	alice, creator := hs.User("alice"), rogue.UserID("creator")
	joinOne := func(version any) *homeservertest.Response {
		room := rogue.Found("11", creator, map[string]any{"room_version": version}, nil)
		room.Populate(creator)
		return alice.Do("POST", v3+"/join/"+room.ID+"?server_name=rogue.test", map[string]any{})
	}
	for _, version := range []any{"99", 12, 11, "", nil, "1", []string{"11"}, "11 "} {
		answer := joinOne(version)
		require.NotEqual(t, 200, answer.Status, "a create event with room_version %v: %s", version, answer.Body)
		require.Empty(t, alice.Sync("").Get("rooms.join").Map())
	}
	for _, version := range []any{"99", 12, "", "0"} {
		room := rogue.CreateRoom("11", creator)
		answerMake(rogue, func(made homeservertest.Fields) { made["room_version"] = version })
		answer := alice.Do("POST", v3+"/join/"+room.ID+"?server_name=rogue.test", map[string]any{})
		require.NotEqual(t, 200, answer.Status, "make_join with room_version %v: %s", version, answer.Body)
		if version == "99" {
			answer.WantError(400, "M_INCOMPATIBLE_ROOM_VERSION")
		}
		rogue.Handle(nil)
		require.Empty(t, rogue.Asked("/_matrix/federation/v2/send_join/"+url.PathEscape(room.ID)), "%v", version)
	}
	joinOne("11").WantOK()
}
