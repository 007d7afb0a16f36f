package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// NewVersion is the wish to replace a room by one of another version.
type NewVersion struct {
	Version string `json:"new_version"`
	// AdditionalCreators have the power of a creator, too, in versions that know such. Those of the old room
	// are not taken over.
	AdditionalCreators []id.UserID `json:"additional_creators"`
}

type replacement struct {
	Room id.RoomID `json:"replacement_room"`
}

// upgradeRoom implements POST /_matrix/client/v3/rooms/{roomId}/upgrade.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidupgrade
func (s *Service) upgradeRoom(ctx context.Context, c *httpapi.Call, in *NewVersion) (*replacement, error) {
	if err := notSuspended(c); err != nil {
		return nil, err
	}
	if in.Version == "" {
		return nil, mxerr.MissingParam.With("new_version is missing")
	}
	room, err := s.Upgrade(ctx, c.User, c.RoomID("roomId"), *in)
	if err != nil {
		return nil, err
	}
	return &replacement{room}, nil
}

// Upgrade replaces a room by a new one, for a user who may send m.room.tombstone there. The new room, the end of
// the old one and the move of its aliases are one act: there is never one without the others; but where a policy server
// has to sign the end, they follow each other, and what comes after the end may fail.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-upgrades
func (s *Service) Upgrade(ctx context.Context, user id.UserID, room id.RoomID, n NewVersion) (id.RoomID, error) {
	rules, err := rulesOf(n.Version)
	if err != nil {
		return "", err
	}
	name, avatar, err := s.profileOf(ctx, user)
	if err != nil {
		return "", err
	}
	b := &blueprint{creator: user, rules: rules, profiles: map[id.UserID][2]string{user: {name, avatar}}}
	b.nameCreators(n.AdditionalCreators)
	p, successor, err := s.replace(ctx, room, b)
	if errors.As(err, new(*unrecommended)) {
		b.nameCreators(n.AdditionalCreators)
		successor, err = s.replaceRecommended(ctx, room, b)
	}
	if err != nil {
		return "", fmt.Errorf("upgrade %s: %w", room, err)
	}
	if p == nil {
		return successor, nil
	}
	if err := p.Wait(ctx); err != nil {
		return "", fmt.Errorf("upgrade %s to %s: %w", room, successor, err)
	}
	return successor, nil
}

// replace proposes the events of both rooms under the old one's lock, and queues them.
func (s *Service) replace(ctx context.Context, room id.RoomID, b *blueprint) (*roomstate.Pending, id.RoomID, error) {
	old, err := s.lockOld(ctx, room, b.creator)
	if err != nil {
		return nil, "", err
	}
	defer old.Unlock()
	w, err := s.succeed(ctx, old, b)
	if err != nil {
		return nil, "", err
	}
	defer w.Unlock()
	staying, moving, err := s.splitNames(ctx, old)
	if err != nil {
		return nil, "", err
	}
	if err := s.furnish(ctx, old, w, b, moving); err != nil {
		return nil, "", err
	}
	if err := s.retire(old, b, staying); err != nil {
		return nil, "", err
	}
	old.Act().Also(func(tx *storage.Tx, _ storage.Pos) error { return s.moveNames(tx, old.Num, w.Num) })
	return old.Queue(), w.ID, nil
}

// lockOld takes a room for writing that a user wants to replace.
func (s *Service) lockOld(ctx context.Context, room id.RoomID, user id.UserID) (*roomstate.Writer, error) {
	old, err := s.lock(ctx, room)
	if err != nil {
		return nil, err
	}
	err = mayReplace(old, user)
	if p := old.Unsettled(); p != nil && err == nil { // then the room's view, which knows all its bans, is as far as old
		err = p.Wait(ctx)
	}
	if err != nil {
		old.Unlock()
		return nil, err
	}
	return old, nil
}

// mayReplace refuses who may not send m.room.tombstone.
func mayReplace(old *roomstate.Writer, user id.UserID) error {
	levels, err := old.Levels()
	switch {
	case err != nil:
		return err
	case membershipNow(old, user) != "join":
		return notInRoom()
	case levels.User(user) < levels.Event("m.room.tombstone", true):
		return mxerr.Forbidden.With("your power level in the room is too low to replace it")
	}
	return old.Err()
}

// succeed makes the first event of the new room and the tombstone of the old one. Each names the other, unless
// the new room's id is the hash of its first event: that event cannot name what names the room.
func (s *Service) succeed(ctx context.Context, old *roomstate.Writer, b *blueprint) (*roomstate.Writer, error) {
	room, err := s.newRoomID(b.rules)
	if err != nil {
		return nil, err
	}
	predecessor := map[string]any{"room_id": old.ID}
	if room != "" {
		tombstone, err := s.bury(old, b, room)
		if err != nil {
			return nil, err
		}
		predecessor["event_id"] = tombstone.ID
	}
	w, err := s.foundAfter(ctx, old, room, b, predecessor)
	if err != nil {
		return nil, err
	}
	old.Join(w)
	if room == "" {
		if _, err := s.bury(old, b, w.ID); err != nil {
			w.Unlock()
			return nil, err
		}
	}
	return w, nil
}

