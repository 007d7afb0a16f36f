package federation_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/rooms"
)

// saying is a peer that answers everything alike, and remembers what was asked last.
type saying struct {
	status int
	body   string
	asked  string
	sent   string
}

func (s *saying) RoundTrip(r *http.Request) (*http.Response, error) {
	s.asked = r.Method + " " + r.URL.RequestURI()
	if r.Body != nil {
		sent, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		s.sent = string(sent)
	}
	return &http.Response{StatusCode: s.status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(s.body)), Request: r}, nil
}

func clientOf(t *testing.T, s *saying) *federation.Client {
	t.Helper()
	w := wire.NewClient(wire.Config{Origin: "hs.test", Key: key(t, "a", 1), Transport: s})
	t.Cleanup(w.Close)
	return federation.NewClient(w, nil)
}

const peer, inRoom, anEvent = id.ServerName("peer.test"), id.RoomID("!a/b:peer.test"), id.EventID("$x/y")

func TestClientAsks(t *testing.T) {
	s := &saying{status: 200}
	c, ctx := clientOf(t, s), t.Context()

	s.body = `{"events":[{"a":1},{}]}`
	events, err := c.MissingEvents(ctx, peer, inRoom, nil, []id.EventID{anEvent}, 7, 3)
	require.NoError(t, err)
	require.Len(t, events, 2)
	require.Equal(t, "POST /_matrix/federation/v1/get_missing_events/%21a%2Fb:peer.test", s.asked)
	require.JSONEq(t, `{"earliest_events":[],"latest_events":["$x/y"],"limit":7,"min_depth":3}`, s.sent)

	s.body = `{"origin":"peer.test","origin_server_ts":1,"pdus":[{"a":1}]}`
	events, err = c.Backfill(ctx, peer, inRoom, []id.EventID{anEvent, "$z"}, 50)
	require.NoError(t, err)
	require.Len(t, events, 1)
	require.Equal(t, "GET /_matrix/federation/v1/backfill/%21a%2Fb:peer.test?limit=50&v=%24x%2Fy&v=%24z", s.asked)

	event, err := c.Event(ctx, peer, inRoom, anEvent)
	require.NoError(t, err)
	require.JSONEq(t, `{"a":1}`, string(event))
	require.Equal(t, "GET /_matrix/federation/v1/event/$x%2Fy", s.asked)

	s.body = `{"auth_chain":[{}],"pdus":[{},{}]}`
	state, auth, err := c.State(ctx, peer, inRoom, anEvent)
	require.NoError(t, err)
	require.Len(t, state, 2)
	require.Len(t, auth, 1)
	require.Equal(t, "GET /_matrix/federation/v1/state/%21a%2Fb:peer.test?event_id=%24x%2Fy", s.asked)
	auth, err = c.EventAuth(ctx, peer, inRoom, anEvent)
	require.NoError(t, err)
	require.Len(t, auth, 1)
	require.Equal(t, "GET /_matrix/federation/v1/event_auth/%21a%2Fb:peer.test/$x%2Fy", s.asked)

	s.body = `{"auth_chain_ids":["$a"],"pdu_ids":["$b","$c"]}`
	stateIDs, authIDs, err := c.StateIDs(ctx, peer, inRoom, anEvent)
	require.NoError(t, err)
	require.Equal(t, []id.EventID{"$b", "$c"}, stateIDs)
	require.Equal(t, []id.EventID{"$a"}, authIDs)

	s.body = `{"event_id":"$a","origin_server_ts":5}`
	eventID, ts, err := c.EventNear(ctx, peer, inRoom, rooms.Moment{TS: 4, Backwards: true})
	require.NoError(t, err)
	require.Equal(t, id.EventID("$a"), eventID)
	require.Equal(t, int64(5), ts)
	require.Equal(t, "GET /_matrix/federation/v1/timestamp_to_event/%21a%2Fb:peer.test?dir=b&ts=4", s.asked)
}

