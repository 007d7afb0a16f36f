-- Events that are sent later (MSC4140), and those that stay at hand for a while (MSC4354).

CREATE TABLE mx_delayed (
	delay_id  TEXT PRIMARY KEY,
	user_id   TEXT NOT NULL,
	device_id TEXT NOT NULL,
	room_id   TEXT NOT NULL,
	type      {blob} NOT NULL,
	is_state  BOOLEAN NOT NULL,
	state_key {blob} NOT NULL, -- of a state event
	content   {blob} NOT NULL,
	sticky_ms BIGINT NOT NULL, -- for how long the event is sticky; 0: it is not
	delay_ms  BIGINT NOT NULL,
	due_ms    BIGINT NOT NULL, -- when it is sent
	pos       BIGINT NOT NULL  -- when it was scheduled: state that came later and is of somebody else overtakes it
) {clustered};
CREATE INDEX mx_delayed_user ON mx_delayed (user_id, due_ms);
CREATE INDEX mx_delayed_due ON mx_delayed (due_ms);

-- Sticky events of which clients may not know yet, by the room and the position of their arrival.
CREATE TABLE mx_sticky (
	room       BIGINT NOT NULL,
	arrived    BIGINT NOT NULL,
	pos        BIGINT NOT NULL, -- of the event
	expires_ms BIGINT NOT NULL, -- when it is sticky no longer
	PRIMARY KEY (room, arrived, pos)
) {clustered};
CREATE INDEX mx_sticky_end ON mx_sticky (expires_ms);
