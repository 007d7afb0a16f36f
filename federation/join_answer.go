package federation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/embedmatrix/homeserver/internal/id"
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
	j := &joinReader{cutter: cutter{from: body, max: maxJoinValue}, seen: map[string]bool{}}
	if err := j.read(); err != nil {
		return nil, fmt.Errorf("read the answer to a join: %w", err)
	}
	return &j.answer, nil
}

// joinReader cuts an answer into its parts.
type joinReader struct {
	cutter
	answer rooms.JoinAnswer
	events int
	seen   map[string]bool // the keys that count
}

func (j *joinReader) read() error {
	first, err := j.take("{[")
	switch {
	case err != nil:
		return err
	case first == '[':
		return j.old()
	}
	return j.object()
}

// old reads the form of version 1 behind its bracket.
func (j *joinReader) old() error {
	if err := j.into(new(int)); err != nil {
		return err
	}
	for _, b := range []string{",", "{"} {
		if _, err := j.take(b); err != nil {
			return err
		}
	}
	return j.object()
}

// into decodes the next value, which must fit.
func (j *joinReader) into(v any) error {
	raw, err := j.value()
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

// object reads the members of an object behind its brace.
func (j *joinReader) object() error {
	return j.each('}', func() error {
		var key string
		if err := j.into(&key); err != nil {
			return err
		}
		if _, err := j.take(":"); err != nil {
			return err
		}
		return j.member(key)
	})
}

// each reads what is between commas until the end.
func (j *joinReader) each(end byte, element func() error) error {
	if b, err := j.next(); err != nil || b == end {
		j.rest = j.rest[min(1, len(j.rest)):]
		return err
	}
	for {
		if err := element(); err != nil {
			return err
		}
		b, err := j.take("," + string(end))
		if err != nil || b == end {
			return err
		}
	}
}

func (j *joinReader) member(key string) error {
	read := map[string]func() error{
		"state":           func() error { return j.list(func() error { return j.event(&j.answer.State) }) },
		"auth_chain":      func() error { return j.list(func() error { return j.event(&j.answer.Auth) }) },
		"servers_in_room": func() error { return j.list(j.server) },
		"event":           func() error { return j.into(&j.answer.Event) },
		"members_omitted": func() error { return j.into(&j.answer.MembersOmitted) },
	}[key]
	if read == nil {
		return j.into(new(json.RawMessage))
	}
	if j.seen[key] {
		return fmt.Errorf("%w: %q comes twice", errJoinForm, key)
	}
	j.seen[key] = true
	return read()
}

// list reads a list element by element; null is none.
func (j *joinReader) list(element func() error) error {
	open, err := j.next()
	if err != nil {
		return err
	}
	if open != '[' {
		var none any
		if err := j.into(&none); err != nil || none != nil {
			return errors.Join(errJoinForm, err)
		}
		return nil
	}
	j.rest = j.rest[1:]
	return j.each(']', element)
}

func (j *joinReader) event(list *[]json.RawMessage) error {
	if j.events++; j.events > maxJoinEvents {
		return fmt.Errorf("%w: there are more than %d events", errJoinForm, maxJoinEvents)
	}
	raw, err := j.value()
	if err == nil {
		*list = append(*list, bytes.Clone(raw))
	}
	return err
}

// server reads a server name; what is none is left out.
func (j *joinReader) server() error {
	raw, err := j.value()
	if err != nil {
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
