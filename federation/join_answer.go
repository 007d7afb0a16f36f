package federation

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
)

// What an answer to a join may have.
const (
	maxJoinEvents  = 400_000 // state and auth chain together
	maxJoinServers = 100_000
	maxJoinValue   = 1 << 20 // bytes of an event, or of anything else that is not a list
)

var errJoinForm = errors.New("the answer to a join has another form")

// readJoinAnswer reads an answer to /send_join while it comes in, in the form of version 2 or, in a list behind its
// status, of version 1. Events are only cut out.
func readJoinAnswer(body io.Reader) (*rooms.JoinAnswer, error) {
	j := &joinReader{slow: &measured{Reader: body}, seen: map[json.Token]bool{}}
	j.json = json.NewDecoder(j.slow)
	if err := j.read(); err != nil {
		return nil, fmt.Errorf("read the answer to a join: %w", err)
	}
	return &j.answer, nil
}

// joinReader cuts an answer into its parts.
type joinReader struct {
	json   *json.Decoder
	slow   *measured
	answer rooms.JoinAnswer
	events int
	seen   map[json.Token]bool // the keys that count
}

// measured is a reader that ends when too much came without a reset.
type measured struct {
	io.Reader
	n int
}

func (m *measured) Read(p []byte) (int, error) {
	if m.n > maxJoinValue {
		return 0, mxerr.TooLarge.WithStatus(502).With("a part of the answer to a join is too large")
	}
	n, err := m.Reader.Read(p)
	m.n += n
	return n, err
}

func (j *joinReader) read() error {
	first, err := j.token()
	if err != nil {
		return err
	}
	if first == json.Delim('[') { // version 1
		if err := j.value(new(int)); err != nil {
			return err
		}
		first, err = j.token()
		if err != nil {
			return err
		}
	}
	if first != json.Delim('{') {
		return errJoinForm
	}
	return j.object()
}

func (j *joinReader) token() (json.Token, error) {
	j.slow.n = 0
	return j.json.Token()
}

// value decodes the next value, which must fit.
func (j *joinReader) value(into any) error {
	j.slow.n = 0
	return j.json.Decode(into)
}

func (j *joinReader) object() error {
	for j.json.More() {
		key, err := j.token()
		if err != nil {
			return err
		}
		if err := j.member(key); err != nil {
			return err
		}
	}
	_, err := j.token()
	return err
}

func (j *joinReader) member(key json.Token) error {
	read := map[json.Token]func() error{
		"state":           func() error { return j.list(func() error { return j.event(&j.answer.State) }) },
		"auth_chain":      func() error { return j.list(func() error { return j.event(&j.answer.Auth) }) },
		"servers_in_room": func() error { return j.list(j.server) },
		"event":           func() error { return j.value(&j.answer.Event) },
		"members_omitted": func() error { return j.value(&j.answer.MembersOmitted) },
	}[key]
	if read == nil {
		return j.value(new(json.RawMessage))
	}
	if j.seen[key] {
		return fmt.Errorf("%w: %q comes twice", errJoinForm, key)
	}
	j.seen[key] = true
	return read()
}

// list reads a list element by element; null is none.
func (j *joinReader) list(element func() error) error {
	open, err := j.token()
	if err != nil || open == nil {
		return err
	}
	if open != json.Delim('[') {
		return errJoinForm
	}
	for j.json.More() {
		if err := element(); err != nil {
			return err
		}
	}
	_, err = j.token()
	return err
}

func (j *joinReader) event(list *[]json.RawMessage) error {
	if j.events++; j.events > maxJoinEvents {
		return fmt.Errorf("%w: there are more than %d events", errJoinForm, maxJoinEvents)
	}
	var raw json.RawMessage
	if err := j.value(&raw); err != nil {
		return err
	}
	*list = append(*list, raw)
	return nil
}

// server reads a server name; what is none is left out.
func (j *joinReader) server() error {
	var raw json.RawMessage
	if err := j.value(&raw); err != nil {
		return err
	}
	var text string
	if json.Unmarshal(raw, &text) != nil || len(j.answer.Servers) >= maxJoinServers {
		return nil
	}
	if name, err := id.ParseServerName(text); err == nil {
		j.answer.Servers = append(j.answer.Servers, name)
	}
	return nil
}
