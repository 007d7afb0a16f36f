// Package eventauth decides: which events a room accepts (the authorisation rules of every room
// version), who may read an event (history visibility), and which servers may take part (server
// ACLs). It is pure: events in, verdicts out.
//
// A rule is asked for by name; its number in the room version's specification is worked out
// from the outline in rules.go, and only when it is needed for a Rejection.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#authorisation-rules
package eventauth

import (
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// State is the state of a room that an event is judged against.
//
// The create event must always be there, also in version 12, where no event lists it in its
// auth_events. A State that is asked often should implement Leveller too.
type State interface {
	// Event returns the current event of type and state key, or nil.
	Event(eventType, stateKey string) *event.Event
}

// Leveller is a State that keeps its power levels read. They must be those of its own
// m.room.create and m.room.power_levels events.
type Leveller interface {
	Levels() (*PowerLevels, error)
}

// Rejection says why an event is not authorised.
type Rejection struct {
	// Rule is the number of the rule in the specification of the event's room version.
	Rule string
	// Reason is fit for the eyes of a client.
	Reason string
	// Content says that the content is at fault, whoever sends it.
	Content bool
}

func (r *Rejection) Error() string { return "auth rule " + r.Rule + ": " + r.Reason }

// Check applies the authorisation rules to e in a room whose state is auth. The error is nil or a
// *Rejection.
//
// The rules about auth_events themselves are in CheckAuthEvents. Signatures need keys: see Signers.
func Check(e *event.Event, auth State) error {
	c := check{e: e, rules: e.Rules, state: auth}
	if e.Type == "m.room.create" {
		return c.createRules()
	}
	if err := c.roomRules(); err != nil {
		return err
	}
	switch {
	case e.Type == "m.room.aliases" && c.rules.AliasAuthRule:
		return c.aliasRules()
	case e.Type == "m.room.member":
		return c.memberRules()
	}
	return c.senderRules()
}

// Signers lists the servers that must have signed e before Check means anything. An event that one
// of them did not sign is dropped.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#validating-hashes-and-signatures-on-received-events
func Signers(e *event.Event) []id.ServerName {
	var m memberContent
	if e.Type == "m.room.member" {
		m = readMember(e.Content())
	}
	var servers []id.ServerName
	// "unless the event is a 3rd party invite, only the signature(s) from the originating server
	// (the server the `sender` belongs to) are required for verification"
	if m.membership != "invite" || m.thirdParty == nil {
		servers = append(servers, e.Sender.Server())
	}
	// "Room versions 1 and 2 also require that a signature is present from the domain in the
	// `event_id`, if it differs from the originating server."
	if e.Rules.EventIDs == roomversion.EventIDInEvent && e.ID.Server() != e.Sender.Server() {
		servers = append(servers, e.ID.Server())
	}
	// v11 4.2.1: "If the event is not validly signed by the homeserver of the user ID denoted by
	// the key, reject." Check refuses what is no user id.
	if user, ok := m.authoriser(); ok && e.Rules.Restricted && user.Server() != e.Sender.Server() {
		servers = append(servers, user.Server())
	}
	return servers
}

// check is one event on its way through the rules.
type check struct {
	e      *event.Event
	rules  *roomversion.Rules
	state  State
	create *event.Event
	levels *PowerLevels
}

func (c *check) reject(r rule, reason string) error {
	return &Rejection{Rule: number(c.rules, r), Reason: reason}
}

// roomRules are what every event but the first must pass, whatever its type.
func (c *check) roomRules() error {
	c.create = c.state.Event("m.room.create", "")
	if c.create == nil {
		return c.reject(noCreate(c.rules), "the room has no m.room.create event")
	}
	// v12 2: If the event's `room_id` is not an event ID for an accepted (not rejected)
	// `m.room.create` event, with the sigil `!` instead of `$`, reject.
	if c.rules.RoomIDIsCreateHash && !isRoomOf(c.e, c.create) {
		return c.reject(ruleRoomID, "the room id is not that of the room's m.room.create event")
	}
	// v11 3: If the `content` of the `m.room.create` event in the room state has the property
	// `m.federate` set to `false`, and the `sender` domain of the event does not match the `sender`
	// domain of the create event, reject.
	if c.e.Sender.Server() != c.create.Sender.Server() && !federates(c.create) {
		return c.reject(ruleFederate, "this room is closed to other servers")
	}
	return nil
}

func noCreate(rules *roomversion.Rules) rule {
	if rules.RoomIDIsCreateHash {
		return ruleRoomID
	}
	return authNoCreate
}

func isRoomOf(e, create *event.Event) bool {
	return len(e.Room) > 1 && len(create.ID) > 1 && e.Room[1:] == id.RoomID(create.ID[1:])
}

func federates(create *event.Event) bool {
	return string(canonjson.Get(create.Content(), "m.federate")) != "false"
}

// senderRules are the rules for all that is not about the room's creation or a membership.
func (c *check) senderRules() error {
	e := c.e
	// v11 5: If the `sender`'s current membership state is not `join`, reject.
	if c.membership(string(e.Sender)) != "join" {
		return c.reject(ruleSenderJoined, "the sender is not in the room")
	}
	if err := c.readLevels(); err != nil {
		return err
	}
	level := c.levels.User(e.Sender)
	// v11 6.1: Allow if and only if `sender`'s current power level is greater than or equal to the
	// *invite level*.
	if e.Type == "m.room.third_party_invite" {
		return c.allowIf(level >= c.levels.Invite(), inviteLevel, "the sender may not invite")
	}
	// v11 7: If the event type's *required power level* is greater than the `sender`'s power level,
	// reject.
	if c.levels.Event(e.Type, e.IsState()) > level {
		return c.reject(ruleRequiredLevel, "the sender's power level is too low for this type of event")
	}
	// v11 8: If the event has a `state_key` that starts with an `@` and does not match the `sender`,
	// reject.
	if e.StateKey != nil && isAnothers(*e.StateKey, e.Sender) {
		return c.reject(ruleOwnStateKey, "the state key is another user's id")
	}
	switch {
	case e.Type == "m.room.power_levels":
		return c.powerRules(level)
	case e.Type == "m.room.redaction" && c.rules.RedactionAuthRule:
		return c.redactionRules(level)
	}
	return nil
}

func isAnothers(stateKey string, sender id.UserID) bool {
	return stateKey != "" && stateKey[0] == '@' && stateKey != string(sender)
}

// redactionRules is rule 11 of versions 1 and 2.
func (c *check) redactionRules(level int64) error {
	// v1 11.1: If the `sender`'s power level is greater than or equal to the *redact level*, allow.
	if level >= c.levels.Redact() {
		return nil
	}
	// v1 11.2: If the domain of the `event_id` of the event being redacted is the same as the domain
	// of the `event_id` of the `m.room.redaction`, allow.
	same := c.e.Redacts.Server() == c.e.ID.Server()
	return c.allowIf(same, redactionOtherwise, "the sender may not redact events of other servers")
}

// aliasRules is rule 4 of versions 1 to 5.
func (c *check) aliasRules() error {
	// v1 4.1: If event has no `state_key`, reject.
	if c.e.StateKey == nil {
		return c.reject(aliasStateKey, "m.room.aliases needs a state key")
	}
	// v1 4.2: If sender's domain doesn't match `state_key`, reject.
	same := string(c.e.Sender.Server()) == *c.e.StateKey
	return c.allowIf(same, aliasDomain, "the state key is not the sender's server")
}

func (c *check) allowIf(ok bool, r rule, reason string) error {
	if ok {
		return nil
	}
	return c.reject(r, reason)
}

// membership is the current membership of user, "leave" when there is none.
func (c *check) membership(user string) string {
	return membershipOf(c.state.Event("m.room.member", user))
}

func membershipOf(member *event.Event) string {
	if member == nil {
		return "leave"
	}
	return member.Membership()
}

// readLevels sets c.levels; rules that need no levels do without it.
func (c *check) readLevels() (err error) {
	if l, ok := c.state.(Leveller); ok {
		c.levels, err = l.Levels()
		return err
	}
	c.levels, err = Levels(c.rules, c.create, c.state.Event("m.room.power_levels", ""))
	return err
}

// RedactionApplies reports whether redaction, an accepted event, takes effect on target, an event
// of the same room: auth is the state before the redaction.
//
// Spec: https://spec.matrix.org/latest/rooms/v11/#handling-redactions
func RedactionApplies(redaction, target *event.Event, auth State) bool {
	// Versions 1 and 2 decide it by rule 11, which the redaction has passed.
	if redaction.Room != target.Room || redaction.Rules.RedactionAuthRule {
		return redaction.Room == target.Room
	}
	// 2. The domain of the redaction event's `sender` matches that of the original event's `sender`.
	if redaction.Sender.Server() == target.Sender.Server() {
		return true
	}
	// 1. The power level of the redaction event's `sender` is greater than or equal to the *redact
	// level*.
	c := check{e: redaction, rules: redaction.Rules, state: auth, create: auth.Event("m.room.create", "")}
	return c.readLevels() == nil && c.levels.User(redaction.Sender) >= c.levels.Redact()
}
