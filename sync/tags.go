package syncing

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// tagType is the account data of a room in which its tags are kept.
const tagType = "m.tag"

// maxTags bounds the tags of a room, which are written anew with each change.
const maxTags = 64 << 10

// tags is the content of m.tag: what each tag says, by its name.
type tags struct {
	Tags map[string]json.RawMessage `json:"tags"`
}

// tag is what a tag says. Other keys of it are kept as they are.
type tag struct {
	Order *float64 `json:"order"`
}

// getRoomTags implements GET /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3useruseridroomsroomidtags
func (s *Service) getRoomTags(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*tags, error) {
	if err := ownOnly(c); err != nil {
		return nil, err
	}
	content, err := s.AccountData(ctx, c.User, c.RoomID("roomId"), tagType)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	t := readTags(content)
	return &t, nil
}

// setRoomTag implements PUT /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3useruseridroomsroomidtagstag
func (s *Service) setRoomTag(ctx context.Context, c *httpapi.Call, content *json.RawMessage) (*httpapi.Empty, error) {
	if err := ownOnly(c); err != nil {
		return nil, err
	}
	var t tag
	if err := json.Unmarshal(*content, &t); err != nil {
		return nil, mxerr.BadJSON.With("order has to be a number")
	}
	// "Ordering information is given under the order key as a number between 0 and 1."
	if t.Order != nil && !(*t.Order >= 0 && *t.Order <= 1) {
		return nil, mxerr.InvalidParam.With("order has to be between 0 and 1")
	}
	return nil, s.changeTags(ctx, c.User, c.RoomID("roomId"), func(t tags) {
		t.Tags[c.PathValue("tag")] = *content
	})
}

// deleteRoomTag implements DELETE /_matrix/client/v3/user/{userId}/rooms/{roomId}/tags/{tag}.
//
// https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3useruseridroomsroomidtagstag
func (s *Service) deleteRoomTag(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	if err := ownOnly(c); err != nil {
		return nil, err
	}
	return nil, s.changeTags(ctx, c.User, c.RoomID("roomId"), func(t tags) {
		delete(t.Tags, c.PathValue("tag"))
	})
}

// errUnchanged refuses an act that would change nothing.
var errUnchanged = errors.New("syncing: nothing changes")

// changeTags lets fn change a room's tags. It happens inside the one transaction that writes, so that two
// devices that tag a room at once both have their way.
func (s *Service) changeTags(ctx context.Context, user id.UserID, room id.RoomID, fn func(tags)) error {
	act := s.accountDataAct(user, room, tagType)
	act.Do = func(tx *storage.Tx, pos storage.Pos) error {
		before, err := tx.AccountData(user, room, tagType)
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		t := readTags(before)
		fn(t)
		after, err := t.content()
		if err != nil {
			return mxerr.BadJSON.With("%v", err) // nested too deep, being one level further in than it came
		}
		if len(after) > maxTags && len(after) > len(before) {
			return mxerr.TooLarge.With("the tags of a room may have %d bytes", maxTags)
		}
		if bytes.Equal(before, after) || before == nil && len(t.Tags) == 0 {
			return errUnchanged
		}
		return tx.PutAccountData(user, room, tagType, after, pos)
	}
	s.DB.Queue(act)
	if err := act.Wait(ctx); err != nil && !errors.Is(err, errUnchanged) {
		return fmt.Errorf("change the tags of %s: %w", room, err)
	}
	return nil
}

// readTags reads the content of m.tag. What clients have put there in another form counts as no tags, or no tag.
func readTags(content []byte) tags {
	var t tags
	if json.Unmarshal(content, &t) != nil || t.Tags == nil {
		t.Tags = map[string]json.RawMessage{}
	}
	maps.DeleteFunc(t.Tags, func(_ string, tag json.RawMessage) bool { return tag[0] != '{' })
	return t
}

func (t tags) content() ([]byte, error) {
	raw, err := json.Marshal(t)
	if err != nil {
		return nil, err
	}
	return canonjson.Append(nil, raw)
}
