package eventauth_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
)

var visibilities = []string{"world_readable", "shared", "invited", "joined"}

func TestMayReadMessage(t *testing.T) {
	tests := []struct {
		membership  string
		joinedLater bool
		want        [4]bool // by visibility
	}{
		{"join", true, [4]bool{true, true, true, true}},
		{"join", false, [4]bool{true, true, true, true}},
		{"invite", false, [4]bool{true, false, true, false}},
		{"invite", true, [4]bool{true, true, true, false}},
		{"knock", false, [4]bool{true, false, false, false}},
		{"knock", true, [4]bool{true, true, false, false}},
		{"leave", false, [4]bool{true, false, false, false}},
		{"leave", true, [4]bool{true, true, false, false}},
		{"", false, [4]bool{true, false, false, false}},
		{"ban", false, [4]bool{true, false, false, false}},
		{"ban", true, [4]bool{true, true, false, false}},
	}
	e := newRoom(t, "11").event(t, draft{Sender: "@bob:two"})
	for _, tt := range tests {
		for i, visibility := range visibilities {
			before := eventauth.Viewing{Visibility: visibility, Membership: tt.membership}
			got := eventauth.MayRead(e, before, tt.joinedLater, "@viewer:one")
			require.Equal(t, tt.want[i], got, "%s, viewer %q, joined later %t", visibility, tt.membership, tt.joinedLater)
		}
	}
}

func TestUnknownVisibilityIsShared(t *testing.T) {
	r := newRoom(t, "11")
	e := r.event(t, draft{})
	for _, visibility := range []string{"", "secret", "World_Readable"} {
		before := eventauth.Viewing{Visibility: visibility, Membership: "leave"}
		require.True(t, eventauth.MayRead(e, before, true, "@viewer:one"), visibility)
		require.False(t, eventauth.MayRead(e, before, false, "@viewer:one"), visibility)
	}
	for _, content := range []string{`{}`, `{"history_visibility":"secret"}`, `{"history_visibility":1}`} {
		require.Equal(t, "shared", eventauth.VisibilityOf(visibilityEvent(t, r, content)), content)
	}
	require.Equal(t, "shared", eventauth.VisibilityOf(nil))
	for _, visibility := range visibilities {
		require.Equal(t, visibility, eventauth.VisibilityOf(visibilityEvent(t, r, `{"history_visibility":"`+visibility+`"}`)))
	}
}

func visibilityEvent(t *testing.T, r room, content string) *event.Event {
	return r.event(t, draft{Type: "m.room.history_visibility", StateKey: new(string), Content: json.RawMessage(content)})
}

func TestMayReadVisibilityEvent(t *testing.T) {
	tests := []struct {
		before, after, membership string
		joinedLater, want         bool
	}{
		{"world_readable", "joined", "leave", false, true},
		{"joined", "world_readable", "leave", false, true},
		{"joined", "invited", "invite", false, true},
		{"invited", "joined", "invite", false, true},
		{"joined", "shared", "leave", true, true},
		{"joined", "shared", "leave", false, false},
		{"joined", "invited", "leave", true, false},
	}
	r := newRoom(t, "11")
	for _, tt := range tests {
		e := visibilityEvent(t, r, `{"history_visibility":"`+tt.after+`"}`)
		got := eventauth.MayRead(e, eventauth.Viewing{Visibility: tt.before, Membership: tt.membership}, tt.joinedLater, "@viewer:one")
		require.Equal(t, tt.want, got, "%s to %s, viewer %s, joined later %t", tt.before, tt.after, tt.membership, tt.joinedLater)
	}
}

func TestMayReadMemberEvent(t *testing.T) {
	tests := []struct {
		name, target, visibility, before, after string
		joinedLater, want                       bool
	}{
		{"own join", "@viewer:one", "joined", "leave", "join", false, true},
		{"own leave", "@viewer:one", "joined", "join", "leave", false, true},
		{"own ban", "@viewer:one", "joined", "join", "ban", false, true},
		{"own invite", "@viewer:one", "invited", "leave", "invite", false, true},
		{"own invite, hidden", "@viewer:one", "joined", "leave", "invite", true, false},
		{"own invite, shared, joined later", "@viewer:one", "shared", "leave", "invite", true, true},
		{"invite turned down", "@viewer:one", "shared", "invite", "leave", false, true},
		{"invite taken back by a ban", "@viewer:one", "joined", "invite", "ban", false, true},
		{"knock refused", "@viewer:one", "joined", "knock", "leave", false, true},
		{"unban", "@viewer:one", "joined", "ban", "leave", false, false},
		{"join of another", "@bob:two", "joined", "leave", "join", false, false},
		{"leave of another", "@bob:two", "shared", "invite", "leave", false, false},
	}
	r := newRoom(t, "11")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			e := memberEvent(t, r, tt.target, tt.after)
			before := eventauth.Viewing{Visibility: tt.visibility, Membership: tt.before}
			require.Equal(t, tt.want, eventauth.MayRead(e, before, tt.joinedLater, "@viewer:one"))
		})
	}
}

