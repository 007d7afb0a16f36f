-- Messages to devices, and what other servers are told of devices. For names, times and macros see 0001_init.sql.

-- Messages to local devices, until they are acknowledged.
CREATE TABLE mx_to_device (
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	pos       BIGINT NOT NULL,
	message   {blob} NOT NULL, -- JSON, as clients are told: {"content":…,"sender":…,"type":…}
	PRIMARY KEY (user_id, device_id, pos)
) {clustered};

-- Messages that were taken, so that none is taken twice: SHA-256 of what identifies one of a client or of a server.
CREATE TABLE mx_to_device_taken (
	taken {blob} PRIMARY KEY,
	at_ms BIGINT NOT NULL
) {clustered};
CREATE INDEX mx_to_device_taken_age ON mx_to_device_taken (at_ms);

-- Messages to devices of other servers, as EDUs, until they have arrived.
CREATE TABLE mx_outgoing_edus (
	server_name TEXT NOT NULL,
	pos         BIGINT NOT NULL,
	edu         {blob} NOT NULL, -- as in a transaction
	PRIMARY KEY (server_name, pos)
) {clustered};

-- Of which devices of local users other servers are told that they have changed. What they are told is made when it is
-- sent. A set of servers is stored once.
CREATE TABLE mx_outgoing_devices (
	pos       {intkey},        -- at which it is sent; the stream_id of the update
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,   -- '': the cross-signing keys
	set_id    BIGINT NOT NULL
);
CREATE INDEX mx_outgoing_devices_user ON mx_outgoing_devices (user_id, pos);
CREATE TABLE mx_device_sets (
	set_id  {intkey},
	servers {blob} NOT NULL -- JSON: a sorted list of names
);

-- Up to where changes of devices and of memberships were looked at for other servers' sake.
CREATE TABLE mx_devices_followed (
	one {intkey},
	pos BIGINT NOT NULL
);
INSERT INTO mx_devices_followed (one, pos) SELECT 1, pos FROM mx_position;

-- The device of a user, among mx_devices, that is nobody's session: it collects messages until another one takes it up.
CREATE TABLE mx_dehydrated_devices (
	user_id   TEXT PRIMARY KEY,
	device_id TEXT NOT NULL,
	data      {blob} NOT NULL -- JSON
) {clustered};
