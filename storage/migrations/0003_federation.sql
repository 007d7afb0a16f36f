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
