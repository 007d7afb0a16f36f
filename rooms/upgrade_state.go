package rooms

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// taken are the types of state that a new room takes over from the one it replaces, beside power levels.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-upgrades ("recommended state events")
var taken = [...]string{
	"m.room.join_rules", "m.room.history_visibility", "m.room.guest_access", "m.room.encryption",
	"m.room.name", "m.room.avatar", "m.room.topic", "m.room.server_acl",
}

// furnish proposes the events of the new room behind its first; canonical is its m.room.canonical_alias or nil.
func (s *Service) furnish(ctx context.Context, old, w *roomstate.Writer, b *blueprint, canonical json.RawMessage) error {
	created, err := w.Levels()
	if err != nil {
		return err
	}
	levels, err := b.successorLevels(old, created.Creators())
	if err != nil {
		return err
	}
	bans := b.bans(old, created.Creators())
	starting := b.startingLevels(levels, bans)
	drafts := []Draft{b.member(b.creator, "join"), b.levels(starting)}
	if canonical != nil {
		drafts = append(drafts, b.copied("m.room.canonical_alias", "", canonical))
	}
	drafts = append(drafts, b.takenState(old)...)
	children, err := b.children(ctx, old)
	if err != nil {
		return err
	}
	drafts = append(append(drafts, children...), bans...)
	if starting != levels {
		drafts = append(drafts, b.levels(levels))
	}
	for _, d := range drafts {
		d.Room = w.ID
		if _, err := s.append(w, d); err != nil {
			return fmt.Errorf("copy %s: %w", d.Type, err)
		}
	}
	return old.Err()
}

// copied is a state event of the new room with the content of one of the old room.
func (b *blueprint) copied(eventType, stateKey string, content []byte) Draft {
	return Draft{Sender: b.creator, Type: eventType, StateKey: &stateKey, Content: fitting(b.rules, content)}
}

// fitting leaves out of a content what a room version does not take: numbers that versions 1 to 5 do.
func fitting(rules *roomversion.Rules, content []byte) []byte {
	if !rules.StrictJSON || canonjson.Check(content) == nil {
		return content
	}
	kept := []byte{'{'}
	for all := canonjson.Open(content); ; {
		key, v, ok := all.Next()
		if !ok {
			return append(kept, '}')
		}
		if canonjson.Check(v) != nil {
			continue
		}
		if len(kept) > 1 {
			kept = append(kept, ',')
		}
		kept = append(append(append(append(kept, '"'), key...), `":`...), v...)
	}
}

// takenState is the old room's state that every new room takes over. What was emptied there is left out; but that guests
// may not join is said, for clients that look for it in a new room.
func (b *blueprint) takenState(old *roomstate.Writer) (list []Draft) {
	for _, eventType := range taken {
		e := old.Event(eventType, "")
		if e == nil || len(e.Content()) == len("{}") {
			if eventType == "m.room.guest_access" {
				list = append(list, b.copied(eventType, "", []byte(`{"guest_access":"forbidden"}`)))
			}
			continue
		}
		content := e.Content()
		if eventType == "m.room.join_rules" {
			content = joinRulesFor(b.rules, content)
		}
		list = append(list, b.copied(eventType, "", content))
	}
	return list
}

// joinRulesFor puts in the place of a join rule that a version does not know the nearest that lets in nobody else.
func joinRulesFor(rules *roomversion.Rules, content []byte) []byte {
	rule := gjson.GetBytes(content, "join_rule").String()
	known := rule
	if known == "knock_restricted" && !rules.KnockRestricted {
		known = "restricted"
		if !rules.Restricted {
			known = "knock"
		}
	}
	if known == "restricted" && !rules.Restricted || known == "knock" && !rules.Knock {
		known = "invite"
	}
	if known == rule {
		return content
	}
	changed, err := sjson.SetBytes(slices.Clone(content), "join_rule", known)
	if err != nil {
		panic(fmt.Sprintf("rooms: set a join rule: %v", err)) // content is JSON
	}
	return changed
}

// children are the rooms of a space, which are what it is there for.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#spaces
func (b *blueprint) children(ctx context.Context, old *roomstate.Writer) (list []Draft, err error) {
	if kind, _ := textOf(canonjson.Get(b.creation, "type")); kind != "m.space" {
		return nil, nil
	}
	var rooms []string
	err = old.StateKeys(ctx, old.View().State, func(k roomstate.Key, _ int64) {
		if k.Type == "m.space.child" {
			rooms = append(rooms, k.StateKey)
		}
	})
	for _, room := range rooms {
		if e := old.Event("m.space.child", room); e != nil && len(e.Content()) > len("{}") {
			list = append(list, b.copied(e.Type, room, e.Content()))
		}
	}
	return list, err
}

