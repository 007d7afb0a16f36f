-- The event graph: rooms that several servers write.

ALTER TABLE mx_events ADD COLUMN after BIGINT NOT NULL DEFAULT 0; -- the state after the event, on its own branch
UPDATE mx_events SET after = now;

ALTER TABLE mx_memberships ADD COLUMN since BIGINT NOT NULL DEFAULT 0; -- position at which the event became current
UPDATE mx_memberships SET since = pos;

-- The auth events of every state event, as positions: the edges of a room's auth graph.
CREATE TABLE mx_auth (
	room   BIGINT NOT NULL,
	pos    BIGINT NOT NULL,
	number BIGINT NOT NULL, -- of its state key
	auth   {blob} NOT NULL, -- varints: how far back each is, in the order of auth_events
	PRIMARY KEY (room, pos)
) {clustered};

-- Events up to this position have no rows in mx_auth yet.
INSERT INTO mx_meta (name, value) SELECT 'graph_from', CAST(CAST(pos AS TEXT) AS {blob}) FROM mx_position;

-- Backward extremities: events that others name as their predecessors and that are not here.
CREATE TABLE mx_gaps (
	room    BIGINT NOT NULL,
	missing TEXT NOT NULL,
	ord     BIGINT NOT NULL, -- place of an event that names it
	PRIMARY KEY (room, missing, ord)
) {clustered};
CREATE INDEX mx_gaps_place ON mx_gaps (room, ord);
