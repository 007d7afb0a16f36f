package federation_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/federation/wire"
	hst "github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	service "github.com/embedmatrix/homeserver/rooms"
)

// asker is a Client and the peer that it asks.
type asker struct {
	*federation.Client
	t     *testing.T
	key   signing.Key
	peer  *hst.Rogue
	asked []string // method and path of what the peer answers by script
}

const peerName id.ServerName = "peer.test"

func newAsker(t *testing.T) *asker {
	t.Helper()
	network := hst.NewNetwork(t)
	a := &asker{t: t, key: key(t, "a", 1), peer: network.Rogue(string(peerName))}
	client := wire.NewClient(wire.Config{Origin: "asker.test", Key: a.key, Transport: network.From("asker.test")})
	t.Cleanup(client.Close)
	a.Client = federation.NewClient(client, nil)
	return a
}

// script lets the peer give these answers to requests whose path contains a key.
func (a *asker) script(answers map[string]string) {
	a.asked = nil
	a.peer.Handle(func(w http.ResponseWriter, r *http.Request) bool {
		for part, answer := range answers {
			if strings.Contains(r.URL.Path, part) {
				a.asked = append(a.asked, r.Method+" "+r.URL.EscapedPath())
				status := 200
				if n, rest, ok := strings.Cut(answer, "|"); ok {
					fmt.Sscan(n, &status) //nolint:errcheck // a digit or two of this file
					answer = rest
				}
				w.WriteHeader(status)
				io.WriteString(w, answer) //nolint:errcheck // a test reads it
				return true
			}
		}
		return false
	})
}

// event makes a member event of the asker.
func (a *asker) event(version, membership string) *event.Event {
	a.t.Helper()
	rules, _ := roomversion.Get(version)
	user := "@u:asker.test"
	ev, err := event.Build(event.Draft{
		Room: "!r/1:peer.test", Sender: id.UserID(user), Type: "m.room.member", StateKey: &user, Rules: rules, Depth: 1,
		Content: []byte(`{"membership":"` + membership + `"}`), PrevEvents: []id.EventID{"$p"}, AuthEvents: []id.EventID{"$a"},
		PrevHashes: map[id.EventID]string{"$p": "x"}, AuthHashes: map[id.EventID]string{"$a": "x"},
	}, "asker.test", a.key)
	require.NoError(a.t, err)
	return ev
}

func code(err error) (string, int) {
	var told *mxerr.Error
	if !errors.As(err, &told) {
		return "", 0
	}
	return told.Code, told.Status
}

func TestMakeMember(t *testing.T) {
	a := newAsker(t)
	wish := service.Wish{Origin: "asker.test", Room: "!r/1:peer.test", User: "@u:asker.test", Membership: "join", Versions: []string{"1", "12"}}
	a.script(map[string]string{"make_": `{"event":{"type":"m.room.member"},"room_version":"11","x":1}`})
	template, err := a.MakeMember(t.Context(), peerName, wish)
	require.NoError(t, err)
	require.Equal(t, &service.Template{Event: []byte(`{"type":"m.room.member"}`), Version: "11"}, template)
	wish.Membership = "leave"
	_, err = a.MakeMember(t.Context(), peerName, wish)
	require.NoError(t, err)
	require.Equal(t, "/_matrix/federation/v1/make_join/%21r%2F1:peer.test/@u:asker.test?ver=1&ver=12", a.peer.Asked("/_matrix/federation")[0].Path)
	require.Equal(t, "/_matrix/federation/v1/make_leave/%21r%2F1:peer.test/@u:asker.test", a.peer.Asked("/_matrix/federation")[1].Path)
	a.script(map[string]string{"make_": `{"event":{"type":"m.room.member"}}`})
	template, err = a.MakeMember(t.Context(), peerName, wish)
	require.NoError(t, err)
	require.Empty(t, template.Version)
	for _, answer := range []string{`[]`, `{}`, `{"event":null}`, `{"event":[]}`, `{"event":"x"}`, `{"event":{},"room_version":11}`, `{"event":{},"room_version":""}`, `{"event":{},"event":{}}`, `{`, ``} {
		a.script(map[string]string{"make_": answer})
		_, err := a.MakeMember(t.Context(), peerName, wish)
		require.Error(t, err, answer)
	}
}

