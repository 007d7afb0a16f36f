package eventauth_test

import (
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
)

func readLevels(t *testing.T, r room) *eventauth.PowerLevels {
	levels, err := eventauth.Levels(r.rules, r.Event("m.room.create", ""), r.Event("m.room.power_levels", ""))
	require.NoError(t, err)
	return levels
}

func TestLevelsWithoutPowerLevelsEvent(t *testing.T) {
	tests := []struct {
		version string
		creator int64
	}{
		{"1", 100}, {"10", 100}, {"11", 100}, {"12", eventauth.Creator},
	}
	for _, tt := range tests {
		r := newRoom(t, tt.version)
		delete(r.events, eventauth.Key{Type: "m.room.power_levels"})
		levels := readLevels(t, r)
		require.Equal(t, tt.creator, levels.User("@creator:one"), "version %s", tt.version)
		require.EqualValues(t, 0, levels.User("@alice:one"), "version %s", tt.version)
		requireDefaults(t, levels)
	}
}

func TestLevelsDefaults(t *testing.T) {
	r := newRoom(t, "11")
	r.set(t, "m.room.power_levels", "", `{}`)
	levels := readLevels(t, r)
	require.EqualValues(t, 0, levels.User("@creator:one"))
	requireDefaults(t, levels)
}

func requireDefaults(t *testing.T, levels *eventauth.PowerLevels) {
	require.EqualValues(t, 50, levels.Event("m.room.name", true))
	require.EqualValues(t, 0, levels.Event("m.room.message", false))
	require.EqualValues(t, 0, levels.Invite())
	require.EqualValues(t, 50, levels.Kick())
	require.EqualValues(t, 50, levels.Ban())
	require.EqualValues(t, 50, levels.Redact())
	require.EqualValues(t, 50, levels.Notification("room"))
}

func TestLevels(t *testing.T) {
	r := newRoom(t, "12")
	r.set(t, "m.room.create", "", `{"additional_creators":["@bob:two"]}`)
	r.set(t, "m.room.power_levels", "", `{
		"ban": 1, "kick": 2, "redact": 3, "invite": 4, "events_default": 5, "state_default": 6, "users_default": -7,
		"events": {"m.room.name": 8, "with \"quotes\" \u0001 and \u00e9": 9, "a": 10},
		"notifications": {"room": 11}, "users": {"@alice:one": 12, "@z:z": 13}, "Ban": 99}`)
	levels := readLevels(t, r)
	require.EqualValues(t, 1, levels.Ban())
	require.EqualValues(t, 2, levels.Kick())
	require.EqualValues(t, 3, levels.Redact())
	require.EqualValues(t, 4, levels.Invite())
	require.EqualValues(t, 5, levels.Event("m.room.message", false))
	require.EqualValues(t, 6, levels.Event("m.room.topic", true))
	require.EqualValues(t, 8, levels.Event("m.room.name", true))
	require.EqualValues(t, 8, levels.Event("m.room.name", false))
	require.EqualValues(t, 9, levels.Event("with \"quotes\" \u0001 and \u00e9", true))
	require.EqualValues(t, 10, levels.Event("a", true))
	require.EqualValues(t, 11, levels.Notification("room"))
	require.EqualValues(t, 50, levels.Notification("tea"))
	require.EqualValues(t, 12, levels.User("@alice:one"))
	require.EqualValues(t, 13, levels.User("@z:z"))
	require.EqualValues(t, -7, levels.User("@nobody:one"))
	require.Equal(t, eventauth.Creator, levels.User("@creator:one"))
	require.Equal(t, eventauth.Creator, levels.User("@bob:two"))
}

// What may stand for a level is in testdata/power.json; this is what it means.
func TestLevelsOfOldVersions(t *testing.T) {
	tests := []struct {
		version, value string
		want           int64
	}{
		{"9", `"100"`, 100},
		{"9", `" -0100\n"`, -100},
		{"9", `"\u00a0+1"`, 1},
		{"9", `"00000000000000000000000000000000000000000000000000000000000007"`, 7},
		{"9", `"99999999999999999999"`, 1<<63 - 1},
		{"9", `"-99999999999999999999"`, -1 << 63},
		{"5", `50.57`, 50},
		{"5", `-0.9`, 0},
		{"5", `-50.9`, -50},
		{"5", `5.114698E4`, 51146},
		{"5", `5e-1`, 0},
		{"5", `1e300`, 1<<63 - 1},
		{"5", `9223372036854775807`, 1<<63 - 1},
		{"5", `-99999999999999999999`, -1 << 63},
	}
	for _, tt := range tests {
		r := newRoom(t, tt.version)
		r.set(t, "m.room.power_levels", "", `{"users":{"@bob:two":`+tt.value+`},"ban":`+tt.value+`}`)
		levels := readLevels(t, r)
		require.Equal(t, tt.want, levels.User("@bob:two"), "version %s, %s", tt.version, tt.value)
		require.Equal(t, tt.want, levels.Ban(), "version %s, %s", tt.version, tt.value)
	}
}

