-- Redaction of all that somebody has sent. For names, times and macros see 0001_init.sql.

-- Member events by which a user was put out of a room, with all that they had sent there, while that is under way.
CREATE TABLE mx_clearings (
	by_pos {intkey},          -- position of the member event
	room   BIGINT NOT NULL,
	done   BIGINT NOT NULL,   -- place in the room's history up to which it is done,
	up_to  BIGINT NOT NULL    -- and up to which it is to be
);