func memberEvent(t *testing.T, r room, target, membership string) *event.Event {
	content := json.RawMessage(`{"membership":"` + membership + `"}`)
	return r.event(t, draft{Sender: "@bob:two", Type: "m.room.member", StateKey: &target, Content: content})
}

func TestMembershipAt(t *testing.T) {
	r := newRoom(t, "11")
	never, joined := eventauth.Viewing{}, eventauth.Viewing{Membership: "join"}
	message := r.event(t, draft{})
	require.Equal(t, "leave", eventauth.MembershipAt(message, never, "@viewer:one"))
	require.Equal(t, "join", eventauth.MembershipAt(message, joined, "@viewer:one"))
	require.Equal(t, "join", eventauth.MembershipAt(memberEvent(t, r, "@viewer:one", "join"), never, "@viewer:one"))
	require.Equal(t, "ban", eventauth.MembershipAt(memberEvent(t, r, "@viewer:one", "ban"), joined, "@viewer:one"))
	require.Equal(t, "join", eventauth.MembershipAt(memberEvent(t, r, "@bob:two", "ban"), joined, "@viewer:one"))
}

func TestMayReadState(t *testing.T) {
	tests := []struct {
		visibility, membership string
		want                   bool
	}{
		{"joined", "join", true},
		{"world_readable", "leave", true},
		{"shared", "leave", false},
		{"shared", "invite", false},
		{"invited", "invite", false},
		{"", "", false},
	}
	for _, tt := range tests {
		got := eventauth.MayReadState(eventauth.Viewing{Visibility: tt.visibility, Membership: tt.membership})
		require.Equal(t, tt.want, got, "%q, viewer %q", tt.visibility, tt.membership)
	}
}

func TestMayServerRead(t *testing.T) {
	r := newRoom(t, "11")
	message := r.event(t, draft{Sender: "@alice:one"})
	opened := visibilityEvent(t, r, `{"history_visibility":"world_readable"}`)
	tests := []struct {
		name, visibility, membership string // membership of the only user of the server
		joinedLater                  bool
		e                            *event.Event
		want                         bool
	}{
		{"world readable", "world_readable", "leave", false, message, true},
		{"shared, joined later", "shared", "leave", true, message, true},
		{"shared, never joined", "shared", "leave", false, message, false},
		{"joined", "joined", "join", false, message, true},
		{"joined, was not", "joined", "invite", true, message, false},
		{"invited", "invited", "invite", false, message, true},
		{"invited, was not", "invited", "leave", true, message, false},
		{"opens the history", "joined", "leave", false, opened, true},
		{"own join", "joined", "leave", false, memberEvent(t, r, "@new:two", "join"), true},
		{"own invite", "invited", "leave", false, memberEvent(t, r, "@new:two", "invite"), true},
		{"join of others", "joined", "leave", true, memberEvent(t, r, "@new:three", "join"), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := eventauth.ServerViewing{
				Visibility: tt.visibility,
				AnyUser:    func(membership string) bool { return membership == tt.membership },
			}
			require.Equal(t, tt.want, eventauth.MayServerRead(tt.e, before, tt.joinedLater, "two"))
		})
	}
}

func TestSee(t *testing.T) {
	e := newRoom(t, "11").event(t, draft{Sender: "@bob:two", Content: json.RawMessage(`{"body":"hi"}`)})
	_, ok := eventauth.See(e, eventauth.Viewing{Visibility: "joined"}, true, "@viewer:one")
	require.False(t, ok)
	seen, ok := eventauth.See(e, eventauth.Viewing{Visibility: "shared"}, true, "@viewer:one")
	require.True(t, ok)
	require.Equal(t, "leave", seen.Membership())
	require.Same(t, e, seen.Event())
}

