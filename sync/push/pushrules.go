package push

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
)

// Ruleset is the push rules of a person, each kind in the order in which its rules are tried.
type Ruleset struct {
	Override  []Rule `json:"override"`
	Content   []Rule `json:"content"`
	Room      []Rule `json:"room"`
	Sender    []Rule `json:"sender"`
	Underride []Rule `json:"underride"`
}

// Rule says what to do about the events that meet all of its conditions.
type Rule struct {
	ID         string      `json:"rule_id"`
	Default    bool        `json:"default"`
	Enabled    bool        `json:"enabled"`
	Conditions []Condition `json:"conditions"`
	Actions    []any       `json:"actions"` // "notify" or a Tweak
}

// Condition is met or not by an event. Which fields it has depends on Kind.
type Condition struct {
	Kind    string  `json:"kind"`
	Key     string  `json:"key,omitempty"`
	Pattern *string `json:"pattern,omitempty"`
	Value   any     `json:"value,omitempty"`
	Is      string  `json:"is,omitempty"`
}

// Tweak is how to notify.
type Tweak struct {
	Set   string `json:"set_tweak"`
	Value string `json:"value,omitempty"`
}

// Global holds the one scope that is left of what were several.
type Global struct {
	Global *Ruleset `json:"global"`
}

// getPushRules implements GET /_matrix/client/v3/pushrules/.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3pushrules
func (s *Service) getPushRules(_ context.Context, c *httpapi.Call, _ *httpapi.None) (*Global, error) {
	return &Global{DefaultRules(c.User)}, nil
}

// getPushRulesGlobal implements GET /_matrix/client/v3/pushrules/global/.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3pushrulesglobal
func (s *Service) getPushRulesGlobal(_ context.Context, c *httpapi.Call, _ *httpapi.None) (*Ruleset, error) {
	return DefaultRules(c.User), nil
}

// DefaultRules returns the server-default rules of a user, a fresh copy.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#predefined-rules
func DefaultRules(user id.UserID) *Ruleset {
	return &Ruleset{
		Override:  defaultOverride(user),
		Content:   []Rule{},
		Room:      []Rule{},
		Sender:    []Rule{},
		Underride: defaultUnderride(),
	}
}

func defaultOverride(user id.UserID) []Rule {
	master := rule(".m.rule.master", nil)
	master.Enabled = false
	return []Rule{
		master,
		rule(".m.rule.suppress_notices", nil, match("content.msgtype", "m.notice")),
		rule(".m.rule.invite_for_me", sound("default"),
			match("type", "m.room.member"), match("content.membership", "invite"), match("state_key", string(user))),
		rule(".m.rule.member_event", nil, match("type", "m.room.member")),
		rule(".m.rule.is_user_mention", append(sound("default"), highlight),
			Condition{Kind: "event_property_contains", Key: `content.m\.mentions.user_ids`, Value: user}),
		rule(".m.rule.is_room_mention", []any{notify, highlight},
			Condition{Kind: "event_property_is", Key: `content.m\.mentions.room`, Value: true},
			Condition{Kind: "sender_notification_permission", Key: "room"}),
		rule(".m.rule.tombstone", []any{notify, highlight}, match("type", "m.room.tombstone"), match("state_key", "")),
		rule(".m.rule.reaction", nil, match("type", "m.reaction")),
		rule(".m.rule.room.server_acl", nil, match("type", "m.room.server_acl"), match("state_key", "")),
		rule(".m.rule.suppress_edits", nil,
			Condition{Kind: "event_property_is", Key: `content.m\.relates_to.rel_type`, Value: "m.replace"}),
	}
}

func defaultUnderride() []Rule {
	two := Condition{Kind: "room_member_count", Is: "2"}
	return []Rule{
		rule(".m.rule.call", sound("ring"), match("type", "m.call.invite")),
		rule(".m.rule.encrypted_room_one_to_one", sound("default"), two, match("type", "m.room.encrypted")),
		rule(".m.rule.room_one_to_one", sound("default"), two, match("type", "m.room.message")),
		rule(".m.rule.message", []any{notify}, match("type", "m.room.message")),
		rule(".m.rule.encrypted", []any{notify}, match("type", "m.room.encrypted")),
	}
}

const notify = "notify"

var highlight = Tweak{Set: "highlight"}

func sound(name string) []any { return []any{notify, Tweak{Set: "sound", Value: name}} }

func match(key, pattern string) Condition {
	return Condition{Kind: "event_match", Key: key, Pattern: &pattern}
}

func rule(id string, actions []any, conditions ...Condition) Rule {
	r := Rule{ID: id, Default: true, Enabled: true, Actions: []any{}, Conditions: []Condition{}}
	r.Actions = append(r.Actions, actions...)
	r.Conditions = append(r.Conditions, conditions...)
	return r
}
