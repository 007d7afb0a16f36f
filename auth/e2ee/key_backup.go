package e2ee

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// What backups may be.
const (
	maxBackups      = 100       // versions of a user
	maxBackedUp     = 300_000   // keys of a version
	maxAuthData     = 64 << 10  // bytes
	maxBackupKey    = 16 << 10  // bytes
	maxBackupBody   = 8 << 20   // bytes of one upload: thousands of keys
	maxMessageIndex = 1<<53 - 1 // of first_message_index and forwarded_count: what JSON can say
)

// backupInfo is a version of a backup as its owner sees it.
type backupInfo struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Count     int64           `json:"count"`
	Etag      string          `json:"etag"`
	Version   string          `json:"version"`
}

// backupBody is what makes or changes a version.
type backupBody struct {
	Algorithm *string         `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   *string         `json:"version"`
}

func (in *backupBody) check() error {
	switch {
	case in.Algorithm == nil:
		return mxerr.MissingParam.With("algorithm is missing")
	case in.AuthData == nil || string(in.AuthData) == "null":
		return mxerr.MissingParam.With("auth_data is missing")
	case *in.Algorithm == "" || len(*in.Algorithm) > maxName:
		return mxerr.InvalidParam.With("algorithm may have %d bytes", maxName)
	case len(in.AuthData) > maxAuthData:
		return mxerr.TooLarge.With("auth_data may have %d bytes", maxAuthData)
	}
	return nil
}

type backupVersion struct {
	Version string `json:"version"`
}

// postRoomKeysVersion implements POST /_matrix/client/v3/room_keys/version.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3room_keysversion
func (s *Service) postRoomKeysVersion(ctx context.Context, c *httpapi.Call, in *backupBody) (*backupVersion, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	version, err := s.NewBackup(ctx, c.User, *in.Algorithm, in.AuthData)
	return &backupVersion{strconv.FormatInt(version, 10)}, err
}

// NewBackup begins a version of a user's key backup, which becomes the current one. authData is JSON. A user may have a
// hundred: more are mxerr.UserLimitExceeded.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-side-key-backups
func (s *Service) NewBackup(ctx context.Context, user id.UserID, algorithm string, authData json.RawMessage) (version int64, err error) {
	err = s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		have, err := tx.Backups(user)
		if err != nil {
			return err
		}
		if have.N >= maxBackups {
			return mxerr.UserLimitExceeded.With("there are %d versions of the key backup", have.N)
		}
		version = have.Last + 1
		return tx.PutBackup(storage.Backup{User: user, Version: version, Algorithm: algorithm, AuthData: authData})
	})
	return version, err
}

// getRoomKeysVersionCurrent implements GET /_matrix/client/v3/room_keys/version.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keysversion
func (s *Service) getRoomKeysVersionCurrent(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*backupInfo, error) {
	var b storage.Backup
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		b, err = tx.CurrentBackup(c.User)
		return err
	})
	return infoOf(b), noBackup(err)
}

// getRoomKeysVersion implements GET /_matrix/client/v3/room_keys/version/{version}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keysversionversion
func (s *Service) getRoomKeysVersion(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*backupInfo, error) {
	var b storage.Backup
	err := s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		b, err = backup(tx, c.User, c.PathValue("version"))
		return err
	})
	return infoOf(b), err
}

func infoOf(b storage.Backup) *backupInfo {
	return &backupInfo{b.Algorithm, b.AuthData, b.Count, strconv.FormatInt(b.Etag, 10), strconv.FormatInt(b.Version, 10)}
}

// errNoBackup is the answer about a version that is not there.
var errNoBackup = mxerr.NotFound.With("there is no such version of the key backup")

func noBackup(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return errNoBackup
	}
	return err
}

// backup returns a version that was not deleted.
func backup(tx *storage.Tx, user id.UserID, version string) (storage.Backup, error) {
	b, err := anyBackup(tx, user, version)
	if err == nil && b.Deleted {
		err = errNoBackup
	}
	return b, err
}

// anyBackup returns a version, be it deleted.
func anyBackup(tx *storage.Tx, user id.UserID, version string) (b storage.Backup, err error) {
	n, err := strconv.ParseInt(version, 10, 64)
	if err != nil {
		return b, errNoBackup
	}
	b, err = tx.Backup(user, n)
	return b, noBackup(err)
}

// putRoomKeysVersion implements PUT /_matrix/client/v3/room_keys/version/{version}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3room_keysversionversion
func (s *Service) putRoomKeysVersion(ctx context.Context, c *httpapi.Call, in *backupBody) (*httpapi.Empty, error) {
	if err := in.check(); err != nil {
		return nil, err
	}
	version := c.PathValue("version")
	if in.Version != nil && *in.Version != version {
		return nil, mxerr.InvalidParam.With("version is not that of the path")
	}
	return nil, s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		b, err := backup(tx, c.User, version)
		if err != nil {
			return err
		}
		if b.Algorithm != *in.Algorithm {
			return mxerr.InvalidParam.With("the algorithm of a version cannot change")
		}
		b.AuthData = in.AuthData
		return tx.PutBackup(b)
	})
}

// deleteRoomKeysVersion implements DELETE /_matrix/client/v3/room_keys/version/{version}.
//
// https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3room_keysversionversion
func (s *Service) deleteRoomKeysVersion(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*httpapi.Empty, error) {
	return nil, s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		b, err := anyBackup(tx, c.User, c.PathValue("version"))
		if err != nil || b.Deleted { // "…, or if the backup was previously deleted": 200
			return err
		}
		if _, err := tx.DeleteBackupKeys(c.User, b.Version, "", ""); err != nil {
			return err
		}
		b.Deleted, b.Count, b.AuthData = true, 0, []byte("{}")
		return tx.PutBackup(b)
	})
}

// backedUp is the answer to whatever changes the keys of a backup.
type backedUp struct {
	Count int64  `json:"count"`
	Etag  string `json:"etag"`
}

func countOf(b storage.Backup) *backedUp { return &backedUp{b.Count, strconv.FormatInt(b.Etag, 10)} }

// versionOf is the version of a backup that a request is about.
func versionOf(c *httpapi.Call) (string, error) {
	if c.Query("version") == "" {
		return "", mxerr.MissingParam.With("version is missing")
	}
	return c.Query("version"), nil
}

// putRoomKeys implements PUT /_matrix/client/v3/room_keys/keys.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3room_keyskeys
func (s *Service) putRoomKeys(ctx context.Context, c *httpapi.Call, in *roomsBody) (*backedUp, error) {
	if in.Rooms == nil {
		return nil, mxerr.MissingParam.With("rooms is missing")
	}
	return s.putKeys(ctx, c, *in)
}

// putRoomKeysByRoomId implements PUT /_matrix/client/v3/room_keys/keys/{roomId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3room_keyskeysroomid
func (s *Service) putRoomKeysByRoomId(ctx context.Context, c *httpapi.Call, in *sessionsBody) (*backedUp, error) {
	return s.putKeys(ctx, c, roomsBody{map[id.RoomID]sessionsBody{c.RoomID("roomId"): *in}})
}

// putRoomKeyBySessionId implements PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}.
//
// https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3room_keyskeysroomidsessionid
func (s *Service) putRoomKeyBySessionId(ctx context.Context, c *httpapi.Call, in *json.RawMessage) (*backedUp, error) {
	one := sessionsBody{map[string]json.RawMessage{c.PathValue("sessionId"): *in}}
	return s.putKeys(ctx, c, roomsBody{map[id.RoomID]sessionsBody{c.RoomID("roomId"): one}})
}

// roomsBody are keys of sessions of rooms.
type roomsBody struct {
	Rooms map[id.RoomID]sessionsBody `json:"rooms"`
}

// sessionsBody are keys of sessions of one room.
type sessionsBody struct {
	Sessions map[string]json.RawMessage `json:"sessions"`
}

// check returns the keys by their rooms.
func (in roomsBody) check() (map[id.RoomID][]storage.BackupKey, error) {
	rooms := map[id.RoomID][]storage.BackupKey{}
	for room, of := range in.Rooms {
		if _, err := id.ParseRoomID(string(room)); err != nil {
			return nil, mxerr.InvalidParam.With("%q: %v", clip(string(room)), err)
		}
		if of.Sessions == nil {
			return nil, mxerr.MissingParam.With("sessions is missing")
		}
		for session, raw := range of.Sessions {
			k, err := checkBackupKey(room, session, raw)
			if err != nil {
				return nil, err
			}
			rooms[room] = append(rooms[room], k)
		}
	}
	return rooms, nil
}

// checkBackupKey returns a key as it is stored.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#put_matrixclientv3room_keyskeysroomidsessionid
func checkBackupKey(room id.RoomID, session string, raw json.RawMessage) (k storage.BackupKey, err error) {
	var in struct {
		First     *int64          `json:"first_message_index"`
		Forwarded *int64          `json:"forwarded_count"`
		Verified  *bool           `json:"is_verified"`
		Data      json.RawMessage `json:"session_data"`
	}
	if err := json.Unmarshal(raw, &in); err != nil {
		return k, mxerr.BadJSON.With("session %s: not what is expected of a key", clip(session))
	}
	compact, err := canonjson.AppendCompact(nil, raw)
	switch {
	case in.First == nil || in.Forwarded == nil || in.Verified == nil || in.Data == nil || err != nil:
		return k, mxerr.BadJSON.With("session %s: first_message_index, forwarded_count, is_verified and session_data are needed", clip(session))
	case !validName(session):
		return k, mxerr.InvalidParam.With("the id of a session may have %d bytes", maxName)
	case outside(*in.First) || outside(*in.Forwarded):
		return k, mxerr.InvalidParam.With("session %s: a number is out of range", clip(session))
	case len(compact) > maxBackupKey:
		return k, mxerr.TooLarge.With("session %s: a key may have %d bytes", clip(session), maxBackupKey)
	}
	return storage.BackupKey{
		Room: room, Session: session, Verified: *in.Verified, First: *in.First, Forwarded: *in.Forwarded, Data: compact,
	}, nil
}

func outside(n int64) bool { return n < 0 || n > maxMessageIndex }

// putKeys adds keys to the current version of a backup, all or none; worse ones than are there change nothing.
func (s *Service) putKeys(ctx context.Context, c *httpapi.Call, in roomsBody) (*backedUp, error) {
	version, err := versionOf(c)
	if err != nil {
		return nil, err
	}
	rooms, err := in.check()
	if err != nil {
		return nil, err
	}
	var b storage.Backup
	err = s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) (err error) {
		if b, err = currentBackup(tx, c.User, version); err != nil {
			return err
		}
		return storeBackupKeys(tx, &b, rooms)
	})
	return countOf(b), err
}

// currentBackup is backup for the version that may be added to.
func currentBackup(tx *storage.Tx, user id.UserID, version string) (storage.Backup, error) {
	b, err := backup(tx, user, version)
	if err != nil {
		return b, err
	}
	current, err := tx.CurrentBackup(user)
	if err == nil && current.Version != b.Version {
		err = mxerr.WrongRoomKeysVersion.Set("current_version", strconv.FormatInt(current.Version, 10))
	}
	return b, err
}

func storeBackupKeys(tx *storage.Tx, b *storage.Backup, rooms map[id.RoomID][]storage.BackupKey) error {
	changed := false
	for room, keys := range rooms {
		sessions := make([]string, len(keys))
		for i, k := range keys {
			sessions[i] = k.Session
		}
		here, err := tx.BackedUp(b.User, b.Version, room, sessions)
		if err != nil {
			return err
		}
		b.Count += int64(len(keys) - len(here))
		for _, k := range keys {
			better, err := tx.PutBackupKey(b.User, b.Version, k)
			if err != nil {
				return err
			}
			changed = changed || better
		}
	}
	switch {
	case b.Count > maxBackedUp:
		return mxerr.UserLimitExceeded.With("a key backup may have %d keys", maxBackedUp)
	case !changed:
		return nil
	}
	b.Etag++
	return tx.PutBackup(*b)
}

// keysOfPage is how many keys of a backup an answer is made of at a time: a MiB at most.
const keysOfPage = 64

// backupWriter writes keys of a backup as they are read, so that no answer is ever in memory as a whole.
type backupWriter struct {
	w    http.ResponseWriter
	c    *httpapi.Call
	body []byte // what is not written yet
	more bool   // the object that was opened last has a member
}

// flush writes what there is. Whoever reads slowly has the usual time for each page.
func (b *backupWriter) flush() error {
	b.w.Header().Set("Content-Type", "application/json")
	b.w.Header().Set("Cache-Control", "no-store")
	b.c.ExtendDeadline(0)
	_, err := b.w.Write(b.body)
	b.body = b.body[:0]
	return err
}

// open begins a room, behind another one or not.
func (b *backupWriter) open(another bool, room id.RoomID) {
	if another {
		b.body = append(b.body, "}},"...)
	}
	b.body = append(canonjson.AppendString(b.body, string(room)), `:{"sessions":{`...)
	b.more = false
}

// add appends a session.
func (b *backupWriter) add(key storage.BackupKey) {
	if b.more {
		b.body = append(b.body, ',')
	}
	b.body = append(append(canonjson.AppendString(b.body, key.Session), ':'), key.Data...)
	b.more = true
}

// getRoomKeys implements GET /_matrix/client/v3/room_keys/keys.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keyskeys
func (s *Service) getRoomKeys(w http.ResponseWriter, c *httpapi.Call) error {
	out := &backupWriter{w: w, c: c, body: []byte(`{"rooms":{`)}
	var last id.RoomID
	err := s.eachPage(c, "", func(page []storage.BackupKey) error {
		for _, k := range page {
			if k.Room != last {
				out.open(last != "", k.Room)
				last = k.Room
			}
			out.add(k)
		}
		return out.flush()
	})
	if err != nil {
		return err
	}
	if last != "" {
		out.body = append(out.body, "}}"...)
	}
	out.body = append(out.body, "}}"...)
	return out.flush()
}

// getRoomKeysByRoomId implements GET /_matrix/client/v3/room_keys/keys/{roomId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keyskeysroomid
func (s *Service) getRoomKeysByRoomId(w http.ResponseWriter, c *httpapi.Call) error {
	out := &backupWriter{w: w, c: c, body: []byte(`{"sessions":{`)}
	err := s.eachPage(c, c.RoomID("roomId"), func(page []storage.BackupKey) error {
		for _, k := range page {
			out.add(k)
		}
		return out.flush()
	})
	if err != nil {
		return err
	}
	out.body = append(out.body, "}}"...)
	return out.flush()
}

// eachPage calls fn for the keys of a version, of one room if that is not empty, some at a time: storage is not kept
// waiting for whoever reads them. What changes meanwhile may be in the answer or not; a version that is deleted is an error.
func (s *Service) eachPage(c *httpapi.Call, room id.RoomID, fn func([]storage.BackupKey) error) error {
	version, err := versionOf(c)
	if err != nil {
		return err
	}
	for last := (storage.BackupKey{Room: room}); ; {
		var page []storage.BackupKey
		err := s.DB.Read(c.Request.Context(), func(tx *storage.Tx) error {
			b, err := backup(tx, c.User, version)
			if err != nil {
				return err
			}
			read := tx.BackupKeys
			if room != "" {
				read = tx.BackupKeysOfRoom
			}
			page, err = read(c.User, b.Version, last.Room, last.Session, keysOfPage)
			return err
		})
		if err != nil {
			return err
		}
		if err := fn(page); err != nil || len(page) < keysOfPage {
			return err
		}
		last = page[len(page)-1]
	}
}

// backedUpKey is a key of a backup on its way to the owner.
type backedUpKey struct{ data []byte }

// AppendJSON appends the answer to dst.
func (k *backedUpKey) AppendJSON(dst []byte) []byte { return append(dst, k.data...) }

// getRoomKeyBySessionId implements GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3room_keyskeysroomidsessionid
func (s *Service) getRoomKeyBySessionId(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*backedUpKey, error) {
	version, err := versionOf(c)
	if err != nil {
		return nil, err
	}
	var key storage.BackupKey
	err = s.DB.Read(ctx, func(tx *storage.Tx) error {
		b, err := backup(tx, c.User, version)
		if err != nil {
			return err
		}
		key, err = tx.BackupKey(c.User, b.Version, c.RoomID("roomId"), c.PathValue("sessionId"))
		return err
	})
	if errors.Is(err, storage.ErrNotFound) {
		err = mxerr.NotFound.With("the key of this session is not in the backup")
	}
	return &backedUpKey{key.Data}, err
}

// deleteRoomKeys implements DELETE /_matrix/client/v3/room_keys/keys.
//
// https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3room_keyskeys
func (s *Service) deleteRoomKeys(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*backedUp, error) {
	return s.deleteKeys(ctx, c, "", "")
}

// deleteRoomKeysByRoomId implements DELETE /_matrix/client/v3/room_keys/keys/{roomId}.
//
// https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3room_keyskeysroomid
func (s *Service) deleteRoomKeysByRoomId(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*backedUp, error) {
	return s.deleteKeys(ctx, c, c.RoomID("roomId"), "")
}

// deleteRoomKeyBySessionId implements DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}.
//
// https://spec.matrix.org/latest/client-server-api/#delete_matrixclientv3room_keyskeysroomidsessionid
func (s *Service) deleteRoomKeyBySessionId(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*backedUp, error) {
	return s.deleteKeys(ctx, c, c.RoomID("roomId"), c.PathValue("sessionId"))
}

// deleteKeys deletes keys of a version, of one room or session if these are not empty.
func (s *Service) deleteKeys(ctx context.Context, c *httpapi.Call, room id.RoomID, session string) (*backedUp, error) {
	version, err := versionOf(c)
	if err != nil {
		return nil, err
	}
	var b storage.Backup
	err = s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) (err error) {
		if b, err = backup(tx, c.User, version); err != nil {
			return err
		}
		n, err := tx.DeleteBackupKeys(c.User, b.Version, room, session)
		if err != nil || n == 0 {
			return err
		}
		b.Count -= n
		b.Etag++
		return tx.PutBackup(b)
	})
	return countOf(b), err
}
