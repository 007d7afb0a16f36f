package rooms

import (
	"context"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// How long somebody counts as typing.
const (
	defaultTyping = 30 * time.Second // when the client does not say
	maxTyping     = 2 * time.Minute  // whatever the client says
)

type typing struct {
	Typing  *bool  `json:"typing"`
	Timeout *int64 `json:"timeout"` // milliseconds
}

// setTyping implements PUT /_matrix/client/v3/rooms/{roomId}/typing/{userId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3roomsroomidtypinguserid
func (s *Service) setTyping(ctx context.Context, c *httpapi.Call, in *typing) (*httpapi.Empty, error) {
	if c.UserID("userId") != c.User {
		return nil, mxerr.Forbidden.With("you can only type yourself")
	}
	if in.Typing == nil {
		return nil, mxerr.MissingParam.With("typing is missing")
	}
	s.Presence.Active(c.User, c.Device)
	return &httpapi.Empty{}, s.Type(ctx, c.RoomID("roomId"), c.User, in.duration())
}

// duration is how long the client will be typing; 0 is no longer.
func (t *typing) duration() time.Duration {
	switch {
	case !*t.Typing:
		return 0
	case t.Timeout == nil:
		return defaultTyping
	}
	return time.Duration(min(max(*t.Timeout, 0), maxTyping.Milliseconds())) * time.Millisecond
}

// Type says that user is typing in a room for the next time d; 0 says that they have stopped. Only who is in
// the room can type.
func (s *Service) Type(ctx context.Context, room id.RoomID, user id.UserID, d time.Duration) error {
	r, err := s.roomOf(ctx, room, user)
	if err != nil {
		return err
	}
	s.Typing.Set(room, user, d)
	s.tellTyping(ctx, r, user, d > 0)
	return nil
}
