package rooms

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// checkState refuses state that the specification gives a form which the draft does not have.
func (s *Service) checkState(ctx context.Context, d *Draft) error {
	switch d.Type {
	case "m.room.power_levels":
		return checkPowerLevels(d.Content)
	case "m.room.canonical_alias":
		return s.checkCanonicalAlias(ctx, d)
	case "m.room.member":
		return s.checkMember(ctx, d)
	}
	return nil
}

// checkPowerLevels lets nobody emit levels that are not integers, in no room version.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#mroompower_levels
func checkPowerLevels(content []byte) error {
	levels := struct {
		Ban, Invite, Kick, Redact                 *int64
		EventsDefault, StateDefault, UsersDefault *int64 `json:"-"`
		EventsDefaultN                            *int64 `json:"events_default"`
		StateDefaultN                             *int64 `json:"state_default"`
		UsersDefaultN                             *int64 `json:"users_default"`
		Events, Users, Notifications              map[string]int64
	}{}
	if err := json.Unmarshal(content, &levels); err != nil {
		return mxerr.BadJSON.With("power levels have to be integers")
	}
	for user := range levels.Users {
		if _, err := id.ParseUserID(user); err != nil {
			return mxerr.BadJSON.With("%q is no user id", user)
		}
	}
	return nil
}

// checkMember refuses a membership event without a membership or of nobody, and an invite that its own endpoint
// would refuse.
func (s *Service) checkMember(ctx context.Context, d *Draft) error {
	target, err := id.ParseUserID(*d.StateKey)
	if err != nil {
		return mxerr.InvalidParam.With("the state key of an m.room.member has to be a user id")
	}
	membership := gjson.GetBytes(d.Content, "membership")
	if membership.Type != gjson.String {
		return mxerr.BadJSON.With("an m.room.member needs a membership that is a string")
	}
	if entering(membership.Str) && d.Room != "" {
		if err := s.checkBlocked(ctx, d.Room); err != nil {
			return err
		}
	}
	if membership.Str == "invite" {
		return s.checkInvitee(ctx, d.Sender, target)
	}
	return nil
}

// checkCanonicalAlias refuses new aliases that are malformed or do not point to the room; the servers of aliases that are
// not from here are asked. Those that the current event has already are not asked for again, and there may be at most a
// hundred others.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidstateeventtypestatekey
func (s *Service) checkCanonicalAlias(ctx context.Context, d *Draft) error {
	aliases, err := aliasesOf(d.Content)
	if err != nil {
		return err
	}
	r, err := s.room(ctx, d.Room)
	if err != nil {
		return err
	}
	now, err := r.StateEvent(ctx, r.View().State, d.Type, "")
	if err != nil {
		return err
	}
	if now != nil {
		known, _ := aliasesOf(now.Content()) // what is malformed there is not known
		aliases = slices.DeleteFunc(aliases, func(a string) bool { return slices.Contains(known, a) })
	}
	if len(aliases) > maxNewAliases {
		return mxerr.InvalidParam.With("at most %d aliases can be added at once", maxNewAliases)
	}
	for _, a := range aliases {
		if err := s.checkAliasOf(ctx, a, r); err != nil {
			return err
		}
	}
	return nil
}

func aliasesOf(content []byte) ([]string, error) {
	c := struct {
		Alias *string  `json:"alias"`
		Alt   []string `json:"alt_aliases"`
	}{}
	if err := json.Unmarshal(content, &c); err != nil {
		return nil, mxerr.InvalidParam.With("alias and alt_aliases have to be strings")
	}
	if c.Alias != nil && *c.Alias != "" {
		c.Alt = append(c.Alt, *c.Alias)
	}
	return c.Alt, nil
}

// maxNewAliases is how many aliases are looked up for one event.
const maxNewAliases = 100

func (s *Service) checkAliasOf(ctx context.Context, text string, r *roomstate.Room) error {
	alias, err := id.ParseRoomAlias(text)
	if err != nil {
		return mxerr.InvalidParam.With("%q is no room alias", text)
	}
	room, _, err := s.lookUp(ctx, alias)
	switch {
	case errors.Is(err, mxerr.NotFound) || err == nil && room != r.ID:
		return mxerr.BadAlias.With("%s does not point to this room", alias)
	case err != nil && alias.Server() != s.ServerName:
		return mxerr.BadAlias.With("%s cannot be looked up now", alias)
	}
	return err
}

// refine completes a draft by what the room holds. It runs under the room's lock.
func (s *Service) refine(ctx context.Context, w *roomstate.Writer, d *Draft) error {
	if d.StateKey != nil && d.Type == "m.room.member" {
		return s.refineMember(ctx, w, d)
	}
	if d.StateKey == nil && gjson.GetBytes(d.Content, "m\\.relates_to").IsObject() {
		return s.checkRelation(w, d)
	}
	return nil
}

// checkRelation refuses a thread on an event that is a relation itself.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#validation-of-mthread-relationships
func (s *Service) checkRelation(w *roomstate.Writer, d *Draft) error {
	rel := gjson.GetBytes(d.Content, "m\\.relates_to")
	relType, target := rel.Get("rel_type").String(), rel.Get("event_id").String()
	switch relType {
	case "m.thread":
		rootID, err := id.ParseEventID(target)
		if err != nil {
			return nil // whatever it is, this server does not have it
		}
		root, err := w.EventByID(w.Context(), rootID)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err == nil && gjson.GetBytes(root.Content(), "m\\.relates_to.rel_type").Exists() {
			err = mxerr.BadRequest.With("a thread cannot start at an event that is a relation itself")
		}
		return err
	case "m.annotation":
		return s.checkAnnotation(w, d)
	}
	return nil
}

// checkAnnotation refuses an annotation that its sender has made already.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#avoiding-duplicate-annotations
func (s *Service) checkAnnotation(w *roomstate.Writer, d *Draft) error {
	hash := annotation(d.Sender, d.Type, d.Content)
	return s.DB.Read(w.Context(), func(tx *storage.Tx) error {
		known, err := tx.Annotated(w.Num, hash)
		if err == nil && known {
			err = mxerr.DuplicateAnnotation
		}
		return err
	})
}

// annotation identifies what may be said once: sender, event type, target and key.
func annotation(sender id.UserID, eventType string, content []byte) []byte {
	rel := gjson.GetBytes(content, "m\\.relates_to")
	h := sha256.New()
	for _, part := range []string{string(sender), eventType, rel.Get("event_id").String(), rel.Get("key").String()} {
		h.Write([]byte(part))
		h.Write([]byte{0})
	}
	return h.Sum(nil)
}

// isAnnotation reports whether a content annotates another event.
func isAnnotation(content []byte) bool {
	return gjson.GetBytes(content, "m\\.relates_to.rel_type").String() == "m.annotation"
}

// afterState does what a durable state event brings about elsewhere.
func (s *Service) afterState(ctx context.Context, d Draft) {
	switch {
	case d.Type == "m.room.guest_access":
		s.removeGuests(ctx, d.Room)
	case d.Type == "m.room.member" && gjson.GetBytes(d.Content, "membership").String() != "join":
		s.Typing.Set(d.Room, id.UserID(*d.StateKey), 0) // who is out of the room no longer types there
	}
}