// TestRefusals is FM-13 and what clients may be told.
func TestRefusals(t *testing.T) {
	a := newAsker(t)
	tests := []struct {
		answer, code string
		status       int
	}{
		{`400|{"errcode":"M_TEST_ERROR_CODE","error":"x"}`, "M_TEST_ERROR_CODE", 400},
		{`400|{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"x","room_version":"sytest"}`, "M_INCOMPATIBLE_ROOM_VERSION", 400},
		{`400|{"errcode":"M_UNABLE_TO_GRANT_JOIN","error":"x"}`, "M_UNABLE_TO_GRANT_JOIN", 400},
		{`403|{"errcode":"M_FORBIDDEN","error":"x"}`, "M_FORBIDDEN", 403},
		{`404|{"errcode":"M_NOT_FOUND","error":"x"}`, "M_NOT_FOUND", 404},
		{`400|{"errcode":"M_MISSING_PARAM","error":"x"}`, "M_UNKNOWN", 502},
		{`400|{"errcode":"M_INVALID_PARAM","error":"x"}`, "M_UNKNOWN", 502},
		{`401|{"errcode":"M_UNKNOWN_TOKEN","error":"x"}`, "M_UNKNOWN", 502},
		{`403|{"errcode":"M_UNKNOWN_TOKEN","error":"x"}`, "M_UNKNOWN", 502},
		{`403|{"errcode":"M_USER_DEACTIVATED","error":"x"}`, "M_UNKNOWN", 502},
		{`404|{"errcode":"M_UNRECOGNIZED","error":"x"}`, "M_UNKNOWN", 502},
		{`429|{"errcode":"M_LIMIT_EXCEEDED","error":"x"}`, "M_UNKNOWN", 502},
		{`403|nginx`, "M_UNKNOWN", 502},
		{`302|{}`, "M_UNKNOWN", 502},
		{`500|{"errcode":"M_FORBIDDEN","error":"x"}`, "M_UNKNOWN", 502},
	}
	for _, tt := range tests {
		a := newAsker(t) // some of these are reasons to leave a server alone
		a.script(map[string]string{"make_": tt.answer})
		_, err := a.MakeMember(t.Context(), peerName, service.Wish{Room: "!r:peer.test", User: "@u:asker.test", Membership: "join"})
		got, status := code(err)
		require.Equal(t, tt.code, got, "%s: %v", tt.answer, err)
		require.Equal(t, tt.status, status, tt.answer)
	}
	a.script(map[string]string{"make_": `400|{"errcode":"M_INCOMPATIBLE_ROOM_VERSION","error":"x","room_version":"sytest"}`})
	_, err := a.MakeMember(t.Context(), peerName, service.Wish{Room: "!r:peer.test", User: "@u:asker.test", Membership: "join"})
	var told *mxerr.Error
	require.ErrorAs(t, err, &told)
	require.Equal(t, "sytest", told.Extra["room_version"])
	_, err = a.MakeMember(t.Context(), "gone.test", service.Wish{Room: "!r:peer.test", User: "@u:asker.test", Membership: "join"})
	got, status := code(err)
	require.Equal(t, "M_UNKNOWN", got, "%v", err)
	require.Equal(t, 502, status)
}

func TestSendJoin(t *testing.T) {
	a := newAsker(t)
	join := a.event("11", "join")
	const object = ` {"state":[{"a":1},{"b":[{}]}],"x":{"state":[]},"auth_chain":[{"c":2}],"event":{"d":3},"members_omitted":true,"servers_in_room":["one.test",5,"no name","two.test:1"],"origin":"o"} `
	want := &service.JoinAnswer{
		State: []json.RawMessage{[]byte(`{"a":1}`), []byte(`{"b":[{}]}`)}, Auth: []json.RawMessage{[]byte(`{"c":2}`)},
		Event: []byte(`{"d":3}`), Servers: []id.ServerName{"one.test", "two.test:1"}, MembersOmitted: true,
	}
	unknown := `404|{"errcode":"M_UNRECOGNIZED","error":"?"}`
	tests := []struct {
		name, v2, v1 string
		want         *service.JoinAnswer
		asked        int
	}{
		{"as it should be", object, "", want, 1},
		{"an old server", unknown, `[200,` + object + `]`, want, 2},
		{"an older server", "404|not found", `[200,` + object + `]`, want, 2},
		{"little", `{"state":null,"auth_chain":[]}`, "", &service.JoinAnswer{}, 1},
		{"an unknown room", `404|{"errcode":"M_NOT_FOUND","error":"?"}`, object, nil, 1},
		{"forbidden", `403|{"errcode":"M_FORBIDDEN","error":"?"}`, object, nil, 1},
		{"bad", `400|{"errcode":"M_BAD_JSON","error":"?"}`, object, nil, 1},
		{"a state that is an object", `{"state":{}}`, "", nil, 1},
		{"a state that is a string", `{"state":"x"}`, "", nil, 1},
		{"two states", `{"state":[{}],"state":[]}`, "", nil, 1},
		{"omitted as a string", `{"members_omitted":"true"}`, "", nil, 1},
		{"a string", `"x"`, "", nil, 1},
		{"nothing", ``, "", nil, 1},
		{"a list of nothing", `[]`, "", nil, 1},
		{"cut off", object[:40], "", nil, 1},
		{"cut off after the state", `{"state":[{}]`, "", nil, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a.script(map[string]string{"v2/send_join": tt.v2, "v1/send_join": tt.v1})
			answer, err := a.SendJoin(t.Context(), peerName, join)
			require.Equal(t, tt.want == nil, err != nil, "%v", err)
			require.Equal(t, tt.want, answer)
			require.Len(t, a.asked, tt.asked)
			require.Equal(t, "PUT /_matrix/federation/v2/send_join/%21r%2F1:peer.test/"+string(join.ID), a.asked[0])
		})
	}
	sent := a.peer.Asked("/_matrix/federation/v2/send_join")
	require.JSONEq(t, string(join.JSON), string(sent[0].Body))
}

