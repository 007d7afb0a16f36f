package federation

import (
	"encoding/json"
	"net/http"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// What a transaction may have: "at most 50 PDUs and 100 EDUs"; maxTransaction bytes are room for that many events
// and EDUs of the largest size.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#transactions
const (
	maxPDUs        = 50
	maxEDUs        = 100
	maxTransaction = 10 << 20
)

// sendTransaction implements PUT /_matrix/federation/v1/send/{txnId}.
//
// It is answered once every event is stored or refused and every EDU was told, or after 55 seconds; a transaction that
// was answered before, or is being handled, gets the same answer. One bad item never costs the others anything, even if
// it is something that no parser should read: only the parts of the body are read here.
//
// https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1sendtxnid
func (s *Service) sendTransaction(w http.ResponseWriter, c *httpapi.Call) error {
	t, err := readTransaction(c.Body)
	if err != nil {
		return err
	}
	// The server that has signed is the one that sends.
	if t.origin != "" && t.origin != c.Origin {
		return mxerr.InvalidParam.With("origin is not the server that has signed the request")
	}
	t.origin, t.id, t.size = c.Origin, c.PathValue("txnId"), len(c.Body)
	answer, err := s.inbox.take(c.Request.Context(), t)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(answer)
	return err
}

// delivery is what one server has sent another.
type delivery struct {
	origin id.ServerName
	id     string
	size   int // of the body, in bytes
	pdus   []json.RawMessage
	edus   []json.RawMessage
}

// readTransaction takes the body of a transaction apart. What its items are is not looked at.
func readTransaction(body []byte) (*delivery, error) {
	compact, err := canonjson.AppendCompact(nil, body)
	if err != nil || !canonjson.IsObject(compact) {
		return nil, mxerr.NotJSON.With("the body must be a JSON object")
	}
	t := &delivery{}
	for members := canonjson.Open(compact); ; {
		key, value, ok := members.Next()
		if !ok {
			return t, nil
		}
		if err := t.read(string(key), value); err != nil {
			return nil, err
		}
	}
}

// read reads the value of one key.
func (t *delivery) read(key string, value []byte) (err error) {
	if key == "origin" && t.origin != "" || key == "pdus" && t.pdus != nil || key == "edus" && t.edus != nil {
		return mxerr.BadJSON.With("%s occurs twice", key)
	}
	switch key {
	case "origin":
		t.origin, err = readOrigin(value)
	case "pdus":
		t.pdus, err = readItems(key, value, maxPDUs)
	case "edus":
		t.edus, err = readItems(key, value, maxEDUs)
	}
	return err
}

func readOrigin(value []byte) (id.ServerName, error) {
	name, _ := canonjson.String(value)
	origin, err := id.ParseServerName(name)
	if err != nil {
		return "", mxerr.InvalidParam.With("origin is no server name")
	}
	return origin, nil
}

// readItems reads a list of at most limit items.
func readItems(key string, value []byte, limit int) ([]json.RawMessage, error) {
	items := []json.RawMessage{} // not nil: the list was there
	if !canonjson.IsArray(value) {
		return nil, mxerr.BadJSON.With("%s must be a list", key)
	}
	for list := canonjson.OpenArray(value); ; {
		item, ok := list.Next()
		if !ok {
			return items, nil
		}
		if len(items) == limit {
			return nil, mxerr.BadJSON.With("a transaction may have %d %s", limit, key)
		}
		items = append(items, item)
	}
}
