package syncing_test

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// TestSummary is SY-22.
func TestSummary(t *testing.T) {
	p := people(t, "alice", "bob", "carol", "dave", "erin", "frank", "grace")
	alice := p[0]
	room := alice.CreateRoom(public)
	summary := func(since string) (string, string) {
		s := alice.Sync(since)
		return s.Joined(room).Get("summary").Raw, s.NextBatch
	}
	got, since := summary("")
	require.JSONEq(t, `{"m.heroes":[],"m.joined_member_count":1,"m.invited_member_count":0}`, got)
	p[3].MustJoin(room)
	alice.MustInvite(room, p[1])
	got, since = summary(since)
	require.JSONEq(t, `{"m.heroes":["@dave:hs.test","@bob:hs.test"],"m.joined_member_count":2,"m.invited_member_count":1}`, got)
	alice.Send(room, "hi")
	p[3].SetState(room, "m.room.member", p[3].ID, object{"membership": "join", "displayname": "D"}).WantOK()
	got, since = summary(since)
	require.Empty(t, got, "it has not changed")
	for _, u := range p[4:] {
		u.MustJoin(room)
	}
	got, since = summary(since)
	require.JSONEq(t, `{"m.heroes":["@bob:hs.test","@dave:hs.test","@erin:hs.test","@frank:hs.test","@grace:hs.test"],
		"m.joined_member_count":5,"m.invited_member_count":1}`, got)
	p[2].MustJoin(room)
	p[2].MustLeave(room)
	p[6].MustLeave(room)
	name(alice, room, "a name")
	got, since = summary(since)
	require.JSONEq(t, `{"m.joined_member_count":4,"m.invited_member_count":1}`, got, "a named room needs no heroes")
	name(alice, room, "")
	got, since = summary(since)
	require.Contains(t, got, `"m.heroes":["`, "without its name it does")
	for _, u := range p[3:6] {
		u.MustLeave(room)
	}
	p[1].MustLeave(room)
	got, _ = summary(since)
	require.JSONEq(t, `{"m.heroes":["@carol:hs.test","@grace:hs.test","@dave:hs.test","@erin:hs.test","@frank:hs.test"],
		"m.joined_member_count":1,"m.invited_member_count":0}`, got, "when nobody is there, those who were")
}
