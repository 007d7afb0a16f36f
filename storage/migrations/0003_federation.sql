-- Other servers. For names, times and macros see 0001_init.sql.

-- The signing keys of other servers, ever seen in an answer about their keys.
CREATE TABLE mx_server_keys (
	server_name    TEXT NOT NULL,
	key_id         TEXT NOT NULL,
	key            {blob} NOT NULL,
	valid_until_ms BIGINT NOT NULL, -- of the newest answer that named the key, at most seven days after it came
	expired_ms     BIGINT NOT NULL, -- 0: the key was in use then; otherwise the last moment at which it signed
	PRIMARY KEY (server_name, key_id)
) {clustered};

-- A server's newest answer about its keys, as it signed it: for those who ask us as a notary.
CREATE TABLE mx_server_key_answers (
	server_name    TEXT PRIMARY KEY,
	answer         {blob} NOT NULL,
	valid_until_ms BIGINT NOT NULL, -- as above
	fetched_ms     BIGINT NOT NULL
) {clustered};

-- Events that are sent to other servers, in the order in which they are. A set of servers is stored once.
CREATE TABLE mx_outgoing (
	at     {intkey},         -- position at which it is sent: every destination has a cursor over these
	room   BIGINT NOT NULL,
	pos    BIGINT NOT NULL,  -- of the event
	set_id BIGINT NOT NULL
);
CREATE TABLE mx_server_sets (
	set_id  {intkey},
	servers {blob} NOT NULL -- JSON: a sorted list of names
);

-- What a server told of a room in which this one is not: the stripped state of an invite or a knock.
CREATE TABLE mx_stripped (
	room    BIGINT NOT NULL,
	user_id TEXT NOT NULL,
	state   {blob} NOT NULL, -- JSON: a list of stripped state events, checked
	PRIMARY KEY (room, user_id)
) {clustered};

-- Servers to which something was sent, and how far each is.
CREATE TABLE mx_destinations (
	server_name       TEXT PRIMARY KEY,
	past              BIGINT NOT NULL, -- rows of mx_outgoing up to here were delivered, are in txn, or superseded by mx_catch_up
	edus_past         BIGINT NOT NULL, -- likewise for rows of EDUs that must arrive
	txn_id            TEXT NOT NULL,   -- of the transaction that may have been sent and was not answered; '' if there is none
	txn               {blob},          -- JSON: what is in it
	failing_since_ms  BIGINT NOT NULL, -- 0: the last attempt was answered
	retry_at_ms       BIGINT NOT NULL,
	retry_interval_ms BIGINT NOT NULL
) {clustered};

-- What a server gets first that was away for long: of each room the newest event that was for it.
CREATE TABLE mx_catch_up (
	server_name TEXT NOT NULL,
	room        BIGINT NOT NULL,
	at          BIGINT NOT NULL, -- as in mx_outgoing
	pos         BIGINT NOT NULL,
	PRIMARY KEY (server_name, room)
) {clustered};

-- The answers to transactions of other servers, for a day: one that is sent again is answered alike.
CREATE TABLE mx_received_txns (
	txn_hash {blob} PRIMARY KEY, -- SHA-256 of origin, a zero byte and the transaction id
	answer   {blob} NOT NULL,
	at_ms    BIGINT NOT NULL
) {clustered};
CREATE INDEX mx_received_txns_age ON mx_received_txns (at_ms);

-- The events of rooms that were asked for by time, up to some position of each: filled when somebody asks.
CREATE TABLE mx_times (
	room BIGINT NOT NULL,
	ts   BIGINT NOT NULL, -- origin_server_ts
	pos  BIGINT NOT NULL,
	PRIMARY KEY (room, ts, pos)
) {clustered};
CREATE TABLE mx_timed (
	room  {intkey},
	up_to BIGINT NOT NULL -- position of the newest event in mx_times
);