// endless writes the same again and again until its reader has gone.
func endless(w io.Writer, begin, again string) {
	io.WriteString(w, begin) //nolint:errcheck // below
	for range 1 << 20 {
		if _, err := io.WriteString(w, again); err != nil {
			return
		}
	}
}

func TestSendJoinToThoseWhoNeverEnd(t *testing.T) {
	a := newAsker(t)
	join := a.event("11", "join")
	for name, flood := range map[string][2]string{
		"one long event": {`{"state":[{"x":"`, strings.Repeat("x", 1000)}, "white space": {`{"state":[`, strings.Repeat(" ", 1000)},
		"many events": {`{"state":[{}`, ",{}"}, "deep": {`{"state":[`, strings.Repeat("[", 1000)}, "a long key": {`{"`, strings.Repeat("x", 1000)},
	} {
		t.Run(name, func(t *testing.T) {
			a.peer.Handle(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.Contains(r.URL.Path, "send_join") {
					endless(w, flood[0], flood[1])
					return true
				}
				return false
			})
			_, err := a.SendJoin(t.Context(), peerName, join)
			require.Error(t, err)
		})
	}
}

func TestSendLeaveAndKnock(t *testing.T) {
	a := newAsker(t)
	a.script(map[string]string{"v2/send_leave": `{}`, "send_knock": `{"knock_room_state":[{"type":"m.room.name"}]}`})
	require.NoError(t, a.SendLeave(t.Context(), peerName, a.event("11", "leave")))
	state, err := a.SendKnock(t.Context(), peerName, a.event("11", "knock"))
	require.NoError(t, err)
	require.Equal(t, []json.RawMessage{[]byte(`{"type":"m.room.name"}`)}, state)
	a.script(map[string]string{"v2/send_leave": `404|{"errcode":"M_UNRECOGNIZED"}`, "v1/send_leave": `[200,{}]`, "send_knock": `{"knock_room_state":"x"}`})
	require.NoError(t, a.SendLeave(t.Context(), peerName, a.event("11", "leave")))
	require.Len(t, a.asked, 2)
	state, err = a.SendKnock(t.Context(), peerName, a.event("11", "knock"))
	require.NoError(t, err, "it was taken in")
	require.Empty(t, state)
	a.script(map[string]string{"send_": `403|{"errcode":"M_FORBIDDEN","error":"no"}`})
	require.ErrorIs(t, a.SendLeave(t.Context(), peerName, a.event("11", "leave")), mxerr.Forbidden)
	_, err = a.SendKnock(t.Context(), peerName, a.event("11", "knock"))
	require.ErrorIs(t, err, mxerr.Forbidden)
}

