package rooms

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// AliasFor returns the room that an alias of this server stands for and the servers that are in it, or mxerr.NotFound.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1querydirectory
func (s *Service) AliasFor(ctx context.Context, alias id.RoomAlias) (id.RoomID, []id.ServerName, error) {
	room, err := s.resolve(ctx, alias)
	if err != nil {
		return "", nil, err
	}
	r, err := s.room(ctx, room)
	if err != nil {
		return "", nil, err
	}
	servers := append([]id.ServerName{}, r.Servers()...)
	slices.Sort(servers)
	return room, servers, nil
}

// ProfileFor returns the profile of a user of this server as an object, or, if field is not empty, that field alone.
// It is mxerr.NotFound for everybody else, deactivated users too.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1queryprofile
func (s *Service) ProfileFor(ctx context.Context, user id.UserID, field string) (json.RawMessage, error) {
	if err := s.checkKnown(ctx, user); err != nil {
		return nil, err
	}
	fields, err := s.profile(ctx, user)
	if err != nil {
		return nil, err
	}
	if field != "" {
		fields = slices.DeleteFunc(fields, func(f storage.ProfileField) bool { return f.Name != field })
	}
	return appendFields(nil, sorted(fields)), nil
}
