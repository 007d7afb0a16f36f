package federation

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// keysValidFor is how long others may use an answer of ours: they ask again after half of it, and the
// specification wants no answer that expires within an hour.
const keysValidFor = 24 * time.Hour

type serverKeys struct {
	ServerName    id.ServerName        `json:"server_name"`
	VerifyKeys    map[string]verifyKey `json:"verify_keys"`
	OldVerifyKeys map[string]oldKey    `json:"old_verify_keys"`
	ValidUntilTS  int64                `json:"valid_until_ts"`
}

type verifyKey struct {
	Key string `json:"key"`
}

type oldKey struct {
	Key       string `json:"key"`
	ExpiredTS int64  `json:"expired_ts"`
}

// signed is a JSON object with signatures, sent as it is.
type signed struct{ json []byte }

// AppendJSON makes the signed bytes the answer: encoding them again could break the signature.
func (s *signed) AppendJSON(dst []byte) []byte { return append(dst, s.json...) }

// getServerKey implements GET /_matrix/key/v2/server.
//
// The key id that older servers put behind the path changes nothing: the answer always has all keys.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixkeyv2server
func (s *Service) getServerKey(context.Context, *httpapi.Call, *httpapi.None) (*signed, error) {
	object, err := s.signedKeys()
	if err != nil {
		return nil, err
	}
	return &signed{object}, nil
}

// signedKeys is what this server says of its keys.
func (s *Service) signedKeys() ([]byte, error) {
	object, err := json.Marshal(s.keys())
	if err != nil {
		return nil, fmt.Errorf("encode server keys: %w", err)
	}
	object, err = signing.SignJSON(string(s.cfg.ServerName), s.cfg.Key, object)
	if err != nil {
		return nil, fmt.Errorf("sign server keys: %w", err)
	}
	return object, nil
}

func (s *Service) keys() serverKeys {
	keys := serverKeys{
		ServerName:    s.cfg.ServerName,
		VerifyKeys:    map[string]verifyKey{s.cfg.Key.ID: {signing.Encode(s.cfg.Key.Public())}},
		OldVerifyKeys: map[string]oldKey{},
		ValidUntilTS:  s.cfg.Now().Add(keysValidFor).UnixMilli(),
	}
	for _, old := range s.cfg.OldKeys {
		keys.OldVerifyKeys[old.ID] = oldKey{signing.Encode(old.Public), old.ExpiredAt.UnixMilli()}
	}
	return keys
}
