-- Names: a room, a state node and a position are integers of our own; peers' strings that need not be text are blobs.
-- Times are milliseconds. Macros: {intkey} integer primary key, {blob} bytes, {clustered} rows live in the key's index.

-- only: postgres
CREATE OR REPLACE FUNCTION json_each(list text) RETURNS TABLE(value text) LANGUAGE sql IMMUTABLE AS $$ SELECT json_array_elements_text(list::json) $$;

CREATE TABLE mx_meta (
	name  TEXT PRIMARY KEY,
	value {blob} NOT NULL
) {clustered};

CREATE TABLE mx_position (
	one   {intkey},
	pos   BIGINT NOT NULL, -- the last position that was given out
	batch BIGINT NOT NULL  -- counts the transactions of the batcher; compared and set by each
);
INSERT INTO mx_position (one, pos, batch) VALUES (1, 0, 0);

-- Accounts and sessions

CREATE TABLE mx_accounts (
	user_id       TEXT PRIMARY KEY,
	password_hash TEXT NOT NULL,
	created_ms    BIGINT NOT NULL,
	guest         BOOLEAN NOT NULL,
	admin         BOOLEAN NOT NULL,
	deactivated   BOOLEAN NOT NULL,
	erased        BOOLEAN NOT NULL,
	locked        BOOLEAN NOT NULL,
	suspended     BOOLEAN NOT NULL,
	leaving       BOOLEAN NOT NULL, -- deactivated, and not yet out of every room
	terms         {blob} NOT NULL   -- JSON: the policies accepted at registration, id to version
) {clustered};

CREATE TABLE mx_devices (
	user_id      TEXT NOT NULL,
	device_id    TEXT NOT NULL,
	display_name {blob} NOT NULL,
	created_ms   BIGINT NOT NULL,
	seen_ms      BIGINT NOT NULL,
	seen_ip      TEXT NOT NULL,
	seen_agent   {blob} NOT NULL,
	PRIMARY KEY (user_id, device_id)
) {clustered};

-- A session's tokens by their SHA-256. refresh_hash is the refresh token that came with an access token, or empty.
CREATE TABLE mx_access_tokens (
	token_hash   {blob} PRIMARY KEY,
	user_id      TEXT NOT NULL,
	device_id    TEXT NOT NULL,
	created_ms   BIGINT NOT NULL,
	expires_ms   BIGINT NOT NULL, -- 0: never
	refresh_hash {blob} NOT NULL
) {clustered};
CREATE INDEX mx_access_tokens_device ON mx_access_tokens (user_id, device_id);

-- previous is the refresh token that this one was got for, until this one or its access token is first used; then empty.
CREATE TABLE mx_refresh_tokens (
	token_hash {blob} PRIMARY KEY,
	user_id    TEXT NOT NULL,
	device_id  TEXT NOT NULL,
	created_ms BIGINT NOT NULL,
	previous   {blob} NOT NULL
) {clustered};
CREATE INDEX mx_refresh_tokens_device ON mx_refresh_tokens (user_id, device_id);

CREATE TABLE mx_registration_tokens (
	token        TEXT PRIMARY KEY,
	uses_allowed BIGINT NOT NULL, -- 0: any number
	completed    BIGINT NOT NULL,
	expires_ms   BIGINT NOT NULL  -- 0: never
) {clustered};

-- Rooms

CREATE TABLE mx_rooms (
	room        {intkey},
	room_id     TEXT NOT NULL UNIQUE,
	version     TEXT NOT NULL,
	seq         BIGINT NOT NULL, -- counts this room's writes; compared and set by each
	state       BIGINT NOT NULL, -- the state now: a node of mx_state_nodes, 0 when empty
	last_pos    BIGINT NOT NULL, -- of the newest event in the timeline
	extremities {blob} NOT NULL  -- JSON: the forward extremities, [[event id, depth], …]
);

