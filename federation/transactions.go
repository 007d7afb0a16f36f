package federation

import (
	"bytes"
	"encoding/json"
	"net/http"

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
	t := &delivery{}
	d := json.NewDecoder(bytes.NewReader(body))
	if opening, err := d.Token(); err != nil || opening != json.Delim('{') {
		return nil, mxerr.NotJSON.With("the body must be a JSON object")
	}
	for d.More() {
		key, err := d.Token()
		if err == nil {
			err = t.read(d, key.(string)) // an object's keys are strings
		}
		if err != nil {
			return nil, err
		}
	}
	if _, err := d.Token(); err != nil {
		return nil, mxerr.NotJSON
	}
	return t, nil
}

// read reads the value of one key.
func (t *delivery) read(d *json.Decoder, key string) (err error) {
	switch key {
	case "origin":
		return t.readOrigin(d)
	case "pdus":
		t.pdus, err = readItems(d, key, maxPDUs)
	case "edus":
		t.edus, err = readItems(d, key, maxEDUs)
	default:
		err = skip(d)
	}
	return err
}

func (t *delivery) readOrigin(d *json.Decoder) (err error) {
	var name string
	if err := d.Decode(&name); err != nil {
		return mxerr.BadJSON.With("origin must be a string")
	}
	if t.origin, err = id.ParseServerName(name); err != nil {
		return mxerr.InvalidParam.With("origin is no server name")
	}
	return nil
}

// readItems reads a list of at most limit items.
func readItems(d *json.Decoder, key string, limit int) (items []json.RawMessage, err error) {
	if opening, err := d.Token(); err != nil || opening != json.Delim('[') {
		return nil, mxerr.BadJSON.With("%s must be a list", key)
	}
	for d.More() {
		if len(items) == limit {
			return nil, mxerr.BadJSON.With("a transaction may have %d %s", limit, key)
		}
		var item json.RawMessage
		if err := d.Decode(&item); err != nil {
			return nil, mxerr.NotJSON
		}
		items = append(items, item)
	}
	if _, err := d.Token(); err != nil {
		return nil, mxerr.NotJSON
	}
	return items, nil
}

func skip(d *json.Decoder) error {
	var ignored json.RawMessage
	if err := d.Decode(&ignored); err != nil {
		return mxerr.NotJSON
	}
	return nil
}