func TestAppendClient(t *testing.T) {
	e := newRoom(t, "11").event(t, draft{Sender: "@bob:two", Content: json.RawMessage(`{"body":"hi"}`)})
	const head = `{"content":{"body":"hi"},"event_id":"$event","origin_server_ts":1,"room_id":"!room:one","sender":"@bob:two","type":"m.room.message"`
	full := eventauth.Unsigned{
		AgeMS: 5, TransactionID: "a\"b\n\xff", ReplacesState: "$old", PrevContent: []byte(`{"x":1}`), PrevSender: "@old:one",
		RedactedBecause: []byte(`{"type":"m.room.redaction"}`), RedactedBy: "$by", Relations: []byte(`{"m.thread":{}}`),
	}
	tests := []struct {
		name string
		seen eventauth.Seen
		u    eventauth.Unsigned
		want string
	}{
		{"nothing", eventauth.SeeAsService(e), eventauth.Unsigned{}, head + `}`},
		{"membership", eventauth.SeeState(e, "join"), eventauth.Unsigned{}, head + `,"unsigned":{"membership":"join"}}`},
		{"membership missing", eventauth.SeeState(e, ""), eventauth.Unsigned{}, head + `,"unsigned":{"membership":"leave"}}`},
		{"age", eventauth.SeeAsService(e), eventauth.Unsigned{AgeMS: -3}, head + `,"unsigned":{"age":-3}}`},
		{"all", eventauth.SeeState(e, "join"), full, head + `,"unsigned":{"age":5,"m.relations":{"m.thread":{}},"membership":"join",` +
			`"prev_content":{"x":1},"prev_sender":"@old:one","redacted_because":{"type":"m.room.redaction"},"redacted_by":"$by",` +
			`"replaces_state":"$old","transaction_id":"a\"b\n` + "\ufffd" + `"}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := tt.seen.AppendClient([]byte("before"), tt.u)
			require.Equal(t, "before"+tt.want, string(got))
			require.True(t, json.Valid(got[len("before"):]))
		})
	}
	require.NotContains(t, string(eventauth.SeeAsService(e).AppendClientNoRoom(nil, eventauth.Unsigned{})), "room_id")
}

func TestOfErasedSender(t *testing.T) {
	e := newRoom(t, "11").event(t, draft{Sender: "@bob:two", Content: json.RawMessage(`{"body":"hi"}`)})
	kept, err := eventauth.SeeState(e, "join").OfErasedSender()
	require.NoError(t, err)
	require.Same(t, e, kept.Event())
	redacted, err := eventauth.SeeState(e, "leave").OfErasedSender()
	require.NoError(t, err)
	require.Equal(t, `{}`, string(redacted.Event().Content()))
	require.Equal(t, e.ID, redacted.Event().ID)
}

func TestServerAllowed(t *testing.T) {
	tests := []struct {
		name, acl string
		server    id.ServerName
		want      bool
	}{
		{"allowed", `{"allow":["*"]}`, "one", true},
		{"nobody", `{}`, "one", false},
		{"deny before allow", `{"allow":["*"],"deny":["one"]}`, "one", false},
		{"denied another", `{"allow":["*"],"deny":["two"]}`, "one", true},
		{"not in the list", `{"allow":["two"]}`, "one", false},
		{"subdomains", `{"allow":["*"],"deny":["*.evil.com"]}`, "a.b.evil.com", false},
		{"not a subdomain", `{"allow":["*"],"deny":["*.evil.com"]}`, "evil.com", true},
		{"port does not count", `{"allow":["*"],"deny":["evil.com"]}`, "evil.com:8448", false},
		{"port in the pattern matches nothing", `{"allow":["*"],"deny":["evil.com:8448"]}`, "evil.com:8448", true},
		{"case", `{"allow":["*"],"deny":["EVIL.com"]}`, "Evil.COM", false},
		{"one character", `{"allow":["?.com"]}`, "a.com", true},
		{"two characters", `{"allow":["?.com"]}`, "ab.com", false},
		{"no regular expressions", `{"allow":["o.e"]}`, "one", false},
		{"IPv4 denied", `{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4", false},
		{"IPv4 with port denied", `{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4:5", false},
		{"IPv6 denied", `{"allow":["*"],"allow_ip_literals":false}`, "[::1]", false},
		{"IPv6 with port denied", `{"allow":["*"],"allow_ip_literals":false}`, "[1::2]:8448", false},
		{"IPv4 by default", `{"allow":["*"]}`, "1.2.3.4", true},
		{"not a boolean", `{"allow":["*"],"allow_ip_literals":"false"}`, "1.2.3.4", true},
		{"looks like IPv4", `{"allow":["*"],"allow_ip_literals":false}`, "1.2.3.4.com", true},
		{"not a list", `{"allow":"*"}`, "one", false},
		{"not text", `{"allow":[1,"*"],"deny":[{},null]}`, "one", true},
	}
	r := newRoom(t, "11")
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			acl := r.event(t, draft{Type: "m.room.server_acl", StateKey: new(string), Content: json.RawMessage(tt.acl)})
			require.Equal(t, tt.want, eventauth.ServerAllowed(acl, tt.server))
		})
	}
	require.True(t, eventauth.ServerAllowed(nil, "one"))
}