// bans are those of the old room. The specification leaves memberships to the users; but nobody undoes a ban by
// waiting for an upgrade. Creators of the new room cannot be banned there.
func (b *blueprint) bans(old *roomstate.Writer, creators []id.UserID) (list []Draft) {
	var users []id.UserID
	old.Members(func(m roomstate.Member) bool {
		if m.Membership == "ban" && !slices.Contains(creators, m.User) {
			users = append(users, m.User)
		}
		return true
	})
	slices.Sort(users)
	for _, user := range users {
		if e := old.Event("m.room.member", string(user)); e != nil && e.Membership() == "ban" {
			list = append(list, b.ban(e))
		}
	}
	return list
}

// ban repeats a ban, without what only the room can vouch for in which it was spoken.
func (b *blueprint) ban(e *event.Event) Draft {
	content := map[string]any{"membership": "ban"}
	for _, key := range []string{"reason", "displayname", "avatar_url"} {
		if text, ok := textOf(canonjson.Get(e.Content(), key)); ok {
			content[key] = text
		}
	}
	d := b.state("m.room.member", content)
	d.StateKey = e.StateKey
	return d
}

func (b *blueprint) levels(levels *eventauth.LevelContent) Draft {
	key := ""
	content, err := json.Marshal(levels)
	if err != nil {
		panic(fmt.Sprintf("rooms: encode power levels: %v", err)) // integers and parsed JSON
	}
	return Draft{Sender: b.creator, Type: "m.room.power_levels", StateKey: &key, Content: content}
}

// levelsOf returns the power levels of a room, to be written anew. Where there are none, the creator's level is
// written out: it would end with the first m.room.power_levels.
func levelsOf(w *roomstate.Writer) (*eventauth.LevelContent, error) {
	content := []byte("{}")
	if power := w.Event("m.room.power_levels", ""); power != nil {
		content = power.Content()
	}
	written, err := eventauth.ReadLevelContent(w.Rules, content)
	if err != nil {
		return nil, err
	}
	levels, err := w.Levels()
	if err != nil || w.Rules.PrivilegedCreators {
		return written, err
	}
	for _, user := range levels.Creators() {
		written.SetUser(user, levels.User(user))
	}
	return written, nil
}

// firstAdmin is the level that creators have in rooms where they stand in m.room.power_levels.
const firstAdmin = 100

// successorLevels are the levels of the old room as the new one keeps them. Creators who stand above all levels
// are not written; where they no longer do, they get the highest level there is.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroompower_levels
func (b *blueprint) successorLevels(old *roomstate.Writer, creators []id.UserID) (*eventauth.LevelContent, error) {
	levels, err := levelsOf(old)
	if err != nil {
		return nil, err
	}
	before, err := old.Levels()
	if err != nil {
		return nil, err
	}
	switch {
	case b.rules.PrivilegedCreators:
		for _, user := range creators {
			delete(levels.Users, string(user))
		}
		// "m.room.tombstone … MUST be explicitly defined and given a power level higher than state_default."
		lowest := levels.Level("state_default") + 1
		if !old.Rules.PrivilegedCreators {
			lowest = max(lowest, creatorsOnly)
		}
		levels.SetEvent("m.room.tombstone", max(levels.Events["m.room.tombstone"], lowest))
	case old.Rules.PrivilegedCreators:
		highest := max(levels.Top(), firstAdmin)
		for _, user := range before.Creators() {
			levels.SetUser(user, highest)
		}
	}
	return levels, nil
}

// startingLevels are those under which the new room is furnished: its own if they let the user do it, or else
// levels that give power to nobody but the user.
func (b *blueprint) startingLevels(levels *eventauth.LevelContent, bans []Draft) *eventauth.LevelContent {
	mine, highest := levels.User(b.creator), levels.Top()
	stronger := slices.ContainsFunc(bans, func(d Draft) bool { return levels.User(id.UserID(*d.StateKey)) >= mine })
	if b.rules.PrivilegedCreators || mine >= highest && !stronger {
		return levels
	}
	starting := &eventauth.LevelContent{}
	starting.SetUser(b.creator, max(highest, firstAdmin))
	return starting
}