// Canonical JSON has no such numbers, but nobody may reach the level of creators with one.
func TestLevelsAboveCanonicalJSON(t *testing.T) {
	r := newRoom(t, "12")
	r.set(t, "m.room.power_levels", "", `{"users":{"@bob:two":9223372036854775807}}`)
	_, err := eventauth.Levels(r.rules, r.Event("m.room.create", ""), r.Event("m.room.power_levels", ""))
	require.Equal(t, "10.3", ruleOf(err))
	e := r.event(t, draft{Sender: "@alice:one"})
	require.Equal(t, "10.3", ruleOf(eventauth.Check(e, r)), "in a room with such power levels")
}

func TestMemo(t *testing.T) {
	r := newRoom(t, "11")
	create, power := r.Event("m.room.create", ""), r.Event("m.room.power_levels", "")
	var memo eventauth.Memo
	first, err := memo.Levels(create, power)
	require.NoError(t, err)
	second, err := memo.Levels(create, power)
	require.NoError(t, err)
	require.Same(t, first, second)
	without, err := memo.Levels(create, nil)
	require.NoError(t, err)
	require.EqualValues(t, 100, without.User("@creator:one"))
}

func TestRedactionApplies(t *testing.T) {
	tests := []struct {
		name, version  string
		sender, target id.UserID
		room           string
		want           bool
	}{
		{"level", "11", "@mod:one", "@bob:two", "", true},
		{"same server", "11", "@carl:two", "@bob:two", "", true},
		{"neither", "11", "@bob:two", "@alice:one", "", false},
		{"creator", "12", "@creator:one", "@bob:two", "", true},
		{"another room", "11", "@mod:one", "@bob:two", "!other:one", false},
		{"decided by rule 11", "2", "@bob:two", "@alice:one", "", true},
		{"another room", "2", "@bob:two", "@bob:two", "!other:one", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRoom(t, tt.version)
			redaction := r.event(t, draft{Sender: tt.sender, Type: "m.room.redaction", Redacts: "$target"})
			target := r.event(t, draft{Sender: tt.target, EventID: "$target", RoomID: tt.room})
			require.Equal(t, tt.want, eventauth.RedactionApplies(redaction, target, r))
		})
	}
}

func TestSigners(t *testing.T) {
	restricted := json.RawMessage(`{"membership":"join","join_authorised_via_users_server":"@mod:one"}`)
	invite := json.RawMessage(`{"membership":"invite","third_party_invite":{"signed":{}}}`)
	tests := []struct {
		name, version string
		d             draft
		want          []id.ServerName
	}{
		{"sender", "11", draft{Sender: "@bob:two"}, []id.ServerName{"two"}},
		{"event id", "2", draft{Sender: "@bob:two", EventID: "$e:three"}, []id.ServerName{"two", "three"}},
		{"event id of the sender's server", "2", draft{Sender: "@bob:two", EventID: "$e:two"}, []id.ServerName{"two"}},
		{"third-party invite", "11", draft{Sender: "@bob:two", Type: "m.room.member", Content: invite}, nil},
		{"restricted join", "8", draft{Sender: "@bob:two", Type: "m.room.member", Content: restricted}, []id.ServerName{"two", "one"}},
		{"not restricted yet", "7", draft{Sender: "@bob:two", Type: "m.room.member", Content: restricted}, []id.ServerName{"two"}},
		{"authorised by the sender's server", "8", draft{Sender: "@carl:one", Type: "m.room.member", Content: restricted}, []id.ServerName{"one"}},
		{"not a member event", "8", draft{Sender: "@bob:two", Content: restricted}, []id.ServerName{"two"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := newRoom(t, tt.version)
			require.Equal(t, tt.want, eventauth.Signers(r.event(t, tt.d)))
		})
	}
}