// TestSendInvite is FM-12.
func TestSendInvite(t *testing.T) {
	a := newAsker(t)
	unknown, bad, no := `404|{"errcode":"M_UNRECOGNIZED"}`, `400|{"errcode":"M_BAD_JSON"}`, `403|{"errcode":"M_INVITE_BLOCKED","error":"no"}`
	tests := []struct {
		name, version, v2, v1 string
		want                  string
		asked                 int
	}{
		{"as it should be", "11", `{"event":{"x":1}}`, "", `{"x":1}`, 1},
		{"an old server", "1", unknown, `[200,{"event":{"x":1}}]`, `{"x":1}`, 2},
		{"one that does not like the form", "2", bad, `[200,{"event":{"x":1}}]`, `{"x":1}`, 2},
		{"an old server and a new room", "11", unknown, `[200,{"event":{"x":1}}]`, "", 1},
		{"no form that it likes", "11", bad, `[200,{"event":{"x":1}}]`, "", 1},
		{"no", "1", no, `[200,{"event":{"x":1}}]`, "", 1},
		{"nothing", "11", `{}`, "", "", 1},
		{"a string", "11", `{"event":"x"}`, "", "", 1},
		{"nothing in a list", "1", unknown, `[]`, "", 2},
		{"an object where there should be a list", "1", unknown, `{"event":{}}`, "", 2},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a.script(map[string]string{"v2/invite": tt.v2, "v1/invite": tt.v1})
			raw, err := a.SendInvite(t.Context(), peerName, a.event(tt.version, "invite"), []json.RawMessage{[]byte(`{"s":1}`)})
			require.Equal(t, tt.want == "", err != nil, "%v", err)
			if err == nil {
				require.Equal(t, tt.want, string(raw))
			}
			require.Len(t, a.asked, tt.asked)
		})
	}
	sent := a.peer.Asked("/_matrix/federation/v2/invite")[0]
	require.Contains(t, string(sent.Body), `"room_version":"11"`)
	require.Contains(t, string(sent.Body), `"invite_room_state":[{"s":1}]`)
	old := a.peer.Asked("/_matrix/federation/v1/invite")[0]
	require.Contains(t, string(old.Body), `"unsigned":{"invite_room_state":[{"s":1}]}`)
	require.Contains(t, string(old.Body), `"type":"m.room.member"`)
}

func TestResolveAliasElsewhere(t *testing.T) {
	a := newAsker(t)
	a.script(map[string]string{"query/directory": `{"room_id":"!r:x","servers":["one.test",1,"one.test","no name"]}`})
	room, servers, err := a.ResolveAlias(t.Context(), "#dén&x:peer.test")
	require.NoError(t, err)
	require.Equal(t, id.RoomID("!r:x"), room)
	require.Equal(t, []id.ServerName{"one.test"}, servers)
	require.Equal(t, "/_matrix/federation/v1/query/directory?room_alias=%23d%C3%A9n%26x%3Apeer.test", a.peer.Asked("/_matrix")[0].Path)
	for _, answer := range []string{`{}`, `{"room_id":5}`, `{"room_id":"x"}`, `[]`, `404|{"errcode":"M_NOT_FOUND","error":"?"}`, `500|{}`} {
		a.script(map[string]string{"query/directory": answer})
		_, _, err := a.ResolveAlias(t.Context(), "#a:peer.test")
		got, _ := code(err)
		require.NotEmpty(t, got, answer)
	}
	a = newAsker(t)
	a.script(map[string]string{"query/directory": `404|{"errcode":"M_NOT_FOUND","error":"?"}`})
	_, _, err = a.ResolveAlias(t.Context(), "#a:peer.test")
	require.ErrorIs(t, err, mxerr.NotFound)
}

func TestProfileElsewhere(t *testing.T) {
	a := newAsker(t)
	a.script(map[string]string{"query/profile": `{"displayname":"B"}`})
	profile, err := a.Profile(t.Context(), "@b:peer.test", "displayname")
	require.NoError(t, err)
	require.JSONEq(t, `{"displayname":"B"}`, string(profile))
	_, err = a.Profile(t.Context(), "@b:peer.test", "")
	require.NoError(t, err)
	require.Equal(t, "/_matrix/federation/v1/query/profile?field=displayname&user_id=%40b%3Apeer.test", a.peer.Asked("/_matrix")[0].Path)
	require.Equal(t, "/_matrix/federation/v1/query/profile?user_id=%40b%3Apeer.test", a.peer.Asked("/_matrix")[1].Path)
	for _, answer := range []string{`[]`, `null`, `"x"`, `404|{"errcode":"M_NOT_FOUND","error":"?"}`} {
		a.script(map[string]string{"query/profile": answer})
		_, err := a.Profile(t.Context(), "@b:peer.test", "")
		require.Error(t, err, answer)
	}
}

