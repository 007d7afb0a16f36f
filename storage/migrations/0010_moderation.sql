-- What the server's administrators see and do. For names, times and macros see 0001_init.sql.

-- Reports of users to the administrators, by their position. One of an event names its room, it and its sender; one of
-- a room only that; one of a user only them.
CREATE TABLE mx_reports (
	report   {intkey},
	reporter TEXT NOT NULL,
	room_id  TEXT NOT NULL,
	event_id TEXT NOT NULL,
	user_id  TEXT NOT NULL,
	reason   {blob} NOT NULL,
	at_ms    BIGINT NOT NULL
);
CREATE UNIQUE INDEX mx_reports_said ON mx_reports (reporter, room_id, event_id, user_id);

-- Tokens by which a user logs a further client in, each once.
CREATE TABLE mx_login_tokens (
	token_hash {blob} PRIMARY KEY, -- SHA-256
	user_id    TEXT NOT NULL,
	device_id  TEXT NOT NULL, -- that asked for it, and takes it along when it ends
	expires_ms BIGINT NOT NULL
) {clustered};
CREATE INDEX mx_login_tokens_device ON mx_login_tokens (user_id, device_id);
CREATE INDEX mx_login_tokens_age ON mx_login_tokens (expires_ms);

-- The room in which a user gets the server's notices.
CREATE TABLE mx_notice_rooms (
	user_id TEXT PRIMARY KEY,
	room_id TEXT NOT NULL
) {clustered};

-- Rooms that local users may not come into.
CREATE TABLE mx_blocked_rooms (
	room_id    TEXT PRIMARY KEY,
	blocked_by TEXT NOT NULL,
	at_ms      BIGINT NOT NULL
) {clustered};
