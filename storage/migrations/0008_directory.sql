-- The room directory. For names and macros see 0001_init.sql.

-- What the directory tells of a published room, as it was read from one state of the room. When the room has another
-- state by now, or has no row, it is read again. A room that was taken out of the directory needs no row.
CREATE TABLE mx_directory (
	room      {intkey},
	state     BIGINT NOT NULL,  -- the state that was read: a node of mx_state_nodes
	federated BOOLEAN NOT NULL, -- other servers may be told of it
	summary   {blob} NOT NULL   -- JSON; empty: this server is not in the room
);
