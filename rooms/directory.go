package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

type resolved struct {
	RoomID  id.RoomID       `json:"room_id"`
	Servers []id.ServerName `json:"servers"`
}

// getRoomIDByAlias implements GET /_matrix/client/v3/directory/room/{roomAlias}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3directoryroomroomalias
func (s *Service) getRoomIDByAlias(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*resolved, error) {
	room, servers, err := s.lookUp(ctx, c.Alias("roomAlias"))
	if err != nil {
		return nil, err
	}
	return &resolved{room, servers}, nil
}

// lookUp returns the room that an alias of any server stands for, and servers that are in it; mxerr.NotFound when there
// is none.
func (s *Service) lookUp(ctx context.Context, alias id.RoomAlias) (id.RoomID, []id.ServerName, error) {
	if alias.Server() != s.ServerName && s.Remote != nil {
		return s.Remote.ResolveAlias(ctx, alias)
	}
	room, err := s.resolve(ctx, alias)
	if err != nil {
		return "", nil, err
	}
	servers, err := s.serversIn(ctx, room)
	return room, servers, err
}

// setRoomAlias implements PUT /_matrix/client/v3/directory/room/{roomAlias}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3directoryroomroomalias
func (s *Service) setRoomAlias(ctx context.Context, c *httpapi.Call, in *roomID) (*httpapi.Empty, error) {
	if in.RoomID == "" {
		return nil, mxerr.MissingParam.With("room_id is missing")
	}
	if _, err := id.ParseRoomID(string(in.RoomID)); err != nil {
		return nil, mxerr.InvalidParam.With("room_id is no room id")
	}
	return &httpapi.Empty{}, s.AddAlias(ctx, c.User, c.Alias("roomAlias"), in.RoomID)
}

// AddAlias gives a room a new name on this server, for a user who is in the room. A name that is taken, be
// it by the same room, is mxerr.Conflict.
func (s *Service) AddAlias(ctx context.Context, user id.UserID, alias id.RoomAlias, room id.RoomID) error {
	if alias.Server() != s.ServerName {
		return mxerr.InvalidParam.With("this server gives out aliases that end in :%s", s.ServerName)
	}
	r, err := s.roomOf(ctx, room, user)
	if errors.Is(err, mxerr.Forbidden) && s.PublishByAnyone {
		r, err = s.room(ctx, room)
	}
	if err != nil {
		return err
	}
	return s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		free, err := tx.PutAlias(alias, r.Num, user)
		if err == nil && !free {
			err = mxerr.Conflict.With("the alias %s exists already", alias)
		}
		return err
	})
}

// deleteRoomAlias implements DELETE /_matrix/client/v3/directory/room/{roomAlias}.
//
// https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3directoryroomroomalias
func (s *Service) deleteRoomAlias(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	alias, err := s.alias(ctx, c.Alias("roomAlias"))
	if err != nil {
		return nil, err
	}
	if alias.Creator != c.User && !c.Admin {
		if err := s.checkDirectory(ctx, c.User, alias.RoomID); err != nil {
			return nil, err
		}
	}
	return &httpapi.Empty{}, s.removeAlias(ctx, c.User, alias)
}

// removeAlias removes an alias, then from the room's canonical ones if the user may.
func (s *Service) removeAlias(ctx context.Context, user id.UserID, alias storage.Alias) error {
	err := s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		_, err := tx.DeleteAlias(alias.Alias)
		return err
	})
	if err != nil {
		return err
	}
	err = s.dropCanonical(ctx, user, alias)
	if errors.Is(err, mxerr.Forbidden) {
		return nil // "return a successful response even if the user does not have permission"
	}
	return err
}

// dropCanonical takes an alias out of m.room.canonical_alias, if it stands there.
func (s *Service) dropCanonical(ctx context.Context, user id.UserID, alias storage.Alias) error {
	r, err := s.room(ctx, alias.RoomID)
	if err != nil {
		return err
	}
	now, err := r.StateEvent(ctx, r.View().State, "m.room.canonical_alias", "")
	if err != nil || now == nil {
		return err
	}
	content, changed, err := withoutAlias(now.Content(), alias.Alias)
	if err != nil || !changed {
		return err
	}
	key := ""
	_, err = s.Send(ctx, Draft{
		Room: alias.RoomID, Sender: user, Type: "m.room.canonical_alias", StateKey: &key, Content: content,
	})
	return err
}

// withoutAlias returns the content of an m.room.canonical_alias without one of its aliases.
func withoutAlias(content []byte, alias id.RoomAlias) (_ json.RawMessage, changed bool, err error) {
	content = slices.Clone(content)
	if gjson.GetBytes(content, "alias").String() == string(alias) {
		changed = true
		if content, err = sjson.DeleteBytes(content, "alias"); err != nil {
			return nil, false, err
		}
	}
	alternatives := gjson.GetBytes(content, "alt_aliases").Array()
	kept := slices.DeleteFunc(slices.Clone(alternatives), func(a gjson.Result) bool { return a.String() == string(alias) })
	switch {
	case len(kept) == len(alternatives):
		return content, changed, nil
	case len(kept) == 0:
		content, err = sjson.DeleteBytes(content, "alt_aliases")
		return content, true, err
	}
	names := make([]string, len(kept))
	for i, a := range kept {
		names[i] = a.String()
	}
	content, err = sjson.SetBytes(content, "alt_aliases", names)
	return content, true, err
}

