-- Who can be found in the user directory. For names, times and macros see 0001_init.sql.

-- Rooms whose members can be found. In an open one everybody finds them: anybody may join it, or read it.
CREATE TABLE mx_people_rooms (
	room    {intkey},
	present BOOLEAN NOT NULL, -- this server is in the room
	open    BOOLEAN NOT NULL,
	done    BOOLEAN NOT NULL  -- all its members are found as this row says
);
CREATE INDEX mx_people_rooms_due ON mx_people_rooms (done) WHERE NOT done;

-- People as somebody finds them. scope says who: the members of a room by its number, 0 everybody, and -1 everybody
-- where all local users may be found.
CREATE TABLE mx_people (
	scope   BIGINT NOT NULL,
	user_id TEXT NOT NULL,
	room    BIGINT NOT NULL, -- the room that shows them; 0 with scope -1
	name    {blob} NOT NULL, -- the display name, empty for none
	avatar  {blob} NOT NULL, -- likewise an mxc URI
	PRIMARY KEY (scope, user_id)
) {clustered};
CREATE INDEX mx_people_user ON mx_people (user_id);

-- The words under which they are found, folded.
CREATE TABLE mx_people_words (
	scope   BIGINT NOT NULL,
	word    {blob} NOT NULL,
	user_id TEXT NOT NULL,
	PRIMARY KEY (scope, word, user_id)
) {clustered};

-- Local users whose profile or account has changed since.
CREATE TABLE mx_people_again (
	user_id TEXT PRIMARY KEY,
	times   BIGINT NOT NULL -- counts the changes
) {clustered};
INSERT INTO mx_people_again (user_id, times) SELECT user_id, 1 FROM mx_accounts;
