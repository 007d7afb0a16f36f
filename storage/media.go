package storage

import (
	"database/sql"
	"errors"

	"github.com/embedmatrix/homeserver/internal/id"
)

// File is what a media.Store has under a key.
type File struct {
	Key    string
	SHA256 []byte
	Size   int64
}

// Media is what is known of mxc://Server/ID.
type Media struct {
	Server      id.ServerName
	ID          string
	File        string // "" until it is uploaded
	Owner       id.UserID
	Type, Name  string
	Size        int64
	CreatedMS   int64
	UsedMS      int64
	ExpiresMS   int64 // until then it can be uploaded; 0 once it is
	Quarantined bool
	SHA256      []byte // of the file; nil until it is uploaded
}

// Thumbnail is an image that was made of a file.
type Thumbnail struct {
	Of             string
	Width, Height  int
	Crop, Animated bool
	File           string // "": Of itself
	Size           int64  // of File
	Type           string
}

const mediaColumns = `m.server_name, m.media_id, m.file, m.owner, m.content_type, m.name, m.size, m.created_ms, m.used_ms,
	m.expires_ms, m.quarantined, f.sha256 FROM mx_media m LEFT JOIN mx_files f ON f.file = m.file`

func scanMedia(row *sql.Rows, m *Media) error {
	var kind, name []byte
	err := row.Scan(&m.Server, &m.ID, &m.File, &m.Owner, &kind, &name, &m.Size, &m.CreatedMS, &m.UsedMS, &m.ExpiresMS,
		&m.Quarantined, &m.SHA256)
	m.Type, m.Name = string(kind), string(name)
	return err
}

const selectMedia = `SELECT ` + mediaColumns + ` WHERE m.server_name = $1 AND m.media_id = $2`

// Media returns what is known of mxc://server/mediaID, or ErrNotFound.
func (tx *Tx) Media(server id.ServerName, mediaID string) (Media, error) {
	return one(tx, scanMedia, selectMedia, server, mediaID)
}

const insertMedia = `
	INSERT INTO mx_media (server_name, media_id, file, owner, content_type, name, size, created_ms, used_ms, expires_ms, quarantined)
	VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`

// InsertMedia notes an mxc: URI. It is an error if it is known already.
func (tx *Tx) InsertMedia(m Media) error {
	_, err := tx.exec(insertMedia, m.Server, m.ID, m.File, m.Owner, []byte(m.Type), []byte(m.Name), m.Size, m.CreatedMS, m.UsedMS,
		m.ExpiresMS, m.Quarantined)
	return err
}

const updateMediaFile = `
	UPDATE mx_media SET file = $3, content_type = $4, name = $5, size = $6, created_ms = $7, expires_ms = 0
	WHERE server_name = $1 AND media_id = $2`

// FillMedia gives an mxc: URI, which has none, its file.
func (tx *Tx) FillMedia(m Media) error {
	_, err := tx.exec(updateMediaFile, m.Server, m.ID, m.File, []byte(m.Type), []byte(m.Name), m.Size, m.CreatedMS)
	return err
}

const updateMediaUsed = `UPDATE mx_media SET used_ms = $3 WHERE server_name = $1 AND media_id = $2`

// UseMedia notes when an mxc: URI was last asked for.
func (tx *Tx) UseMedia(server id.ServerName, mediaID string, atMS int64) error {
	_, err := tx.exec(updateMediaUsed, server, mediaID, atMS)
	return err
}

const updateMediaQuarantined = `UPDATE mx_media SET quarantined = $3 WHERE server_name = $1 AND media_id = $2`

// QuarantineMedia sets whether an mxc: URI is given out no more, and reports whether there is one.
func (tx *Tx) QuarantineMedia(server id.ServerName, mediaID string, quarantined bool) (bool, error) {
	n, err := tx.exec(updateMediaQuarantined, server, mediaID, quarantined)
	return n == 1, err
}

const deleteMedia = `DELETE FROM mx_media WHERE server_name = $1 AND media_id = $2`

// DeleteMedia forgets an mxc: URI. See ReleaseFile for the file it had.
func (tx *Tx) DeleteMedia(server id.ServerName, mediaID string) error {
	_, err := tx.exec(deleteMedia, server, mediaID)
	return err
}