type aliasList struct {
	Aliases []id.RoomAlias `json:"aliases"`
}

// getLocalAliases implements GET /_matrix/client/v3/rooms/{roomId}/aliases.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3roomsroomidaliases
func (s *Service) getLocalAliases(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*aliasList, error) {
	rd, err := s.reader(ctx, c)
	if err != nil {
		return nil, err
	}
	if !eventauth.MayReadState(rd.now) {
		return nil, notInRoom()
	}
	out := &aliasList{}
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		out.Aliases, err = tx.AliasesOf(rd.Room.Num)
		return err
	})
	slices.Sort(out.Aliases)
	if out.Aliases == nil {
		out.Aliases = []id.RoomAlias{}
	}
	return out, err
}

type directoryVisibility struct {
	Visibility *string `json:"visibility"`
}

// getRoomVisibilityOnDirectory implements GET /_matrix/client/v3/directory/list/room/{roomId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3directorylistroomroomid
func (s *Service) getRoomVisibilityOnDirectory(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*directoryVisibility, error) {
	r, err := s.room(ctx, c.RoomID("roomId"))
	if err != nil {
		return nil, err
	}
	visibility := "private"
	err = s.DB.Read(ctx, func(tx *storage.Tx) error {
		published, err := tx.IsPublished(r.Num)
		if published {
			visibility = "public"
		}
		return err
	})
	return &directoryVisibility{&visibility}, err
}

// setRoomVisibilityOnDirectory implements PUT /_matrix/client/v3/directory/list/room/{roomId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3directorylistroomroomid
func (s *Service) setRoomVisibilityOnDirectory(ctx context.Context, c *httpapi.Call, in *directoryVisibility) (*httpapi.Empty, error) {
	public := in.Visibility == nil || *in.Visibility == "public"
	if !public && *in.Visibility != "private" {
		return nil, mxerr.InvalidParam.With("visibility is public or private")
	}
	r, err := s.room(ctx, c.RoomID("roomId"))
	if err != nil {
		return nil, err
	}
	if !c.Admin && !s.PublishByAnyone {
		if err := s.checkDirectory(ctx, c.User, r.ID); err != nil {
			return nil, err
		}
	}
	return &httpapi.Empty{}, s.publish(ctx, r, public)
}

func (s *Service) publish(ctx context.Context, r *roomstate.Room, public bool) error {
	defer s.listing.mark(r.Num)
	return s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		if public {
			return tx.Publish(r.Num)
		}
		return tx.Unpublish(r.Num)
	})
}

// checkDirectory refuses who may not say how a room is listed: who is not in it, or has not the level to
// change its canonical alias.
func (s *Service) checkDirectory(ctx context.Context, user id.UserID, room id.RoomID) error {
	r, err := s.roomOf(ctx, room, user)
	if err != nil {
		return err
	}
	state := r.View().State
	create, err := r.StateEvent(ctx, state, "m.room.create", "")
	if err != nil {
		return err
	}
	power, err := r.StateEvent(ctx, state, "m.room.power_levels", "")
	if err != nil {
		return err
	}
	levels, err := eventauth.Levels(r.Rules, create.Event, eventOf(power))
	if err != nil {
		return fmt.Errorf("power levels of %s: %w", room, err)
	}
	if levels.User(user) < levels.Event("m.room.canonical_alias", true) {
		return mxerr.Forbidden.With("your power level in the room is too low for that")
	}
	return nil
}

// resolve returns the room that an alias stands for, or mxerr.NotFound.
func (s *Service) resolve(ctx context.Context, alias id.RoomAlias) (id.RoomID, error) {
	a, err := s.alias(ctx, alias)
	return a.RoomID, err
}

// alias returns an alias of this server, or mxerr.NotFound.
func (s *Service) alias(ctx context.Context, alias id.RoomAlias) (a storage.Alias, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		a, err = tx.Alias(alias)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		err = mxerr.NotFound.With("there is no room alias %s", alias)
	}
	return a, err
}

// aliasTaken is mxerr.RoomInUse when a room has the alias.
func (s *Service) aliasTaken(ctx context.Context, alias id.RoomAlias) error {
	_, err := s.alias(ctx, alias)
	switch {
	case err == nil:
		return mxerr.RoomInUse.With("the alias %s exists already", alias)
	case errors.Is(err, mxerr.NotFound):
		return nil
	}
	return err
}

// serversIn returns the servers whose users are in a room, this one first.
func (s *Service) serversIn(ctx context.Context, room id.RoomID) ([]id.ServerName, error) {
	r, err := s.room(ctx, room)
	if err != nil {
		return nil, err
	}
	servers := slices.DeleteFunc(r.Servers(), func(server id.ServerName) bool { return server == s.ServerName })
	slices.Sort(servers)
	return append([]id.ServerName{s.ServerName}, servers...), nil
}