func TestDirectoryElsewhere(t *testing.T) {
	a := newAsker(t)
	a.script(map[string]string{
		"publicRooms": `{"chunk":[{"room_id":"!a:x","name":"A","num_joined_members":3},null,{"room_id":"x"}],"next_batch":"n","total_room_count_estimate":9}`,
		"hierarchy":   `{"room":{"room_id":"!a:x","children_state":[{}]},"children":[{"room_id":"!b:x"},{}],"inaccessible_children":["!c:x"]}`,
	})
	page, err := a.PublicRooms(t.Context(), peerName, service.DirectoryQuery{Limit: 5})
	require.NoError(t, err)
	require.Equal(t, &service.DirectoryPage{Chunk: []*service.Summary{{RoomID: "!a:x", Name: "A", NumJoinedMembers: 3}}, NextBatch: "n", Total: 9}, page)
	require.Equal(t, `{"limit":5}`, string(a.peer.Asked("/_matrix")[0].Body))
	h, err := a.Hierarchy(t.Context(), peerName, "!a:x", true)
	require.NoError(t, err)
	require.Equal(t, []*service.Summary{{RoomID: "!b:x"}}, h.Children)
	require.Equal(t, []id.RoomID{"!c:x"}, h.Inaccessible)
	_, err = a.Hierarchy(t.Context(), peerName, "!other:x", true)
	require.Error(t, err, "another room")
	a.script(map[string]string{"publicRooms": `{"chunk":[{"room_id":5}]}`, "hierarchy": `404|{"errcode":"M_UNRECOGNIZED"}`})
	_, err = a.PublicRooms(t.Context(), peerName, service.DirectoryQuery{})
	require.Error(t, err)
	_, err = a.Hierarchy(t.Context(), peerName, "!a:x", false)
	require.ErrorIs(t, err, mxerr.NotFound)
	a.script(map[string]string{"publicRooms": `400|{"errcode":"M_INVALID_PARAM"}`})
	_, err = a.PublicRooms(t.Context(), peerName, service.DirectoryQuery{Since: "x"})
	require.ErrorIs(t, err, mxerr.InvalidParam)
}

// An old server knows spaces by an unstable name.
func TestHierarchyOfAnOldServer(t *testing.T) {
	a := newAsker(t)
	a.script(map[string]string{
		"v1/hierarchy":       `404|{"errcode":"M_UNRECOGNIZED"}`,
		"unstable/org.matri": `{"room":{"room_id":"!a:x","children_state":[]},"children":[],"inaccessible_children":[]}`,
	})
	h, err := a.Hierarchy(t.Context(), peerName, "!a:x", true)
	require.NoError(t, err)
	require.Equal(t, id.RoomID("!a:x"), h.Room.RoomID)
	asked := a.peer.Asked("/_matrix/federation/unstable/org.matrix.msc2946/hierarchy/")
	require.Len(t, asked, 1)
	require.Contains(t, asked[0].Path, "suggested_only=true")
}

// What a join is answered may come in pieces of any size.
func TestSlowJoinAnswer(t *testing.T) {
	long := strings.Repeat(`x\"]}`, 30_000) // more than is read at once
	raw := []byte("[ 200 ,\n{ \"state\" : [ {\"a\":\"" + long + `"} , "b" , -1.5e3,true],"auth_chain":[ ],"members_omitted":false }]`)
	whole, err := federation.ReadJoinAnswer(raw)
	require.NoError(t, err)
	require.Equal(t, []json.RawMessage{[]byte(`{"a":"` + long + `"}`), []byte(`"b"`), []byte(`-1.5e3`), []byte(`true`)}, whole.State)
	slow, err := federation.ReadSlowJoinAnswer(raw)
	require.NoError(t, err)
	require.Equal(t, whole, slow)
	for _, bad := range []string{
		`{"state":[{},]}`, `{"state":[,{}]}`, `{"state":[{} {}]}`, `{"state":[{}],}`, `{"state" []}`, `{state:[]}`, `{"state":[}`, `{,}`, `[200 {}]`, `["x",{}]`,
		`{"origin":nul}`, `{"origin":[1,}`,
	} {
		_, err := federation.ReadJoinAnswer([]byte(bad))
		require.Error(t, err, "%s", bad)
	}
}

// FuzzJoinAnswer: what is read of an answer to a join is what any parser of JSON reads there.
func FuzzJoinAnswer(f *testing.F) {
	f.Add([]byte(`{"state":[{"a":1}],"auth_chain":[],"servers_in_room":["a"]}`))
	f.Add([]byte(`[200,{"event":{},"members_omitted":true}]`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		answer, err := federation.ReadJoinAnswer(raw)
		if err != nil {
			return
		}
		var plain map[string]json.RawMessage
		if json.Unmarshal(raw, &plain) != nil {
			return // the form of version 1, or events that are dropped later for what they are
		}
		for key, got := range map[string][]json.RawMessage{"state": answer.State, "auth_chain": answer.Auth} {
			var want []json.RawMessage
			if plain[key] != nil {
				require.NoError(t, json.Unmarshal(plain[key], &want), "%s", plain[key])
			}
			require.Equal(t, append([]json.RawMessage{}, want...), append([]json.RawMessage{}, got...))
		}
	})
}