// foundAfter makes the first event of a room that replaces another one.
func (s *Service) foundAfter(ctx context.Context, old *roomstate.Writer, room id.RoomID, b *blueprint, predecessor map[string]any) (*roomstate.Writer, error) {
	if err := b.inheritCreation(old, predecessor); err != nil {
		return nil, err
	}
	if err := b.creationContent(); err != nil {
		return nil, err
	}
	return s.found(ctx, room, b)
}

// bury proposes the tombstone of a room.
func (s *Service) bury(old *roomstate.Writer, b *blueprint, successor id.RoomID) (*event.Event, error) {
	return s.append(old, b.tombstone(old.ID, successor))
}

func (b *blueprint) tombstone(old, successor id.RoomID) Draft {
	d := b.state("m.room.tombstone", map[string]any{
		"body": "This room has been replaced", "replacement_room": successor,
	})
	d.Room = old
	return d
}

// nameCreators puts the additional creators into what the new room is created with.
func (b *blueprint) nameCreators(users []id.UserID) {
	b.Creation = map[string]any{}
	if len(users) == 0 || !b.rules.PrivilegedCreators {
		return
	}
	list := make([]any, len(users))
	for i, user := range users {
		list[i] = string(user)
	}
	b.Creation["additional_creators"] = list
}

// inheritCreation takes over what the old room was created with and cannot be changed.
func (b *blueprint) inheritCreation(old *roomstate.Writer, predecessor map[string]any) error {
	create := old.Event("m.room.create", "")
	if create == nil {
		return old.Err()
	}
	b.Creation["predecessor"] = predecessor
	for _, key := range []string{"type", "m.federate"} {
		if v := canonjson.Get(create.Content(), key); v != nil && canonjson.Check(v) == nil {
			b.Creation[key] = json.RawMessage(v)
		}
	}
	return nil
}

// splitNames divides the canonical aliases of a room into those that stay there, because another server keeps
// them, and those that move along: the contents of two m.room.canonical_alias, nil where there is nothing to say.
func (s *Service) splitNames(ctx context.Context, old *roomstate.Writer) (staying, moving json.RawMessage, err error) {
	now := old.Event("m.room.canonical_alias", "")
	if now == nil {
		return nil, nil, old.Err()
	}
	var local []id.RoomAlias
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		local, err = tx.AliasesOf(old.Num)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	names, _ := aliasesOf(now.Content()) // what is malformed names nothing
	if !slices.ContainsFunc(names, func(name string) bool { return slices.Contains(local, id.RoomAlias(name)) }) {
		return nil, nil, nil
	}
	staying, moving = now.Content(), now.Content()
	for _, name := range names {
		from := &moving
		if slices.Contains(local, id.RoomAlias(name)) {
			from = &staying
		}
		if *from, _, err = withoutAlias(*from, id.RoomAlias(name)); err != nil {
			return nil, nil, err
		}
	}
	return staying, moving, nil
}

// moveNames gives a room's aliases and its place in the directory to another one.
func (s *Service) moveNames(tx *storage.Tx, from, to int64) error {
	tx.Then(func(storage.Pos) { s.listing.mark(from, to) }, nil)
	if err := tx.MoveAliases(from, to); err != nil {
		return err
	}
	published, err := tx.IsPublished(from)
	if err != nil || !published {
		return err
	}
	if err := tx.Publish(to); err != nil {
		return err
	}
	return tx.Unpublish(from)
}

// retire takes from the old room the names that have moved, and lets nobody talk or invite there any more, as
// far as the user may do that.
func (s *Service) retire(old *roomstate.Writer, b *blueprint, canonical json.RawMessage) error {
	drafts, err := b.retirement(old, canonical)
	if err != nil {
		return err
	}
	for _, d := range drafts {
		if _, err := s.append(old, d); err != nil && !errors.Is(err, mxerr.Forbidden) {
			return fmt.Errorf("change %s: %w", d.Type, err)
		}
	}
	return nil
}

// retirement are the events of retire.
func (b *blueprint) retirement(old *roomstate.Writer, canonical json.RawMessage) (drafts []Draft, err error) {
	if canonical != nil {
		drafts = append(drafts, b.copied("m.room.canonical_alias", "", canonical))
	}
	levels, err := levelsOf(old)
	if err != nil {
		return nil, err
	}
	// "setting events_default and invite to the greater of 50 and users_default + 1."
	quiet := max(50, levels.Level("users_default")+1)
	talk, invite := levels.Raise("events_default", quiet), levels.Raise("invite", quiet)
	if talk || invite {
		drafts = append(drafts, b.levels(levels))
	}
	for i := range drafts {
		drafts[i].Room = old.ID
	}
	return drafts, nil
}

// checkTombstone refuses a tombstone that leads back to its own room.
func checkTombstone(d *Draft) error {
	if gjson.GetBytes(d.Content, "replacement_room").String() == string(d.Room) {
		return mxerr.InvalidParam.With("a room cannot be replaced by itself")
	}
	return nil
}
