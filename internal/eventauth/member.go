package eventauth

import (
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
)

// memberContent is what the rules read of an m.room.member event's content.
type memberContent struct {
	membership string
	// hasMembership is true also for a membership that is no text, and so none that is known.
	hasMembership bool
	thirdParty    []byte // third_party_invite, nil when it is missing
	authorisedBy  []byte // join_authorised_via_users_server, nil when it is missing
}

// readMember takes canonical JSON.
func readMember(content []byte) (m memberContent) {
	for fields := canonjson.Open(content); ; {
		key, v, ok := fields.Next()
		if !ok {
			return m
		}
		switch string(key) {
		case "membership":
			m.hasMembership = true
			m.membership, _ = canonjson.String(v)
		case "third_party_invite":
			m.thirdParty = v
		case "join_authorised_via_users_server":
			m.authorisedBy = v
		}
	}
}

// authoriser is the user of join_authorised_via_users_server, if it is a user id.
func (m memberContent) authoriser() (id.UserID, bool) {
	return userID(m.authorisedBy)
}

// token is third_party_invite.signed.token, if it is there.
func (m memberContent) token() (string, bool) {
	return canonjson.String(canonjson.Get(m.thirdParty, "signed", "token"))
}

// memberRules are the rules for m.room.member.
func (c *check) memberRules() error {
	m := readMember(c.e.Content())
	// v11 4.1: If there is no `state_key` property, or no `membership` property in `content`, reject.
	if c.e.StateKey == nil || !m.hasMembership {
		return c.reject(memberShape, "m.room.member needs a state key and a membership")
	}
	// v11 4.2.1: If the event is not validly signed by the homeserver of the user ID denoted by the
	// key, reject. (No server can have signed for what is no user id; for the rest see Signers.)
	if c.rules.Restricted && m.authorisedBy != nil {
		if _, ok := m.authoriser(); !ok {
			return c.reject(memberAuthorised, "join_authorised_via_users_server is not a user id")
		}
	}
	return c.membershipRules(m, *c.e.StateKey)
}

func (c *check) membershipRules(m memberContent, target string) error {
	switch {
	case m.membership == "join":
		return c.joinRules(m, target)
	case m.membership == "invite" && m.thirdParty != nil:
		return c.thirdPartyRules(m, target)
	case m.membership == "invite":
		return c.inviteRules(target)
	case m.membership == "leave":
		return c.leaveRules(target)
	case m.membership == "ban":
		return c.banRules(target)
	case m.membership == "knock" && c.rules.Knock:
		return c.knockRules(target)
	}
	return c.reject(memberOtherwise, "this membership is not known")
}

func (c *check) joinRules(m memberContent, target string) error {
	// v11 4.3.1: If the only previous event is an `m.room.create` and the `state_key` is the sender
	// of the `m.room.create`, allow. (In versions 1 to 10: is the creator.)
	if c.followsCreate() && target == string(creator(c.create)) {
		return nil
	}
	// v11 4.3.2: If the `sender` does not match `state_key`, reject.
	if target != string(c.e.Sender) {
		return c.reject(joinSender, "nobody can join for another user")
	}
	current := c.membership(target)
	// v11 4.3.3: If the `sender` is banned, reject.
	if current == "ban" {
		return c.reject(joinBanned, "the sender is banned")
	}
	return c.joinByRule(m, current)
}

func (c *check) followsCreate() bool {
	return len(c.e.PrevEvents) == 1 && c.e.PrevEvents[0] == c.create.ID
}

func (c *check) joinByRule(m memberContent, current string) error {
	joinRule := c.joinRule()
	welcome := current == "invite" || current == "join"
	switch {
	// v11 4.3.4: If the `join_rule` is `invite` or `knock` then allow if membership state is `invite`
	// or `join`.
	case joinRule == "invite", joinRule == "knock" && c.rules.Knock:
		return c.allowIf(welcome, joinOtherwise, "the sender is not invited")
	// v11 4.3.5: If the `join_rule` is `restricted` or `knock_restricted`:
	// 1. If membership state is `join` or `invite`, allow.
	case c.isRestricted(joinRule) && welcome:
		return nil
	case c.isRestricted(joinRule):
		return c.authorisedJoin(m)
	// v11 4.3.6: If the `join_rule` is `public`, allow.
	case joinRule == "public":
		return nil
	}
	// v11 4.3.7: Otherwise, reject.
	return c.reject(joinOtherwise, "the join rule of this room is not known")
}

func (c *check) isRestricted(joinRule string) bool {
	return joinRule == "restricted" && c.rules.Restricted ||
		joinRule == "knock_restricted" && c.rules.KnockRestricted
}

