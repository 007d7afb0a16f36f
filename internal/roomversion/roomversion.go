// Package roomversion is the table of what differs between room versions.
//
// Everything that depends on a version asks a field of Rules; nothing compares version strings.
//
// Spec: https://spec.matrix.org/latest/rooms/
package roomversion

// EventIDFormat says where the id of an event comes from.
type EventIDFormat int

// The three formats of event ids.
const (
	EventIDInEvent EventIDFormat = iota + 1 // versions 1 and 2: chosen by the sender, a field of the event
	EventIDBase64                           // version 3: "$" and the reference hash in standard base64
	EventIDURLSafe                          // version 4 on: "$" and the reference hash in URL-safe base64
)

// StateResolution names an algorithm that merges the states of a forked room.
type StateResolution int

// The three algorithms of state resolution.
const (
	StateResolutionV1  StateResolution = iota + 1 // version 1
	StateResolutionV2                             // versions 2 to 11
	StateResolutionV21                            // version 12, "2.1"
)

// Rules are the rules of one room version. They are shared and never change.
type Rules struct {
	Version         string
	EventIDs        EventIDFormat
	StateResolution StateResolution

	StrictJSON           bool // 6+: canonical JSON is enforced on the whole event
	EnforceKeyValidity   bool // 5+: signatures by expired keys do not count
	AliasAuthRule        bool // 1–5: rule 4 for m.room.aliases, and its redaction keeps "aliases"
	RedactionAuthRule    bool // 1–2: rule 11, redactions are authorised by level or by the domain of the event id
	NotificationLevels   bool // 6+: power_levels.notifications is compared in rule 10
	Knock                bool // 7+
	Restricted           bool // 8+: join rule "restricted"
	KnockRestricted      bool // 10+: join rule "knock_restricted"
	IntegerPowerLevels   bool // 10+: power levels are integers, never strings
	CreatorInContent     bool // 1–10: m.room.create names its creator in content.creator
	RedactsInContent     bool // 11+: m.room.redaction names its target in content.redacts
	RoomIDIsCreateHash   bool // 12: the room id is the reference hash of the create event, which is no auth event
	PrivilegedCreators   bool // 12: creators stand above every power level
	KeepJoinAuthorised   bool // 9+: redaction keeps join_authorised_via_users_server
	KeepCreateContent    bool // 11+: redaction keeps the whole content of m.room.create
	KeepInviteLevel      bool // 11+: redaction keeps power_levels.invite
	KeepRedacts          bool // 11+: redaction keeps m.room.redaction's content.redacts
	KeepThirdPartySigned bool // 11+: redaction keeps m.room.member's third_party_invite.signed
	KeepOldTopLevel      bool // 1–10: redaction keeps origin, membership and prev_state at the top level
	KeepJoinRuleAllow    bool // 8+: redaction keeps m.room.join_rules' allow
}

// Default is the version of new rooms when nobody asks for another.
const Default = "12"

// All returns every supported version, oldest first.
func All() []string {
	return []string{"1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"}
}

// Get returns the rules of version, or false when the version is unknown.
// The text is opaque: "01" is not "1".
func Get(version string) (*Rules, bool) {
	for i := range table {
		if table[i].Version == version {
			return &table[i], true
		}
	}
	return nil, false
}

// OrDefault is Get for an m.room.create that may leave room_version out, which means "1".
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroomcreate
func OrDefault(version string) (*Rules, bool) {
	if version == "" {
		version = "1"
	}
	return Get(version)
}

// table is built once from each version's changes to the one before it.
var table = build()

func build() [12]Rules {
	var t [12]Rules
	r := Rules{
		EventIDs: EventIDInEvent, StateResolution: StateResolutionV1,
		AliasAuthRule: true, RedactionAuthRule: true, CreatorInContent: true, KeepOldTopLevel: true,
	}
	changes := [12]func(){
		func() {},
		func() { r.StateResolution = StateResolutionV2 },
		func() { r.EventIDs, r.RedactionAuthRule = EventIDBase64, false },
		func() { r.EventIDs = EventIDURLSafe },
		func() { r.EnforceKeyValidity = true },
		func() { r.StrictJSON, r.AliasAuthRule, r.NotificationLevels = true, false, true },
		func() { r.Knock = true },
		func() { r.Restricted, r.KeepJoinRuleAllow = true, true },
		func() { r.KeepJoinAuthorised = true },
		func() { r.KnockRestricted, r.IntegerPowerLevels = true, true },
		func() {
			r.CreatorInContent, r.KeepOldTopLevel = false, false
			r.RedactsInContent, r.KeepCreateContent, r.KeepInviteLevel = true, true, true
			r.KeepRedacts, r.KeepThirdPartySigned = true, true
		},
		func() {
			r.StateResolution = StateResolutionV21
			r.RoomIDIsCreateHash, r.PrivilegedCreators = true, true
		},
	}
	for i, version := range All() {
		changes[i]()
		r.Version = version
		t[i] = r
	}
	return t
}
