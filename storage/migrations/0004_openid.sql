-- Tokens by which third parties ask who a user is. For names, times and macros see 0001_init.sql.
CREATE TABLE mx_openid_tokens (
	token_hash {blob} PRIMARY KEY, -- SHA-256
	user_id    TEXT NOT NULL,
	expires_ms BIGINT NOT NULL
) {clustered};
CREATE INDEX mx_openid_tokens_user ON mx_openid_tokens (user_id, expires_ms);
CREATE INDEX mx_openid_tokens_age ON mx_openid_tokens (expires_ms);