// v11 4.3.5.2: If the `join_authorised_via_users_server` key in `content` is not a user with
// sufficient permission to invite other users or is not a joined member of the room, reject.
func (c *check) authorisedJoin(m memberContent) error {
	user, ok := m.authoriser()
	if !ok {
		return c.reject(joinAuthoriser, "the sender is not invited and nobody authorised the join")
	}
	if err := c.readLevels(); err != nil {
		return err
	}
	able := c.membership(string(user)) == "join" && c.levels.User(user) >= c.levels.Invite()
	return c.allowIf(able, joinAuthoriser, "the join was authorised by a user who may not invite")
}

// joinRule is the room's join rule, "invite" when it does not say.
func (c *check) joinRule() string {
	rules := c.state.Event("m.room.join_rules", "")
	if rules == nil {
		return "invite"
	}
	v := canonjson.Get(rules.Content(), "join_rule")
	if v == nil {
		return "invite"
	}
	s, _ := canonjson.String(v)
	return s
}

func (c *check) inviteRules(target string) error {
	// v11 4.4.2: If the `sender`'s current membership state is not `join`, reject.
	if c.membership(string(c.e.Sender)) != "join" {
		return c.reject(inviteSender, "the sender is not in the room")
	}
	// v11 4.4.3: If *target user*'s current membership state is `join` or `ban`, reject.
	switch c.membership(target) {
	case "join":
		return c.reject(inviteTarget, "the user is already in the room")
	case "ban":
		return c.reject(inviteTarget, "the user is banned")
	}
	if err := c.readLevels(); err != nil {
		return err
	}
	// v11 4.4.4: If the `sender`'s power level is greater than or equal to the *invite level*, allow.
	able := c.levels.User(c.e.Sender) >= c.levels.Invite()
	return c.allowIf(able, inviteOtherwise, "the sender may not invite")
}

func (c *check) leaveRules(target string) error {
	current := c.membership(target)
	// v11 4.5.1: If the `sender` matches `state_key`, allow if and only if that user's current
	// membership state is `invite`, `join`, or `knock`.
	if target == string(c.e.Sender) {
		in := current == "invite" || current == "join" || current == "knock" && c.rules.Knock
		return c.allowIf(in, leaveOwn, "the sender is not in the room")
	}
	// v11 4.5.2: If the `sender`'s current membership state is not `join`, reject.
	if c.membership(string(c.e.Sender)) != "join" {
		return c.reject(leaveSender, "the sender is not in the room")
	}
	if err := c.readLevels(); err != nil {
		return err
	}
	// v11 4.5.3: If the *target user*'s current membership state is `ban`, and the `sender`'s power
	// level is less than the *ban level*, reject.
	if current == "ban" && c.levels.User(c.e.Sender) < c.levels.Ban() {
		return c.reject(leaveUnban, "the sender may not lift bans")
	}
	// v11 4.5.4: If the `sender`'s power level is greater than or equal to the *kick level*, and the
	// *target user*'s power level is less than the `sender`'s power level, allow.
	return c.allowIf(c.outranks(target, c.levels.Kick()), leaveOtherwise, "the sender may not remove this user")
}

func (c *check) banRules(target string) error {
	// v11 4.6.1: If the `sender`'s current membership state is not `join`, reject.
	if c.membership(string(c.e.Sender)) != "join" {
		return c.reject(banSender, "the sender is not in the room")
	}
	if err := c.readLevels(); err != nil {
		return err
	}
	// v11 4.6.2: If the `sender`'s power level is greater than or equal to the *ban level*, and the
	// *target user*'s power level is less than the `sender`'s power level, allow.
	return c.allowIf(c.outranks(target, c.levels.Ban()), banOtherwise, "the sender may not ban this user")
}

// outranks reports whether the sender has the needed level and more power than target.
func (c *check) outranks(target string, needed int64) bool {
	level := c.levels.User(c.e.Sender)
	return level >= needed && c.levels.User(id.UserID(target)) < level
}

func (c *check) knockRules(target string) error {
	joinRule := c.joinRule()
	// v11 4.7.1: If the `join_rule` is anything other than `knock` or `knock_restricted`, reject.
	if joinRule != "knock" && !(joinRule == "knock_restricted" && c.rules.KnockRestricted) {
		return c.reject(knockRule, "nobody can knock on this room")
	}
	// v11 4.7.2: If `sender` does not match `state_key`, reject.
	if target != string(c.e.Sender) {
		return c.reject(knockSender, "nobody can knock for another user")
	}
	// v11 4.7.3: If the `sender`'s current membership is not `ban`, `invite`, or `join`, allow.
	switch c.membership(target) {
	case "ban":
		return c.reject(knockOtherwise, "the sender is banned")
	case "invite", "join":
		return c.reject(knockOtherwise, "the sender is already invited or in the room")
	}
	return nil
}
