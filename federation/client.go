package federation

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/rooms"
)

// Client asks other servers, each by a signed request: it is the rooms.Remote of a server. It is safe for many at once
// and has nothing to close of its own.
//
// Answers are what others said: their lengths are bounded, and of another form than the specification's they are an
// error. Nothing else of them is checked. An answer that is no success is a *wire.Error, which is never to be handed on.
type Client struct {
	Wire *wire.Client  // sends the requests
	Ring *keyring.Ring // has the keys of those who signed events
}

// NewClient returns a Client.
func NewClient(client *wire.Client, ring *keyring.Ring) *Client { return &Client{client, ring} }

// How many bytes an answer may have.
const (
	maxEventAnswer  = 1 << 20   // one event
	maxEventsAnswer = 16 << 20  // a hundred events
	maxIDsAnswer    = 32 << 20  // the ids of a state
	maxStateAnswer  = 256 << 20 // a state with its events
)

const v1 = "/_matrix/federation/v1/"

// VerifyEvents checks the signatures that each event needs and returns one result for each, in order: see
// keyring.Ring.VerifyEvents.
func (c *Client) VerifyEvents(ctx context.Context, events []*event.Event) []error {
	return c.Ring.VerifyEvents(ctx, events)
}

// MissingEvents asks for at most limit events between earliest and latest, both excluded, none of a smaller depth than
// minDepth.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1get_missing_eventsroomid
func (c *Client) MissingEvents(ctx context.Context, server id.ServerName, room id.RoomID, earliest, latest []id.EventID, limit int, minDepth int64) ([]json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{
		"earliest_events": list(earliest), "latest_events": list(latest), "limit": limit, "min_depth": minDepth,
	})
	if err != nil {
		return nil, err
	}
	var answer map[string]json.RawMessage
	request := wire.Request{
		Destination: server, Method: http.MethodPost, Path: v1 + "get_missing_events/" + url.PathEscape(string(room)),
		Body: body, MaxAnswer: maxEventsAnswer, Loose: true,
	}
	if err := c.fetch(ctx, request, &answer); err != nil {
		return nil, err
	}
	list, told := answer["events"]
	if answer != nil && !told {
		return nil, nil // who leaves the list out has nothing to tell
	}
	var events *[]json.RawMessage
	if err := json.Unmarshal(list, &events); err != nil {
		return nil, badAnswer(request, err)
	}
	return required(request, "events", events)
}

// list is a list that is never null.
func list(ids []id.EventID) []id.EventID { return append([]id.EventID{}, ids...) }

// Backfill asks for at most limit events that precede some events, those included. The answer may have more.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1backfillroomid
func (c *Client) Backfill(ctx context.Context, server id.ServerName, room id.RoomID, from []id.EventID, limit int) ([]json.RawMessage, error) {
	query := url.Values{"limit": {strconv.Itoa(limit)}}
	for _, eventID := range from {
		query.Add("v", string(eventID))
	}
	request := get(server, "backfill/"+url.PathEscape(string(room)), query, maxEventsAnswer)
	return c.pdus(ctx, request)
}

// Event asks for one event.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1eventeventid
func (c *Client) Event(ctx context.Context, server id.ServerName, _ id.RoomID, eventID id.EventID) (json.RawMessage, error) {
	request := get(server, "event/"+url.PathEscape(string(eventID)), nil, maxEventAnswer)
	events, err := c.pdus(ctx, request)
	if err != nil {
		return nil, err
	}
	if len(events) != 1 {
		return nil, badAnswer(request, fmt.Errorf("it has %d events, not one", len(events)))
	}
	return events[0], nil
}

// pdus asks for a transaction.
func (c *Client) pdus(ctx context.Context, request wire.Request) ([]json.RawMessage, error) {
	var answer struct {
		PDUs *[]json.RawMessage `json:"pdus"`
	}
	request.Loose = true
	if err := c.fetch(ctx, request, &answer); err != nil {
		return nil, err
	}
	return required(request, "pdus", answer.PDUs)
}

// EventAuth asks for the auth chain of an event.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1event_authroomideventid
func (c *Client) EventAuth(ctx context.Context, server id.ServerName, room id.RoomID, eventID id.EventID) ([]json.RawMessage, error) {
	var answer struct {
		AuthChain *[]json.RawMessage `json:"auth_chain"`
	}
	path := "event_auth/" + url.PathEscape(string(room)) + "/" + url.PathEscape(string(eventID))
	request := get(server, path, nil, maxStateAnswer)
	request.Loose = true
	if err := c.fetch(ctx, request, &answer); err != nil {
		return nil, err
	}
	return required(request, "auth_chain", answer.AuthChain)
}