CREATE TABLE mx_events (
	pos         {intkey},
	room        BIGINT NOT NULL,
	event_id    TEXT NOT NULL UNIQUE,
	ord         BIGINT NOT NULL,  -- place in this room's history
	before      BIGINT NOT NULL,  -- the state before the event: a node of mx_state_nodes
	now         BIGINT NOT NULL,  -- the room's current state once the event had arrived
	flags       BIGINT NOT NULL,  -- see storage.EventFlags
	redacted_by BIGINT NOT NULL,  -- position of the redaction, 0 for none
	device_id   TEXT NOT NULL,    -- local sends: the device and its transaction id
	txn         {blob},
	json        {blob} NOT NULL   -- federation form, canonical
);
CREATE UNIQUE INDEX mx_events_history ON mx_events (room, ord);

-- A transaction id of a client and the event it made: key is a hash of user, device, path and id.
CREATE TABLE mx_transactions (
	txn_hash {blob} PRIMARY KEY,
	event_id TEXT NOT NULL,
	at_ms    BIGINT NOT NULL
) {clustered};
CREATE INDEX mx_transactions_age ON mx_transactions (at_ms);

-- Redactions whose target was not known when they came.
CREATE TABLE mx_pending_redactions (
	target TEXT NOT NULL,
	pos    BIGINT NOT NULL,
	PRIMARY KEY (target, pos)
) {clustered};

-- What each sender has annotated: a hash of sender, type, target and key, so that it is said once.
CREATE TABLE mx_annotations (
	room     BIGINT NOT NULL,
	said     {blob} NOT NULL,
	event_id TEXT NOT NULL,
	PRIMARY KEY (room, said)
) {clustered};
CREATE INDEX mx_annotations_event ON mx_annotations (event_id);

-- State: every (type, state key) of a room has a number; a state is a tree over those numbers.
CREATE TABLE mx_state_keys (
	room      BIGINT NOT NULL,
	number    BIGINT NOT NULL,
	type      {blob} NOT NULL,
	state_key {blob} NOT NULL,
	PRIMARY KEY (room, number)
) {clustered};

CREATE TABLE mx_state_nodes (
	node {intkey},
	body {blob} NOT NULL
);

-- The current membership of everybody a room knows.
CREATE TABLE mx_memberships (
	room       BIGINT NOT NULL,
	user_id    TEXT NOT NULL,
	membership TEXT NOT NULL,
	pos        BIGINT NOT NULL, -- of the member event
	forgotten  BOOLEAN NOT NULL,
	PRIMARY KEY (room, user_id)
) {clustered};
CREATE INDEX mx_memberships_user ON mx_memberships (user_id, pos);

CREATE TABLE mx_receipts (
	room      BIGINT NOT NULL,
	user_id   TEXT NOT NULL,
	kind      TEXT NOT NULL,
	thread_id TEXT NOT NULL, -- empty: unthreaded
	event_id  TEXT NOT NULL,
	ord       BIGINT NOT NULL, -- the event's place in the room's history: a receipt only moves forwards
	at_ms     BIGINT NOT NULL,
	pos       BIGINT NOT NULL,
	PRIMARY KEY (room, user_id, kind, thread_id)
) {clustered};
CREATE INDEX mx_receipts_news ON mx_receipts (room, pos);

CREATE TABLE mx_aliases (
	alias   TEXT PRIMARY KEY,
	room    BIGINT NOT NULL,
	creator TEXT NOT NULL
) {clustered};
CREATE INDEX mx_aliases_room ON mx_aliases (room);

CREATE TABLE mx_published_rooms (
	room {intkey}
);

CREATE TABLE mx_profiles (
	user_id TEXT NOT NULL,
	name    TEXT NOT NULL,
	value   {blob} NOT NULL, -- JSON
	PRIMARY KEY (user_id, name)
) {clustered};

-- What clients keep here

CREATE TABLE mx_account_data (
	user_id TEXT NOT NULL,
	room_id TEXT NOT NULL, -- empty: global
	type    {blob} NOT NULL,
	content {blob} NOT NULL,
	pos     BIGINT NOT NULL,
	PRIMARY KEY (user_id, room_id, type)
) {clustered};
CREATE INDEX mx_account_data_news ON mx_account_data (user_id, pos);

CREATE TABLE mx_filters (
	user_id   TEXT NOT NULL,
	filter_id BIGINT NOT NULL,
	body      {blob} NOT NULL,
	PRIMARY KEY (user_id, filter_id)
) {clustered};
