-- The public keys of devices and users, and key backups. For names, times and macros see 0001_init.sql.

-- The identity keys of devices: those of local users as they uploaded them, those of others as their servers tell them.
CREATE TABLE mx_device_keys (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	keys      {blob} NOT NULL, -- canonical JSON without unsigned
	name      {blob} NOT NULL, -- the display name that another server tells; local ones are in mx_devices
	PRIMARY KEY (user_id, device_id)
) {clustered};

-- The users of other servers whose devices are all in mx_device_keys.
CREATE TABLE mx_device_lists (
	user_id    TEXT PRIMARY KEY,
	stream_id  BIGINT NOT NULL, -- of the newest change that is known
	asked      BIGINT NOT NULL, -- position from before the list was asked for
	is_current BOOLEAN NOT NULL -- false: something was missed since, and the list has to be asked for again
) {clustered};

-- One-time keys by the order in which they are given out. A row is deleted in the act that gives it out.
CREATE TABLE mx_one_time_keys (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	ord       BIGINT NOT NULL, -- the order of uploads
	key_id    TEXT NOT NULL,
	key       {blob} NOT NULL, -- canonical JSON
	PRIMARY KEY (user_id, device_id, algorithm, ord)
) {clustered};
CREATE UNIQUE INDEX mx_one_time_keys_id ON mx_one_time_keys (user_id, device_id, algorithm, key_id);

-- Those that were given out lately: an upload that is repeated does not bring them back.
CREATE TABLE mx_spent_keys (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	key_id    TEXT NOT NULL,
	key_hash  {blob} NOT NULL,  -- SHA-256 of the key
	ord       BIGINT NOT NULL,  -- as above
	PRIMARY KEY (user_id, device_id, algorithm, key_id)
) {clustered};

CREATE TABLE mx_fallback_keys (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	algorithm TEXT NOT NULL,
	key_id    TEXT NOT NULL,
	key       {blob} NOT NULL, -- canonical JSON
	used      BOOLEAN NOT NULL,
	PRIMARY KEY (user_id, device_id, algorithm)
) {clustered};

CREATE TABLE mx_cross_signing_keys (
	user_id TEXT NOT NULL,
	usage   TEXT NOT NULL,   -- master, self_signing or user_signing
	public  TEXT NOT NULL,   -- the key in base64, which is also its name
	key     {blob} NOT NULL, -- canonical JSON without unsigned
	PRIMARY KEY (user_id, usage)
) {clustered};

-- Signatures that were uploaded apart from the keys they are about.
CREATE TABLE mx_key_signatures (
	user_id       TEXT NOT NULL,
	key_name      TEXT NOT NULL, -- a device id, or the public cross-signing key
	signer        TEXT NOT NULL,
	signer_key_id TEXT NOT NULL,
	signature     TEXT NOT NULL,
	PRIMARY KEY (user_id, key_name, signer, signer_key_id)
) {clustered};
CREATE INDEX mx_key_signatures_signer ON mx_key_signatures (signer);

-- Where the keys or devices of a user changed, the latest changes of each. Whoever shares a room with the user is told
-- of it, or with an audience that user alone.
CREATE TABLE mx_device_changes (
	user_id   TEXT NOT NULL,
	pos       BIGINT NOT NULL,
	device_id TEXT NOT NULL, -- '': the cross-signing keys
	audience  TEXT NOT NULL, -- '': whoever shares a room
	PRIMARY KEY (user_id, pos, device_id, audience)
) {clustered};
CREATE INDEX mx_device_changes_pos ON mx_device_changes (pos);
CREATE INDEX mx_device_changes_audience ON mx_device_changes (audience, pos) WHERE audience <> '';

CREATE TABLE mx_backups (
	user_id   TEXT NOT NULL,
	version   BIGINT NOT NULL,
	algorithm {blob} NOT NULL,
	auth_data {blob} NOT NULL,  -- JSON
	etag      BIGINT NOT NULL,  -- counts the changes of its keys
	key_count BIGINT NOT NULL,
	deleted   BOOLEAN NOT NULL, -- its number is not given out again
	PRIMARY KEY (user_id, version)
) {clustered};

CREATE TABLE mx_backup_keys (
	user_id    TEXT NOT NULL,
	version    BIGINT NOT NULL,
	room_id    TEXT NOT NULL,
	session_id TEXT NOT NULL,
	verified   BOOLEAN NOT NULL,
	first      BIGINT NOT NULL, -- first_message_index
	forwarded  BIGINT NOT NULL, -- forwarded_count
	data       {blob} NOT NULL, -- the whole of it, as it was uploaded
	PRIMARY KEY (user_id, version, room_id, session_id)
) {clustered};
