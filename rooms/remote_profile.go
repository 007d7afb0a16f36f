package rooms

import (
	"context"
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// RemoteProfile is how users of other servers are looked up.
type RemoteProfile interface {
	// Profile asks the server of a user for one field of the profile, or for all when field is empty, and returns an
	// object that is not checked any further. The error is mxerr.NotFound when there is no such user or field.
	Profile(ctx context.Context, user id.UserID, field string) (json.RawMessage, error)
}

// residesElsewhere tells a user of another server, when others are asked at all.
func (s *Service) residesElsewhere(user id.UserID) bool {
	return s.Remote != nil && user.Server() != s.ServerName
}

// profileElsewhere asks another server for the profile of its user; key is empty for all of it. What is no profile field
// of the right form is left out.
func (s *Service) profileElsewhere(ctx context.Context, user id.UserID, key string) (*rawJSON, error) {
	raw, err := s.Remote.Profile(ctx, user, key)
	if err != nil {
		return nil, err
	}
	var told map[string]json.RawMessage
	if err := json.Unmarshal(raw, &told); err != nil {
		return nil, mxerr.Unknown.WithStatus(502).With("%s gives no profile of %s", user.Server(), user)
	}
	fields := make([]storage.ProfileField, 0, len(told))
	for name, value := range told {
		if (key == "" || name == key) && isProfileField(name, value) {
			fields = append(fields, storage.ProfileField{Name: name, Value: value})
		}
	}
	if key != "" && len(fields) == 0 {
		return nil, mxerr.NotFound.With("%s has no %s", user, key)
	}
	return answer(appendFields(nil, sorted(fields))), nil
}

// isProfileField tells a value that clients can make something of; null is as good as missing.
func isProfileField(name string, value json.RawMessage) bool {
	if name == "displayname" || name == "avatar_url" {
		_, ok := textOf(value)
		return ok
	}
	return checkProfileKey(name) == nil && string(value) != "null"
}
