package eventauth

import (
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
)

// The types of account data in which users keep who may invite them.
const (
	InvitePermission = "m.invite_permission_config"
	InviteFilter     = "org.matrix.msc4155.invite_permission_config" // of the same name, while it is in no specification
)

// InviteRule is what becomes of an invite.
type InviteRule uint8

// What becomes of invites: they are taken, taken without the user being told, or refused.
const (
	TakeInvite InviteRule = iota
	IgnoreInvite
	RefuseInvite
)

// InviteRules are a user's wishes about who may invite them. The zero value takes everything. They are immutable.
type InviteRules struct {
	refuseAll      bool
	users, servers [RefuseInvite + 1][]string // globs, by what they do
}

// maxInviteGlobs bounds each list of globs, and maxInviteGlob each of them: the rest counts as not there.
const (
	maxInviteGlobs = 1000
	maxInviteGlob  = 255 // bytes; no user id is longer
)

// ReadInviteRules reads the content of InvitePermission and of InviteFilter, in canonical JSON; nil when there is none.
// What is not understood in them counts as not there.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#minvite_permission_config and
// https://github.com/matrix-org/matrix-spec-proposals/pull/4155
func ReadInviteRules(permission, filter []byte) *InviteRules {
	action, _ := canonjson.String(canonjson.Get(permission, "default_action"))
	r := &InviteRules{refuseAll: action == "block"}
	for rule, name := range map[InviteRule]string{TakeInvite: "allowed", IgnoreInvite: "ignored", RefuseInvite: "blocked"} {
		r.users[rule] = inviteGlobs(canonjson.Get(filter, name+"_users"))
		r.servers[rule] = inviteGlobs(canonjson.Get(filter, name+"_servers"))
	}
	return r
}

func inviteGlobs(list []byte) []string {
	var patterns []string
	for elements := canonjson.OpenArray(list); len(patterns) < maxInviteGlobs; {
		value, ok := elements.Next()
		if !ok {
			break
		}
		if p, ok := canonjson.String(value); ok && p != "" && len(p) <= maxInviteGlob {
			patterns = append(patterns, p)
		}
	}
	return patterns
}

// Of returns what becomes of an invite by a user. What is said of users goes before what is said of servers, and what
// lets an invite in before what keeps it out.
func (r *InviteRules) Of(sender id.UserID) InviteRule {
	if r.refuseAll {
		return RefuseInvite
	}
	for rule := range r.users {
		if matchesAny(r.users[rule], string(sender)) {
			return InviteRule(rule)
		}
	}
	for rule := range r.servers {
		if matchesAny(r.servers[rule], string(sender.Server())) {
			return InviteRule(rule)
		}
	}
	return TakeInvite
}