// StateIDs asks for the state before an event, and its auth chain, as ids.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1state_idsroomid
func (c *Client) StateIDs(ctx context.Context, server id.ServerName, room id.RoomID, eventID id.EventID) (state, auth []id.EventID, err error) {
	var answer struct {
		PDUIDs       *[]id.EventID `json:"pdu_ids"`
		AuthChainIDs *[]id.EventID `json:"auth_chain_ids"`
	}
	request := get(server, "state_ids/"+url.PathEscape(string(room)), url.Values{"event_id": {string(eventID)}}, maxIDsAnswer)
	if err := c.fetch(ctx, request, &answer); err != nil {
		return nil, nil, err
	}
	if state, err = requiredIDs(request, "pdu_ids", answer.PDUIDs); err != nil {
		return nil, nil, err
	}
	auth, err = requiredIDs(request, "auth_chain_ids", answer.AuthChainIDs)
	return state, auth, err
}

// State is StateIDs with the events themselves.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1stateroomid
func (c *Client) State(ctx context.Context, server id.ServerName, room id.RoomID, eventID id.EventID) (state, auth []json.RawMessage, err error) {
	var answer struct {
		PDUs      *[]json.RawMessage `json:"pdus"`
		AuthChain *[]json.RawMessage `json:"auth_chain"`
	}
	request := get(server, "state/"+url.PathEscape(string(room)), url.Values{"event_id": {string(eventID)}}, maxStateAnswer)
	request.Loose = true
	if err := c.fetch(ctx, request, &answer); err != nil {
		return nil, nil, err
	}
	if state, err = required(request, "pdus", answer.PDUs); err != nil {
		return nil, nil, err
	}
	auth, err = required(request, "auth_chain", answer.AuthChain)
	return state, auth, err
}

// EventNear asks for the event that is closest to a moment, and its origin_server_ts in milliseconds.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
func (c *Client) EventNear(ctx context.Context, server id.ServerName, room id.RoomID, m rooms.Moment) (id.EventID, int64, error) {
	query := url.Values{"ts": {strconv.FormatInt(m.TS, 10)}, "dir": {"f"}}
	if m.Backwards {
		query.Set("dir", "b")
	}
	var answer struct {
		EventID        string `json:"event_id"`
		OriginServerTS *int64 `json:"origin_server_ts"`
	}
	request := get(server, "timestamp_to_event/"+url.PathEscape(string(room)), query, maxEventAnswer)
	if err := c.fetch(ctx, request, &answer); err != nil {
		return "", 0, err
	}
	eventID, err := id.ParseEventID(answer.EventID)
	if err == nil && answer.OriginServerTS == nil {
		err = errors.New("origin_server_ts is missing")
	}
	if err != nil {
		return "", 0, badAnswer(request, err)
	}
	return eventID, *answer.OriginServerTS, nil
}

func get(server id.ServerName, path string, query url.Values, maxAnswer int64) wire.Request {
	return wire.Request{Destination: server, Method: http.MethodGet, Path: v1 + path, Query: query, MaxAnswer: maxAnswer}
}

// fetch sends a request and decodes the answer.
func (c *Client) fetch(ctx context.Context, request wire.Request, into any) error {
	answer, err := c.Wire.Do(ctx, request)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer.Body, into); err != nil {
		return badAnswer(request, err)
	}
	return nil
}

func badAnswer(request wire.Request, err error) error {
	return fmt.Errorf("the answer of %s to %s: %w", request.Destination, request.Path, err)
}

// required is a list that an answer has to have.
func required[T any](request wire.Request, name string, values *[]T) ([]T, error) {
	if values == nil {
		return nil, badAnswer(request, fmt.Errorf("%s is missing", name))
	}
	return *values, nil
}

// requiredIDs is a list of valid ids that an answer has to have.
func requiredIDs(request wire.Request, name string, ids *[]id.EventID) ([]id.EventID, error) {
	all, err := required(request, name, ids)
	if err != nil {
		return nil, err
	}
	for _, eventID := range all {
		if _, err := id.ParseEventID(string(eventID)); err != nil {
			return nil, badAnswer(request, fmt.Errorf("%s: %w", name, err))
		}
	}
	return all, nil
}
