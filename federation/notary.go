package federation

import (
	"context"
	"encoding/json"
	"fmt"

	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// How much one request to us as a notary may ask for.
const (
	maxQueried     = 100 // servers
	maxQueriedKeys = 100 // keys of one server
)

// keyQuery names servers, of each the keys that are needed, and how long they must be valid.
type keyQuery struct {
	ServerKeys map[string]map[string]keyCriterion `json:"server_keys"`
}

type keyCriterion struct {
	MinimumValidUntil int64 `json:"minimum_valid_until_ts"`
}

type keyAnswers struct {
	ServerKeys []json.RawMessage `json:"server_keys"`
}

// queryKeys implements POST /_matrix/key/v2/query.
//
// At most 100 servers may be asked for. Names that are no server names are left out, like servers that do not answer.
//
// https://spec.matrix.org/latest/server-server-api/#post_matrixkeyv2query
func (s *Service) queryKeys(ctx context.Context, _ *httpapi.Call, in *keyQuery) (*keyAnswers, error) {
	if in.ServerKeys == nil {
		return nil, mxerr.MissingParam.With("server_keys is missing")
	}
	if len(in.ServerKeys) > maxQueried {
		return nil, mxerr.InvalidParam.With("at most %d servers may be asked for", maxQueried)
	}
	var queries []keyring.Query
	for name, keys := range in.ServerKeys {
		if len(keys) > maxQueriedKeys {
			return nil, mxerr.InvalidParam.With("at most %d keys of a server may be asked for", maxQueriedKeys)
		}
		if server, err := id.ParseServerName(name); err == nil {
			queries = append(queries, queryOf(server, keys))
		}
	}
	return s.vouch(ctx, queries)
}

func queryOf(server id.ServerName, keys map[string]keyCriterion) keyring.Query {
	q := keyring.Query{Server: server}
	for keyID, criterion := range keys {
		q.KeyIDs = append(q.KeyIDs, keyID)
		q.MinimumValidUntil = max(q.MinimumValidUntil, criterion.MinimumValidUntil)
	}
	return q
}

// queryServerKeys implements GET /_matrix/key/v2/query/{serverName}.
//
// Before v1.6 of the specification a key followed in the path.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixkeyv2queryservername
func (s *Service) queryServerKeys(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*keyAnswers, error) {
	minimum, err := c.Int64("minimum_valid_until_ts", 0)
	if err != nil {
		return nil, err
	}
	q := keyring.Query{Server: c.ServerName("serverName"), MinimumValidUntil: minimum}
	if keyID := c.PathValue("keyId"); keyID != "" {
		q.KeyIDs = []string{keyID}
	}
	return s.vouch(ctx, []keyring.Query{q})
}

// vouch answers with what servers have said of their keys: "The notary server will additionally sign the response from
// the queried server before returning the results."
func (s *Service) vouch(ctx context.Context, queries []keyring.Query) (*keyAnswers, error) {
	answers := &keyAnswers{ServerKeys: []json.RawMessage{}}
	for _, q := range queries {
		if q.Server == s.cfg.ServerName {
			own, err := s.signedKeys()
			if err != nil {
				return nil, err
			}
			answers.ServerKeys = append(answers.ServerKeys, own)
			break
		}
	}
	if s.cfg.Ring == nil {
		return answers, nil
	}
	for _, said := range s.cfg.Ring.Answers(ctx, queries) {
		object, err := signing.SignJSON(string(s.cfg.ServerName), s.cfg.Key, said)
		if err != nil {
			return nil, fmt.Errorf("sign the keys of a server: %w", err)
		}
		answers.ServerKeys = append(answers.ServerKeys, object)
	}
	return answers, nil
}