const selectUploaded = `SELECT coalesce(sum(size), 0) FROM mx_media WHERE owner = $1 AND file <> ''`

// UploadedBy returns how many bytes a user's files have.
func (tx *Tx) UploadedBy(owner id.UserID) (int64, error) {
	return one(tx, value[int64], selectUploaded, owner)
}

const countPendingMedia = `SELECT count(*) FROM mx_media WHERE owner = $1 AND file = '' AND expires_ms > $2`

// PendingMedia returns how many mxc: URIs a user has asked for and may still upload.
func (tx *Tx) PendingMedia(owner id.UserID, nowMS int64) (int, error) {
	return one(tx, value[int], countPendingMedia, owner, nowMS)
}

const deleteExpiredMedia = `DELETE FROM mx_media WHERE file = '' AND expires_ms <= $1`

// ForgetExpiredMedia forgets mxc: URIs that were not uploaded in time.
func (tx *Tx) ForgetExpiredMedia(nowMS int64) error {
	_, err := tx.exec(deleteExpiredMedia, nowMS)
	return err
}

const selectOldMedia = `SELECT ` + mediaColumns + `
	WHERE m.file <> '' AND m.used_ms < $1 AND (m.owner <> '') = $2 AND NOT m.quarantined ORDER BY m.used_ms LIMIT $3`

// OldMedia returns at most limit mxc: URIs that were not asked for since a time, the oldest first: of what users of this
// server have uploaded, or of all else.
func (tx *Tx) OldMedia(local bool, beforeMS int64, limit int) ([]Media, error) {
	return collect(tx, scanMedia, selectOldMedia, beforeMS, local, limit)
}

// CachedMediaSize returns how many bytes the files have that no user of this server has uploaded.
func (tx *Tx) CachedMediaSize() (int64, error) { return tx.UploadedBy("") }

const insertFile = `INSERT INTO mx_files (file, sha256, size, stage) VALUES ($1, $2, 0, 0)`

// BeginFile notes that bytes are about to be written under a key of the store.
func (tx *Tx) BeginFile(key string) error {
	_, err := tx.exec(insertFile, key, []byte{})
	return err
}

const selectFileAlike = `SELECT file FROM mx_files WHERE sha256 = $1 AND size = $2 AND stage = 1`

const updateFileWhole = `UPDATE mx_files SET sha256 = $2, size = $3, stage = 1 WHERE file = $1`

// FinishFile notes that a file is whole, unless the same bytes are stored already: then this one is to be deleted. It
// returns the key under which they are.
func (tx *Tx) FinishFile(f File) (string, error) {
	key, err := one(tx, value[string], selectFileAlike, f.SHA256, f.Size)
	if err == nil {
		return key, tx.EndFile(f.Key)
	}
	if !errors.Is(err, ErrNotFound) {
		return "", err
	}
	_, err = tx.exec(updateFileWhole, f.Key, f.SHA256, f.Size)
	return f.Key, err
}

const updateFileDying = `UPDATE mx_files SET stage = 2 WHERE file = $1`

// EndFile notes that the bytes under a key are to be deleted.
func (tx *Tx) EndFile(key string) error {
	_, err := tx.exec(updateFileDying, key)
	return err
}

const countFileUses = `
	SELECT (SELECT count(*) FROM mx_media WHERE file = $1) + (SELECT count(*) FROM mx_thumbnails WHERE file = $1)`

const selectThumbnailFiles = `SELECT file FROM mx_thumbnails WHERE of = $1 AND file <> ''`

const deleteThumbnails = `DELETE FROM mx_thumbnails WHERE of = $1`

// ReleaseFile notes that a file is to be deleted if nobody refers to it any more, with what was made of it. It returns
// the keys that are to be deleted.
func (tx *Tx) ReleaseFile(key string) (dead []string, err error) {
	uses, err := one(tx, value[int], countFileUses, key)
	if err != nil || uses > 0 {
		return nil, err
	}
	small, err := collect(tx, value[string], selectThumbnailFiles, key)
	if err != nil {
		return nil, err
	}
	if _, err := tx.exec(deleteThumbnails, key); err != nil {
		return nil, err
	}
	dead = []string{key}
	for _, thumbnail := range small {
		more, err := tx.ReleaseFile(thumbnail)
		if err != nil {
			return nil, err
		}
		dead = append(dead, more...)
	}
	return dead, tx.EndFile(key)
}

