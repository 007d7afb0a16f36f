package homeservertest_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// histories are how bob stands to the room when something is said there, and still when he asks.
func histories() map[string]func(alice, bob *homeservertest.User, room string) {
	return map[string]func(alice, bob *homeservertest.User, room string){
		"never":   func(_, _ *homeservertest.User, _ string) {},
		"invited": func(alice, bob *homeservertest.User, room string) { alice.MustInvite(room, bob) },
		"joined": func(alice, bob *homeservertest.User, room string) {
			alice.MustInvite(room, bob)
			bob.MustJoin(room)
		},
		"left": func(alice, bob *homeservertest.User, room string) {
			alice.MustInvite(room, bob)
			bob.MustJoin(room)
			bob.MustLeave(room)
		},
		"banned": func(alice, bob *homeservertest.User, room string) {
			alice.MustInvite(room, bob)
			bob.MustJoin(room)
			alice.MustBan(room, bob)
		},
	}
}

// said is what was said in a room, of which an endpoint tells or not.
type said struct {
	room, event, reply, carol string
	ts                        int64
}

// tells asks every endpoint as somebody, and returns those that tell of what was said.
func (s *said) tells(t *testing.T, who *homeservertest.User) (names []string) {
	t.Helper()
	v1, at := "/_matrix/client/v1/rooms/"+url.PathEscape(s.room), v3+"/rooms/"+url.PathEscape(s.room)
	event := url.PathEscape(s.event)
	filter := url.QueryEscape(`{"room":{"include_leave":true,"timeline":{"limit":1000}}}`)
	for _, read := range []struct{ name, path, sign string }{
		{"sync", v3 + "/sync?filter=" + filter, s.event},
		{"messages", at + "/messages?dir=b&limit=1000", s.event},
		{"context", at + "/context/" + event, s.event},
		{"event", at + "/event/" + event, s.event},
		{"state", at + "/state", `"org.example.secret"`},
		{"state/type", at + "/state/org.example.secret", "SECRET"},
		{"members", at + "/members", s.carol},
		{"joined_members", at + "/joined_members", s.carol},
		{"relations", v1 + "/relations/" + event, s.reply},
		{"threads", v1 + "/threads", s.event},
		{"timestamp_to_event", fmt.Sprintf("%s/timestamp_to_event?dir=f&ts=%d", v1, s.ts), s.event},
		{"hierarchy", v1 + "/hierarchy", s.room},
		{"summary", "/_matrix/client/v1/room_summary/" + url.PathEscape(s.room), s.room},
		{"initialSync", at + "/initialSync?limit=1000", s.event},
	} {
		r := who.Do("GET", read.path, nil)
		require.Less(t, r.Status, 500, "%s: %s", read.path, r.Body)
		if r.Status == 200 && strings.Contains(string(r.Body), read.sign) {
			names = append(names, read.name)
		}
	}
	found := who.Do("POST", v3+"/search", object{"search_categories": object{"room_events": object{"search_term": "SECRET"}}}).WantOK()
	if strings.Contains(string(found.Body), s.event) {
		names = append(names, "search")
	}
	return names
}

// tables are who reads what was said, by endpoint and history visibility: those who were never in the room, are invited,
// have joined, have left, are banned. "-" is nobody.
const tables = `
	endpoint            world_readable  shared  invited  joined
	sync                j               j       j        j
	messages            nijlb           j       j        j
	context             nijlb           j       j        j
	event               nijlb           j       ij       j
	state               nijlb           j       j        j
	state/type          nijlb           j       j        j
	members             nijlb           j       j        j
	joined_members      j               j       j        j
	relations           nijlb           j       j        j
	threads             nijlb           j       j        j
	search              jlb             j       j        j
	timestamp_to_event  nijlb           j       j        j
	hierarchy           nijlb           ij      ij       ij
	summary             nijlb           ij      ij       ij
	initialSync         nij             j       j        j
`

