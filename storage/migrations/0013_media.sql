-- What is known about files. Their bytes are in a media.Store. For names, times and macros see 0001_init.sql.

-- The bytes under one key of the store. What several people upload alike is there once.
CREATE TABLE mx_files (
	file   TEXT PRIMARY KEY,
	sha256 {blob} NOT NULL,
	size   BIGINT NOT NULL,
	stage  BIGINT NOT NULL -- 0: being written, 1: whole, 2: to be deleted
) {clustered};
CREATE INDEX mx_files_alike ON mx_files (sha256);
CREATE INDEX mx_files_stage ON mx_files (stage);

-- mxc://server_name/media_id, of this server and others.
CREATE TABLE mx_media (
	server_name  TEXT NOT NULL,
	media_id     TEXT NOT NULL,
	file         TEXT NOT NULL,    -- '' until it is uploaded
	owner        TEXT NOT NULL,    -- '' for those of other servers and of this server itself
	content_type {blob} NOT NULL,
	name         {blob} NOT NULL,  -- '' for none
	size         BIGINT NOT NULL,
	created_ms   BIGINT NOT NULL,
	used_ms      BIGINT NOT NULL,  -- when it was last asked for, to the hour
	expires_ms   BIGINT NOT NULL,  -- until then it can be uploaded; 0 once it is
	quarantined  BOOLEAN NOT NULL, -- never given out again
	PRIMARY KEY (server_name, media_id)
) {clustered};
CREATE INDEX mx_media_owner ON mx_media (owner, file, created_ms);
CREATE INDEX mx_media_file ON mx_media (file);
CREATE INDEX mx_media_used ON mx_media (used_ms);

-- Smaller images made of a file.
CREATE TABLE mx_thumbnails (
	of           TEXT NOT NULL,    -- the file it was made of
	width        BIGINT NOT NULL,
	height       BIGINT NOT NULL,
	crop         BOOLEAN NOT NULL,
	animated     BOOLEAN NOT NULL,
	file         TEXT NOT NULL,    -- '' if the file itself is small enough
	content_type {blob} NOT NULL,
	PRIMARY KEY (of, width, height, crop, animated)
) {clustered};
CREATE INDEX mx_thumbnails_file ON mx_thumbnails (file);

-- Pages of which a preview was made.
CREATE TABLE mx_previews (
	url_hash {blob} PRIMARY KEY, -- SHA-256
	answer   {blob} NOT NULL,    -- JSON; empty when there is nothing to tell
	made_ms  BIGINT NOT NULL
) {clustered};
CREATE INDEX mx_previews_age ON mx_previews (made_ms);
