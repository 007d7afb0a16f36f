package rooms

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// The limits of a profile, in bytes.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3profileuseridkeyname
const (
	maxProfile      = 64 << 10 // all of it, as the JSON object that is told
	maxProfileKey   = 255
	maxProfileNamed = 1024 // displayname, avatar_url and m.tz: the first two go into events of every room
)

// getUserProfile implements GET /_matrix/client/v3/profile/{userId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3profileuserid
func (s *Service) getUserProfile(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	user := c.UserID("userId")
	if s.residesElsewhere(user) {
		return s.profileElsewhere(ctx, user, "")
	}
	fields, err := s.profile(ctx, user)
	if err != nil {
		return nil, err
	}
	if len(fields) == 0 {
		if err := s.checkKnown(ctx, user); err != nil {
			return nil, err
		}
	}
	return answer(appendFields(nil, sorted(fields))), nil
}

func sorted(fields []storage.ProfileField) []storage.ProfileField {
	slices.SortFunc(fields, func(a, b storage.ProfileField) int { return strings.Compare(a.Name, b.Name) })
	return fields
}

// getProfileField implements GET /_matrix/client/v3/profile/{userId}/{keyName}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3profileuseridkeyname
func (s *Service) getProfileField(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rawJSON, error) {
	user, key := c.UserID("userId"), c.PathValue("keyName")
	if err := checkProfileKey(key); err != nil {
		return nil, err
	}
	if s.residesElsewhere(user) {
		return s.profileElsewhere(ctx, user, key)
	}
	var field storage.ProfileField
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		field, err = tx.ProfileField(user, key)
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		return nil, mxerr.NotFound.With("%s has no %s", user, key)
	}
	return answer(appendFields(nil, []storage.ProfileField{field})), err
}

// setProfileField implements PUT /_matrix/client/v3/profile/{userId}/{keyName}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3profileuseridkeyname
func (s *Service) setProfileField(ctx context.Context, c *httpapi.Call, in *json.RawMessage) (*httpapi.Empty, error) {
	key, err := s.ownProfileKey(c)
	if err != nil {
		return nil, err
	}
	value, err := profileValue(key, *in)
	if err != nil {
		return nil, err
	}
	if emptied(key, value) {
		value = nil
	}
	return &httpapi.Empty{}, s.SetProfileField(ctx, c.User, key, value)
}

// deleteProfileField implements DELETE /_matrix/client/v3/profile/{userId}/{keyName}.
//
// https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3profileuseridkeyname
func (s *Service) deleteProfileField(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	key, err := s.ownProfileKey(c)
	if err != nil {
		return nil, err
	}
	return &httpapi.Empty{}, s.SetProfileField(ctx, c.User, key, nil)
}

// SetProfileField changes a field of a local user's profile; a nil value removes it, any other is JSON. A new
// displayname or avatar_url is told to every room the user is in before this returns.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#events-on-change-of-profile-information
func (s *Service) SetProfileField(ctx context.Context, user id.UserID, key string, value []byte) error {
	err := s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		if value == nil {
			_, err := tx.DeleteProfileField(user, key)
			return err
		}
		return putProfileField(tx, user, storage.ProfileField{Name: key, Value: value})
	})
	if err != nil || key != "displayname" && key != "avatar_url" {
		return err
	}
	if displayname, avatarURL, err := s.profileOf(ctx, user); err == nil {
		s.Presence.Renamed(user, displayname, avatarURL)
	}
	return s.spreadProfile(ctx, user)
}

// putProfileField stores a field unless the profile would be larger than it may be.
func putProfileField(tx *storage.Tx, user id.UserID, f storage.ProfileField) error {
	fields, err := tx.Profile(user)
	if err != nil {
		return err
	}
	fields = slices.DeleteFunc(fields, func(old storage.ProfileField) bool { return old.Name == f.Name })
	if len(appendFields(nil, append(fields, f))) > maxProfile {
		return mxerr.ProfileTooLarge
	}
	return tx.PutProfileField(user, f)
}

// spreadProfile sends the member event of a user anew to all the rooms they are in. The profile is set by
// then, so a room that cannot be told is only written to the log. Rooms are told beside each other, to share
// their commits.
func (s *Service) spreadProfile(ctx context.Context, user id.UserID) error {
	ctx = context.WithoutCancel(ctx) // half of the rooms must not keep the old name because a client has gone
	rooms, err := s.JoinedRooms(ctx, user)
	if err != nil {
		return err
	}
	eachBeside(rooms, func(room id.RoomID) {
		if err := s.updateMember(ctx, room, user); err != nil {
			s.Log.Error("tell a room of a new profile", "room", room, "user", user, "error", err)
		}
	})
	return nil
}

