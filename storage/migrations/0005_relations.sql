-- How events relate to each other. For names, times and macros see 0001_init.sql.

-- The events of timelines that relate to another one, their parent. within is what the parent itself relates to, and beyond
-- what that relates to; empty: nothing, or it is not known. What is redacted has no row.
CREATE TABLE mx_relations (
	pos      {intkey},        -- of the event
	room     BIGINT NOT NULL,
	ord      BIGINT NOT NULL, -- its place in the room's history
	parent   TEXT NOT NULL,
	rel_type TEXT NOT NULL,
	within   TEXT NOT NULL,
	beyond   TEXT NOT NULL,
	type     {blob} NOT NULL,
	sender   TEXT NOT NULL,
	ts       BIGINT NOT NULL  -- origin_server_ts
);
CREATE INDEX mx_relations_news ON mx_relations (room, pos);
CREATE INDEX mx_relations_parent ON mx_relations (parent, room, ord);
CREATE INDEX mx_relations_kind ON mx_relations (parent, rel_type, room, ord);
CREATE INDEX mx_relations_within ON mx_relations (within, room, ord) WHERE within <> '';
CREATE INDEX mx_relations_beyond ON mx_relations (beyond, room, ord) WHERE beyond <> '';

-- Threads: how many events relate to the root as m.thread, and the place of the newest of them.
CREATE TABLE mx_threads (
	room   BIGINT NOT NULL,
	root   TEXT NOT NULL,
	newest BIGINT NOT NULL,
	events BIGINT NOT NULL,
	PRIMARY KEY (room, root)
) {clustered};
CREATE INDEX mx_threads_newest ON mx_threads (room, newest);

-- How many of those events somebody has sent.
CREATE TABLE mx_thread_senders (
	room   BIGINT NOT NULL,
	root   TEXT NOT NULL,
	sender TEXT NOT NULL,
	events BIGINT NOT NULL,
	PRIMARY KEY (room, root, sender)
) {clustered};

-- Rooms up to this number may hold events from before there were relations: they are gone through once, when somebody asks.
INSERT INTO mx_meta (name, value) SELECT 'relations_from', CAST(CAST(COALESCE(MAX(room), 0) AS TEXT) AS {blob}) FROM mx_rooms;
CREATE TABLE mx_related (
	room  {intkey},
	up_to BIGINT NOT NULL, -- position of the last event that was gone through
	done  BOOLEAN NOT NULL
);

-- Threads that a user has subscribed to, or has ceased to.
CREATE TABLE mx_thread_subscriptions (
	user_id    TEXT NOT NULL,
	room       BIGINT NOT NULL,
	root       TEXT NOT NULL,
	subscribed BOOLEAN NOT NULL,
	automatic  BOOLEAN NOT NULL,
	until      BIGINT NOT NULL, -- no event of the thread up to this place in the room's history subscribes automatically
	pos        BIGINT NOT NULL, -- of the change
	PRIMARY KEY (user_id, room, root)
) {clustered};
CREATE INDEX mx_thread_subscriptions_news ON mx_thread_subscriptions (user_id, pos);
