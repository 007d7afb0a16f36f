-- What clients search for. For names, times and macros see 0001_init.sql.

-- The words of messages, names and topics; the text itself is not stored again. The number of a row is the position of
-- its event, or minus that for one that did not arrive as it happened: so the newest are those with the greatest numbers.
-- only: sqlite
CREATE VIRTUAL TABLE mx_search USING fts5 (words, content = '', contentless_delete = 1, tokenize = 'ascii');

-- only: postgres
CREATE TABLE mx_search (
	doc   BIGINT PRIMARY KEY,
	words TSVECTOR NOT NULL
);

-- only: postgres
CREATE INDEX mx_search_words ON mx_search USING GIN (words);

-- Edits of messages: under the newest one the words of the message are found.
CREATE TABLE mx_search_edits (
	pos    {intkey},
	target TEXT NOT NULL,  -- the id of the event that is edited
	sender TEXT NOT NULL,
	ts     BIGINT NOT NULL -- origin_server_ts
);
CREATE INDEX mx_search_edits_target ON mx_search_edits (target, sender, ts);

-- Events that changed since their words were taken: they were redacted, or have got a place in the history.
CREATE TABLE mx_search_again (
	pos {intkey}
);
