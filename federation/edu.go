package federation

import (
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// edu is an ephemeral data unit that another server has sent.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#edus
type edu struct {
	eduType string
	content json.RawMessage // canonical JSON, an object
}

func readEDU(raw json.RawMessage) (edu, error) {
	canonical, err := canonjson.Append(nil, raw)
	if err != nil {
		return edu{}, mxerr.BadJSON.With("an EDU is no JSON that all servers read alike")
	}
	eduType, ok := canonjson.String(canonjson.Get(canonical, "edu_type"))
	content := canonjson.Get(canonical, "content")
	if !ok || !canonjson.IsObject(content) {
		return edu{}, mxerr.BadJSON.With("an EDU has no edu_type or content")
	}
	return edu{eduType, content}, nil
}
