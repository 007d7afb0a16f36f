package rooms

import (
	"context"
	"slices"
	"strings"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// maxMutual is how many rooms one answer names.
const maxMutual = 100

type mutualRooms struct {
	Joined    []id.RoomID `json:"joined"`
	Count     int         `json:"count"`
	NextBatch string      `json:"next_batch,omitempty"`
}

// getMutualRooms implements GET /_matrix/client/v1/mutual_rooms.
//
// A token is the id of the last room that was told: it never expires, and a page skips no room that both stay in.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mutual_rooms
func (s *Service) getMutualRooms(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*mutualRooms, error) {
	other, from, err := s.readMutual(c)
	if err != nil {
		return nil, err
	}
	rooms, err := s.sharedRooms(ctx, c.User, other)
	if err != nil {
		return nil, err
	}
	out := &mutualRooms{Count: len(rooms)}
	first, told := slices.BinarySearch(rooms, from)
	if told {
		first++
	}
	out.Joined = rooms[first:min(len(rooms), first+maxMutual)]
	if first+maxMutual < len(rooms) {
		out.NextBatch = mutualToken(out.Joined[maxMutual-1])
	}
	return out, nil
}

// readMutual reads the query.
func (s *Service) readMutual(c *httpapi.Call) (other id.UserID, from id.RoomID, err error) {
	if !c.HasQuery("user_id") {
		return "", "", mxerr.InvalidParam.With("user_id is missing")
	}
	if other, err = id.ParseUserID(c.Query("user_id")); err != nil {
		return "", "", mxerr.InvalidParam.With("user_id is no user id")
	}
	if other == c.User {
		return "", "", mxerr.InvalidParam.With("user_id is your own")
	}
	if !c.HasQuery("from") {
		return other, "", nil
	}
	name, ok := strings.CutPrefix(c.Query("from"), "m")
	if _, err := id.ParseRoomID(name); err != nil || !ok {
		return "", "", mxerr.InvalidParam.With("from is no token of this server")
	}
	return other, id.RoomID(name), nil
}

func mutualToken(last id.RoomID) string { return "m" + string(last) }

// sharedRooms returns the rooms that both users are in, in the order of their ids. Its cost follows the rooms of the two.
func (s *Service) sharedRooms(ctx context.Context, a, b id.UserID) ([]id.RoomID, error) {
	ours, err := s.Cache.RoomsOf(ctx, a)
	if err != nil {
		return nil, err
	}
	theirs, err := s.Cache.RoomsOf(ctx, b)
	if err != nil {
		return nil, err
	}
	rooms := []id.RoomID{}
	for _, room := range ours.Joined() {
		if m, ok := theirs.Get(room); ok && m.Membership == "join" {
			rooms = append(rooms, room)
		}
	}
	slices.Sort(rooms)
	return rooms, nil
}