// ownProfileKey checks that the caller may change the field that the path names.
func (s *Service) ownProfileKey(c *httpapi.Call) (string, error) {
	key := c.PathValue("keyName")
	switch {
	case c.UserID("userId") != c.User:
		return "", mxerr.Forbidden.With("you can only change your own profile")
	case c.Guest && key != "displayname":
		return "", mxerr.GuestAccessForbidden.With("guests can only change their display name")
	}
	if err := notSuspended(c); err != nil {
		return "", err
	}
	if err := checkProfileKey(key); err != nil {
		return "", err
	}
	if s.MayChange != nil && !s.MayChange(key) {
		return "", mxerr.Forbidden.With("%s cannot be changed here", key)
	}
	return key, nil
}

// checkProfileKey refuses what no field can be called.
//
// Spec: https://spec.matrix.org/latest/appendices/#common-namespaced-identifier-grammar
func checkProfileKey(key string) error {
	switch {
	case key == "displayname" || key == "avatar_url":
		return nil
	case len(key) > maxProfileKey:
		return mxerr.KeyTooLarge
	case key == "" || key[0] < 'a' || key[0] > 'z' || strings.IndexFunc(key, notInIdentifier) >= 0:
		return mxerr.InvalidParam.With("the key is not a namespaced identifier")
	case !strings.Contains(key, "."):
		return mxerr.InvalidParam.With("the key needs a namespace, as in com.example.key")
	}
	return nil
}

func notInIdentifier(r rune) bool {
	return !(r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("-_.", r))
}

// profileValue takes the value of a field from a request's body and checks it. An avatar_url is an mxc URI; what is no
// URI at all is kept, as other servers do.
func profileValue(key string, body []byte) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(body, &fields); err != nil {
		return nil, mxerr.BadJSON
	}
	value, ok := fields[key]
	if !ok {
		return nil, mxerr.MissingParam.With("the body has no %q", key)
	}
	if key == "displayname" || key == "avatar_url" || key == "m.tz" {
		if text, ok := textOf(value); !ok || len(text) > maxProfileNamed {
			return nil, mxerr.InvalidParam.With("%s has to be a string of at most %d bytes", key, maxProfileNamed)
		}
	}
	if text, _ := textOf(value); key == "avatar_url" && isOtherURI(text) {
		return nil, mxerr.InvalidParam.With("avatar_url has to be an mxc URI")
	}
	var compact bytes.Buffer
	err := json.Compact(&compact, value)
	return compact.Bytes(), err
}

// isOtherURI reports whether a text is a URI of another scheme than mxc, which clients might open.
func isOtherURI(text string) bool {
	scheme, _, ok := strings.Cut(strings.TrimLeftFunc(text, notPrinted), ":")
	return ok && scheme != "mxc" && strings.IndexFunc(scheme, notInScheme) < 0
}

func notPrinted(r rune) bool { return r <= ' ' }

func notInScheme(r rune) bool {
	return r > ' ' && !(r|0x20 >= 'a' && r|0x20 <= 'z' || r >= '0' && r <= '9' || strings.ContainsRune("+-.", r))
}

// emptied reports whether a displayname or avatar_url is set to nothing: what clients sent before there was
// a way to remove it.
func emptied(key string, value []byte) bool {
	return (key == "displayname" || key == "avatar_url") && string(value) == `""`
}

// textOf is the text of a JSON string.
func textOf(value []byte) (text string, ok bool) {
	if len(value) == 0 || value[0] != '"' {
		return "", false
	}
	err := json.Unmarshal(value, &text)
	return text, err == nil
}

// profile returns the fields of a user's profile. It knows users of this server alone.
func (s *Service) profile(ctx context.Context, user id.UserID) (fields []storage.ProfileField, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		fields, err = tx.Profile(user)
		return err
	})
	return fields, err
}

// profileOf returns what a local user's member events say of them; empty is not set.
func (s *Service) profileOf(ctx context.Context, user id.UserID) (displayname, avatarURL string, err error) {
	fields, err := s.profile(ctx, user)
	for _, f := range fields {
		switch f.Name {
		case "displayname":
			displayname, _ = textOf(f.Value)
		case "avatar_url":
			avatarURL, _ = textOf(f.Value)
		}
	}
	return displayname, avatarURL, err
}

// checkKnown is mxerr.NotFound for who is no user of this server, or no longer.
func (s *Service) checkKnown(ctx context.Context, user id.UserID) error {
	account, ok, err := s.account(ctx, user)
	if err == nil && (!ok || account.Deactivated) {
		err = mxerr.NotFound.With("this server knows nothing of %s", user)
	}
	return err
}

// Deactivated removes what a user has scheduled, and the profile of one who asked to be forgotten, in the transaction that
// ends the account.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3accountdeactivate
func (s *Service) Deactivated(tx *storage.Tx, _ storage.Pos, user id.UserID, erase bool) error {
	if err := tx.DeleteDelayedOf(user); err != nil || !erase {
		return err
	}
	return tx.DeleteProfile(user)
}

// appendFields appends a profile as an object.
func appendFields(dst []byte, fields []storage.ProfileField) []byte {
	dst = append(dst, '{')
	for i, f := range fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(canonjson.AppendString(dst, f.Name), ':')
		dst = append(dst, f.Value...)
	}
	return append(dst, '}')
}
