package eventauth

import (
	"strconv"
	"strings"

	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// rule names a rule of the specification. Its number depends on the room version.
type rule int

// Each rule that can refuse an event. The comment in front of a check quotes the rule.
const (
	otherwise rule = iota // allows; refuses nothing; only holds its place in the outline

	createPrevEvents
	createRoomID
	createVersion
	createCreator
	createAdditional

	ruleRoomID

	authDuplicate
	authSelection
	authRejected
	authNoCreate
	authRoom

	ruleFederate

	aliasStateKey
	aliasDomain

	memberShape
	memberAuthorised
	joinSender
	joinBanned
	joinAuthoriser
	joinOtherwise
	thirdPartyBanned
	thirdPartySigned
	thirdPartyFields
	thirdPartyMXID
	thirdPartyToken
	thirdPartySender
	thirdPartyOtherwise
	inviteSender
	inviteTarget
	inviteOtherwise
	leaveOwn
	leaveSender
	leaveUnban
	leaveOtherwise
	banSender
	banOtherwise
	knockRule
	knockSender
	knockOtherwise
	memberOtherwise

	ruleSenderJoined
	inviteLevel
	ruleRequiredLevel
	ruleOwnStateKey

	powerScalars
	powerLists
	powerUsers
	powerCreators
	powerScalarCurrent
	powerScalarNew
	powerListCurrent
	powerListNew
	powerUserCurrent
	powerUserNew

	redactionOtherwise
)

// line is one point of the specification's nested list of rules.
type line struct {
	depth int
	rule  rule
	in    func(*roomversion.Rules) bool // nil: in every version
}

// outline is the list of all versions laid over one another, in the specification's order. A
// version's numbers come from counting the lines that it has.
//
// In version 12 the specification's source numbers 3.4 as 5 and 10.11 as a second 10; the numbers
// here are those of the page as it is shown.
var outline = []line{
	{1, otherwise, nil}, // If type is `m.room.create`
	{2, createPrevEvents, nil},
	{2, createRoomID, nil},
	{2, createVersion, nil},
	{2, createCreator, func(r *roomversion.Rules) bool { return r.CreatorInContent }},
	{2, createAdditional, func(r *roomversion.Rules) bool { return r.PrivilegedCreators }},
	{2, otherwise, nil}, // Otherwise, allow

	{1, ruleRoomID, func(r *roomversion.Rules) bool { return r.RoomIDIsCreateHash }},

	{1, otherwise, nil}, // Considering the event's `auth_events`
	{2, authDuplicate, nil},
	{2, authSelection, nil},
	{2, authRejected, nil},
	{2, authNoCreate, func(r *roomversion.Rules) bool { return !r.RoomIDIsCreateHash }},
	{2, authRoom, nil},

	{1, ruleFederate, nil},

	{1, otherwise, aliases}, // If type is `m.room.aliases`
	{2, aliasStateKey, aliases},
	{2, aliasDomain, aliases},
	{2, otherwise, aliases}, // Otherwise, allow

	{1, otherwise, nil}, // If type is `m.room.member`
	{2, memberShape, nil},
	{2, otherwise, restricted}, // If `content` has a `join_authorised_via_users_server` property
	{3, memberAuthorised, restricted},
	{2, otherwise, nil}, // If `membership` is `join`
	{3, otherwise, nil}, // the creator's first join
	{3, joinSender, nil},
	{3, joinBanned, nil},
	{3, otherwise, nil},        // If the `join_rule` is `invite`
	{3, otherwise, restricted}, // If the `join_rule` is `restricted`
	{4, otherwise, restricted}, // If membership state is `join` or `invite`, allow
	{4, joinAuthoriser, restricted},
	{4, otherwise, restricted}, // Otherwise, allow
	{3, otherwise, nil},        // If the `join_rule` is `public`, allow
	{3, joinOtherwise, nil},
	{2, otherwise, nil}, // If `membership` is `invite`
	{3, otherwise, nil}, // If `content` has a `third_party_invite` property
	{4, thirdPartyBanned, nil},
	{4, thirdPartySigned, nil},
	{4, thirdPartyFields, nil},
	{4, thirdPartyMXID, nil},
	{4, thirdPartyToken, nil},
	{4, thirdPartySender, nil},
	{4, otherwise, nil}, // If any signature in `signed` matches, allow
	{4, thirdPartyOtherwise, nil},
	{3, inviteSender, nil},
	{3, inviteTarget, nil},
	{3, otherwise, nil}, // If the `sender`'s power level is enough, allow
	{3, inviteOtherwise, nil},
	{2, otherwise, nil}, // If `membership` is `leave`
	{3, leaveOwn, nil},
	{3, leaveSender, nil},
	{3, leaveUnban, nil},
	{3, otherwise, nil}, // If the `sender`'s power level is enough, allow
	{3, leaveOtherwise, nil},
	{2, otherwise, nil}, // If `membership` is `ban`
	{3, banSender, nil},
	{3, otherwise, nil}, // If the `sender`'s power level is enough, allow
	{3, banOtherwise, nil},
	{2, otherwise, knock}, // If `membership` is `knock`
	{3, knockRule, knock},
	{3, knockSender, knock},
	{3, otherwise, knock}, // If the `sender`'s membership is not `ban`, `invite` or `join`, allow
	{3, knockOtherwise, knock},
	{2, memberOtherwise, nil},

	{1, ruleSenderJoined, nil},
	{1, otherwise, nil}, // If type is `m.room.third_party_invite`
	{2, inviteLevel, nil},
	{1, ruleRequiredLevel, nil},
	{1, ruleOwnStateKey, nil},

	{1, otherwise, nil}, // If type is `m.room.power_levels`
	{2, powerScalars, func(r *roomversion.Rules) bool { return r.IntegerPowerLevels }},
	{2, powerLists, func(r *roomversion.Rules) bool { return r.IntegerPowerLevels }},
	{2, powerUsers, nil},
	{2, powerCreators, func(r *roomversion.Rules) bool { return r.PrivilegedCreators }},
	{2, otherwise, nil}, // If there is no previous `m.room.power_levels` event, allow
	{2, otherwise, nil}, // For the properties `users_default` …
	{3, powerScalarCurrent, nil},
	{3, powerScalarNew, nil},
	{2, otherwise, nil}, // For each entry being changed in, or removed from, `events` …
	{3, powerListCurrent, nil},
	{2, otherwise, nil}, // For each entry being added to, or changed in, `events` …
	{3, powerListNew, nil},
	{2, otherwise, nil}, // For each entry being changed in, or removed from, `users`
	{3, powerUserCurrent, nil},
	{2, otherwise, nil}, // For each entry being added to, or changed in, `users`
	{3, powerUserNew, nil},
	{2, otherwise, nil}, // Otherwise, allow

	{1, otherwise, redactions}, // If type is `m.room.redaction`
	{2, otherwise, redactions}, // If the `sender`'s power level is enough, allow
	{2, otherwise, redactions}, // If the domains are the same, allow
	{2, redactionOtherwise, redactions},

	{1, otherwise, nil}, // Otherwise, allow
}

func aliases(r *roomversion.Rules) bool    { return r.AliasAuthRule }
func redactions(r *roomversion.Rules) bool { return r.RedactionAuthRule }
func knock(r *roomversion.Rules) bool      { return r.Knock }
func restricted(r *roomversion.Rules) bool { return r.Restricted }

// number is the rule's number in the specification of the version, such as "4.3.5.2".
func number(rules *roomversion.Rules, wanted rule) string {
	var at [4]int // at[i] counts the lines of depth i+1 so far
	for _, l := range outline {
		if l.in != nil && !l.in(rules) {
			continue
		}
		at[l.depth-1]++
		clear(at[l.depth:])
		if l.rule == wanted {
			return dotted(at[:l.depth])
		}
	}
	return "?" // a rule that this version does not have; the tests show that none is asked for
}

func dotted(counts []int) string {
	parts := make([]string, len(counts))
	for i, n := range counts {
		parts[i] = strconv.Itoa(n)
	}
	return strings.Join(parts, ".")
}