// readers are the endpoints that tell somebody, by visibility and membership.
func readers() map[string][]string {
	lines := strings.Split(strings.TrimSpace(tables), "\n")
	visibilities, told := strings.Fields(lines[0])[1:], map[string][]string{}
	for _, line := range lines[1:] {
		cells := strings.Fields(line)
		for i, cell := range cells[1:] {
			for _, membership := range []string{"never", "invited", "joined", "left", "banned"} {
				if strings.Contains(cell, membership[:1]) {
					told[visibilities[i]+" "+membership] = append(told[visibilities[i]+" "+membership], cells[0])
				}
			}
		}
	}
	return told
}

// speak has alice say something in a room, in every way that an endpoint tells of.
func speak(t *testing.T, room string, alice, carol *homeservertest.User) *said {
	t.Helper()
	s := &said{room: room, carol: carol.ID}
	alice.MustInvite(room, carol)
	carol.MustJoin(room)
	alice.SetState(room, "org.example.secret", "", object{"x": "SECRET"}).WantOK()
	time.Sleep(2 * time.Millisecond) // the event has its millisecond for itself
	s.event = alice.Send(room, "SECRET")
	time.Sleep(2 * time.Millisecond)
	s.ts = alice.Do("GET", v3+"/rooms/"+url.PathEscape(room)+"/event/"+url.PathEscape(s.event), nil).WantOK().Get("origin_server_ts").Int()
	s.reply = alice.SendEvent(room, "m.room.message", object{
		"msgtype": "m.text", "body": "SECRET too", "m.relates_to": object{"rel_type": "m.thread", "event_id": s.event},
	}).WantOK().Get("event_id").String()
	return s
}

// looksUnknown requires that an event looks to somebody as one that there is not.
func (s *said) looksUnknown(t *testing.T, who *homeservertest.User) {
	t.Helper()
	const nothing = "$thereIsNoSuchEventAtAllxxxxxxxxxxxxxxxxxxxx"
	room := "/rooms/" + url.PathEscape(s.room)
	for _, path := range []string{v3 + room + "/event/", v3 + room + "/context/", "/_matrix/client/v1" + room + "/relations/"} {
		known, unknown := who.Do("GET", path+url.PathEscape(s.event), nil), who.Do("GET", path+url.PathEscape(nothing), nil)
		require.Contains(t, []int{403, 404}, known.Status, "%s: %s", path, known.Body)
		require.Equal(t, unknown.Status, known.Status, path)
		require.Equal(t, string(unknown.Body), string(known.Body), path)
	}
}

// C-33: what was said in a room, by its history visibility, by what somebody is there, and by where they look. The rules:
// "If the history_visibility was set to world_readable, allow. If the user's membership was join, allow. […] shared, and
// the user joined the room at any point after the event was sent, allow. If the user's membership was invite, and the
// history_visibility was set to invited, allow. Otherwise, deny." Beyond them /messages and /context want to be asked by
// who is or was in the room, and the room itself is shown to who may come in.
//
// https://spec.matrix.org/latest/client-server-api/#room-history-visibility
func TestC33WhoReadsWhat(t *testing.T) {
	told := readers()
	for _, visibility := range []string{"world_readable", "shared", "invited", "joined"} {
		for membership, become := range histories() {
			t.Run(visibility+" "+membership, func(t *testing.T) {
				hs := homeservertest.New(t)
				alice, bob, carol := hs.User("alice"), hs.User("bob"), hs.User("carol")
				room := alice.CreateRoomWith(object{"preset": "private_chat", "initial_state": []object{
					{"type": "m.room.history_visibility", "content": object{"history_visibility": visibility}},
				}})
				become(alice, bob, room)
				s := speak(t, room, alice, carol)
				require.Len(t, s.tells(t, alice), strings.Count(strings.TrimSpace(tables), "\n"), "who has said it finds it everywhere")
				got := s.tells(t, bob)
				require.ElementsMatch(t, told[visibility+" "+membership], got)
				if !slices.Contains(got, "event") {
					s.looksUnknown(t, bob)
				}
			})
		}
	}
}