// asks are all questions, by the key that their answer has to have.
func asks(c *federation.Client) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"events": func(ctx context.Context) error {
			_, err := c.MissingEvents(ctx, peer, inRoom, nil, nil, 1, 0)
			return err
		},
		"pdus": func(ctx context.Context) error { _, err := c.Backfill(ctx, peer, inRoom, nil, 1); return err },
		"pdus of one event": func(ctx context.Context) error {
			_, err := c.Event(ctx, peer, inRoom, anEvent)
			return err
		},
		"auth_chain": func(ctx context.Context) error { _, err := c.EventAuth(ctx, peer, inRoom, anEvent); return err },
		"state":      func(ctx context.Context) error { _, _, err := c.State(ctx, peer, inRoom, anEvent); return err },
		"pdu_ids":    func(ctx context.Context) error { _, _, err := c.StateIDs(ctx, peer, inRoom, anEvent); return err },
		"event_id": func(ctx context.Context) error {
			_, _, err := c.EventNear(ctx, peer, inRoom, rooms.Moment{})
			return err
		},
	}
}

func TestClientRefusesAnswersOfAnotherForm(t *testing.T) {
	s := &saying{status: 200}
	forms := map[string]string{
		"events": `{"events":%s}`, "pdus": `{"pdus":%s}`, "pdus of one event": `{"pdus":%s}`, "auth_chain": `{"auth_chain":%s}`,
		"state": `{"pdus":%s,"auth_chain":[]}`, "pdu_ids": `{"pdu_ids":%s,"auth_chain_ids":[]}`, "event_id": `{"event_id":%s,"origin_server_ts":1}`,
	}
	for name, ask := range asks(clientOf(t, s)) {
		for _, value := range []string{`null`, `1`, `"x"`, `{}`, `[`, `{"a":1}`, `[[1]`} {
			for _, s.body = range []string{value, fmt.Sprintf(forms[name], value)} {
				if name == "events" && s.body == value && value[0] == '{' {
					continue // without a list there is nothing to tell
				}
				require.Error(t, ask(t.Context()), "%s: %s", name, s.body)
			}
		}
	}
	for name, body := range map[string]string{
		"pdu_ids":           `{"pdu_ids":["no event id"],"auth_chain_ids":[]}`,
		"pdus of one event": `{"pdus":[{},{}]}`,
		"event_id":          `{"event_id":"$a"}`,
	} {
		s.body = body
		require.Error(t, asks(clientOf(t, s))[name](t.Context()), body)
	}
}

func TestClientRefusesLongAnswers(t *testing.T) {
	s := &saying{status: 200, body: `{"pdus":["` + strings.Repeat("x", 17<<20) + `"]}`}
	require.ErrorIs(t, asks(clientOf(t, s))["pdus"](t.Context()), wire.ErrTooLarge)
	require.ErrorIs(t, asks(clientOf(t, s))["pdus of one event"](t.Context()), wire.ErrTooLarge)
}

func TestClientPassesRefusalsOn(t *testing.T) {
	s := &saying{status: 403, body: `{"errcode":"M_FORBIDDEN","error":"no"}`}
	for name, ask := range asks(clientOf(t, s)) {
		var refused *wire.Error
		require.ErrorAs(t, ask(t.Context()), &refused, name)
		require.Equal(t, "M_FORBIDDEN", refused.Code)
	}
}

// FP-01: "it is dropped": one event that cannot be read spoils no others of an answer.
func TestOddEventSpoilsNoOthers(t *testing.T) {
	odd := "{\"a\":\"\xff\",\"a\":1.5,\"b\":\"\\ud800\"}"
	s := &saying{status: 200}
	c, ctx := clientOf(t, s), t.Context()
	s.body = `{"events":[{"a":1},` + odd + `]}`
	events, err := c.MissingEvents(ctx, peer, inRoom, nil, []id.EventID{anEvent}, 7, 3)
	require.NoError(t, err)
	require.Len(t, events, 2)
	s.body = `{"pdus":[{"a":1},` + odd + `]}`
	events, err = c.Backfill(ctx, peer, inRoom, []id.EventID{anEvent}, 7)
	require.NoError(t, err)
	require.Len(t, events, 2)
	s.body = `{"pdus":[` + odd + `],"auth_chain":[{"a":1}]}`
	state, auth, err := c.State(ctx, peer, inRoom, anEvent)
	require.NoError(t, err)
	require.Len(t, append(state, auth...), 2)
}