const selectUnfinishedFiles = `SELECT file FROM mx_files WHERE stage <> 1`

// UnfinishedFiles returns the keys of files that a process that ended has not written to their end, or not deleted.
func (tx *Tx) UnfinishedFiles() ([]string, error) {
	return collect(tx, value[string], selectUnfinishedFiles)
}

const selectDyingFiles = `SELECT file FROM mx_files WHERE stage = 2`

// DyingFiles returns the keys of files that are to be deleted.
func (tx *Tx) DyingFiles() ([]string, error) { return collect(tx, value[string], selectDyingFiles) }

const deleteFile = `DELETE FROM mx_files WHERE file = $1 AND stage <> 1`

// ForgetFile forgets a file whose bytes are deleted.
func (tx *Tx) ForgetFile(key string) error {
	_, err := tx.exec(deleteFile, key)
	return err
}

const selectThumbnail = `
	SELECT t.of, t.width, t.height, t.crop, t.animated, t.file, coalesce(f.size, 0), t.content_type
	FROM mx_thumbnails t LEFT JOIN mx_files f ON f.file = t.file
	WHERE of = $1 AND width = $2 AND height = $3 AND crop = $4 AND animated = $5`

// Thumbnail returns what was made of a file in a size, or ErrNotFound.
func (tx *Tx) Thumbnail(of string, width, height int, crop, animated bool) (Thumbnail, error) {
	return one(tx, func(row *sql.Rows, t *Thumbnail) error {
		var kind []byte
		err := row.Scan(&t.Of, &t.Width, &t.Height, &t.Crop, &t.Animated, &t.File, &t.Size, &kind)
		t.Type = string(kind)
		return err
	}, selectThumbnail, of, width, height, crop, animated)
}

const insertThumbnail = `
	INSERT INTO mx_thumbnails (of, width, height, crop, animated, file, content_type) VALUES ($1, $2, $3, $4, $5, $6, $7)
	ON CONFLICT (of, width, height, crop, animated) DO NOTHING`

const selectWholeFile = `SELECT file FROM mx_files WHERE file = $1 AND stage = 1`

// PutThumbnail notes what was made of a file, or ErrNotFound when that is gone meanwhile.
func (tx *Tx) PutThumbnail(t Thumbnail) error {
	if _, err := one(tx, value[string], selectWholeFile, t.Of); err != nil {
		return err
	}
	_, err := tx.exec(insertThumbnail, t.Of, t.Width, t.Height, t.Crop, t.Animated, t.File, []byte(t.Type))
	return err
}

const selectPreview = `SELECT answer, made_ms FROM mx_previews WHERE url_hash = $1`

// Preview is what a page told of itself.
type Preview struct {
	Answer []byte // JSON; empty when there is nothing to tell
	MadeMS int64
}

// Preview returns the preview of a page by the SHA-256 of its URL, or ErrNotFound.
func (tx *Tx) Preview(hash []byte) (Preview, error) {
	return one(tx, func(row *sql.Rows, p *Preview) error { return row.Scan(&p.Answer, &p.MadeMS) }, selectPreview, hash)
}

const upsertPreview = `
	INSERT INTO mx_previews (url_hash, answer, made_ms) VALUES ($1, $2, $3)
	ON CONFLICT (url_hash) DO UPDATE SET answer = excluded.answer, made_ms = excluded.made_ms`

const deleteOldPreviews = `DELETE FROM mx_previews WHERE made_ms < $1`

// PutPreview keeps the preview of a page and forgets those made before a time.
func (tx *Tx) PutPreview(hash []byte, p Preview, oldMS int64) error {
	if _, err := tx.exec(upsertPreview, hash, p.Answer, p.MadeMS); err != nil {
		return err
	}
	_, err := tx.exec(deleteOldPreviews, oldMS)
	return err
}
