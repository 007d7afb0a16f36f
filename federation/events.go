package federation

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"strconv"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
)

// getEvent implements GET /_matrix/federation/v1/event/{eventId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1eventeventid
func (s *Service) getEvent(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*transaction, error) {
	pdu, err := s.cfg.Rooms.EventFor(ctx, c.Origin, c.EventID("eventId"))
	if err != nil {
		return nil, err
	}
	list := append(make([]byte, 0, len(pdu)+2), '[')
	return s.transaction(append(append(list, pdu...), ']')), nil
}

// getRoomState implements GET /_matrix/federation/v1/state/{roomId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1stateroomid
func (s *Service) getRoomState(w http.ResponseWriter, c *httpapi.Call) error {
	ctx := c.Request.Context()
	state, err := s.stateAt(ctx, c)
	if err != nil {
		return err
	}
	return stream(w, func(b *bufio.Writer) error {
		if _, err := b.WriteString(`{"auth_chain":`); err != nil {
			return err
		}
		if err := state.WriteChain(ctx, b); err != nil {
			return err
		}
		if _, err := b.WriteString(`,"pdus":`); err != nil {
			return err
		}
		if err := state.WriteState(ctx, b); err != nil {
			return err
		}
		return b.WriteByte('}')
	})
}

// getRoomStateIDs implements GET /_matrix/federation/v1/state_ids/{roomId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1state_idsroomid
func (s *Service) getRoomStateIDs(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*stateIDs, error) {
	state, err := s.stateAt(ctx, c)
	if err != nil {
		return nil, err
	}
	answer := &stateIDs{}
	answer.state, answer.chain, err = state.IDs(ctx)
	return answer, err
}

// stateIDs is a state and its auth chain, as ids.
type stateIDs struct{ state, chain []id.EventID }

// AppendJSON writes the lists, of which one may have tens of thousands.
func (s *stateIDs) AppendJSON(dst []byte) []byte {
	dst = appendTexts(append(dst, `{"auth_chain_ids":`...), s.chain)
	return append(appendTexts(append(dst, `,"pdu_ids":`...), s.state), '}')
}

// appendTexts appends a list of strings.
func appendTexts[T ~string](dst []byte, texts []T) []byte {
	dst = append(dst, '[')
	for i, text := range texts {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = canonjson.AppendString(dst, string(text))
	}
	return append(dst, ']')
}

// stateAt is the state before the event that the query names.
func (s *Service) stateAt(ctx context.Context, c *httpapi.Call) (*rooms.ToldState, error) {
	if c.Query("event_id") == "" {
		return nil, mxerr.MissingParam.With("event_id is missing")
	}
	eventID, err := id.ParseEventID(c.Query("event_id"))
	if err != nil {
		return nil, mxerr.InvalidParam.With("event_id is no event id")
	}
	return s.cfg.Rooms.StateFor(ctx, c.Origin, c.RoomID("roomId"), eventID)
}

type nearestEvent struct {
	EventID        id.EventID `json:"event_id"`
	OriginServerTS int64      `json:"origin_server_ts"`
}

// getEventByTimestamp implements GET /_matrix/federation/v1/timestamp_to_event/{roomId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1timestamp_to_eventroomid
func (s *Service) getEventByTimestamp(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*nearestEvent, error) {
	at, err := rooms.ReadMoment(c)
	if err != nil {
		return nil, err
	}
	eventID, ts, err := s.cfg.Rooms.EventNearFor(ctx, c.Origin, c.RoomID("roomId"), at)
	if err != nil {
		return nil, err
	}
	return &nearestEvent{eventID, ts}, nil
}

// streamBuffer is how many bytes of an answer are gathered before they are sent.
const streamBuffer = 64 << 10

// stream writes an answer piece by piece. If it breaks off, so does the connection.
func stream(w http.ResponseWriter, write func(b *bufio.Writer) error) error {
	w.Header().Set("Content-Type", "application/json")
	b := bufio.NewWriterSize(w, streamBuffer)
	if err := write(b); err != nil {
		return fmt.Errorf("write an answer: %w", err)
	}
	return b.Flush()
}

// field is a key of a JSON object with its value, which is JSON.
type field struct {
	name  string
	value []byte
}

// appendFields appends an object; names need no escapes.
func appendFields(dst []byte, fields ...field) []byte {
	for i, f := range fields {
		separator := byte(',')
		if i == 0 {
			separator = '{'
		}
		dst = append(append(dst, separator, '"'), f.name...)
		dst = append(append(dst, `":`...), f.value...)
	}
	return append(dst, '}')
}

func quote(text string) []byte { return canonjson.AppendString(nil, text) }

func number(n int64) []byte { return strconv.AppendInt(nil, n, 10) }
