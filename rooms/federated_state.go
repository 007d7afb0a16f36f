package rooms

import (
	"context"
	"io"
	"slices"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// ToldState is a state of a room, and what authorised it, for another server. Its events are read while they are
// written, a few at a time, since there may be tens of thousands.
type ToldState struct {
	peer  *peer
	whole bool // the server may see the event at which the state is, and with it all of the state
	state []storage.Pos
	chain []storage.Pos
}

// StateFor returns the state before an event for another server, with its full auth chain. The error is mxerr.NotFound
// for an event that is not here, is of another room, was rejected, or of which the state before it is not known.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1stateroomid
func (s *Service) StateFor(ctx context.Context, server id.ServerName, room id.RoomID, eventID id.EventID) (*ToldState, error) {
	p, err := s.peer(ctx, server, room)
	if err != nil {
		return nil, err
	}
	e, whole, err := p.seen(ctx, eventID)
	if err != nil {
		return nil, err
	}
	t := &ToldState{peer: p, whole: whole}
	if t.state, err = p.Room.StatePositions(ctx, e.Before); err != nil {
		return nil, err
	}
	return t, t.follow(ctx, t.state)
}

// AuthFor returns the full auth chain of an event for another server, as a ToldState without a state.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1event_authroomideventid
func (s *Service) AuthFor(ctx context.Context, server id.ServerName, room id.RoomID, eventID id.EventID) (*ToldState, error) {
	p, err := s.peer(ctx, server, room)
	if err != nil {
		return nil, err
	}
	e, err := p.find(ctx, eventID)
	if err != nil {
		return nil, err
	}
	whole, err := p.See(ctx, e)
	if err != nil {
		return nil, err
	}
	if !whole && !p.In() {
		return nil, p.unknown()
	}
	t := &ToldState{peer: p, whole: whole}
	return t, t.followEvent(ctx, e)
}

// followEvent finds the auth chain of one event.
func (t *ToldState) followEvent(ctx context.Context, e *roomstate.Event) error {
	auth, err := t.peer.Room.StoredByID(ctx, e.AuthEvents)
	if err != nil {
		return err
	}
	direct := make([]storage.Pos, len(auth))
	for i, a := range auth {
		direct[i] = a.Pos
	}
	if err := t.follow(ctx, direct); err != nil {
		return err
	}
	for _, pos := range direct {
		if !slices.Contains(t.chain, pos) {
			t.chain = append(t.chain, pos)
		}
	}
	if e.Is("m.room.create", "") {
		return nil
	}
	return t.addCreate(ctx)
}

// follow finds the auth chain of the events at some positions.
func (t *ToldState) follow(ctx context.Context, of []storage.Pos) (err error) {
	if t.chain, err = t.peer.Room.AuthChain(ctx, of); err != nil || len(of) == 0 {
		return err
	}
	return t.addCreate(ctx)
}

// addCreate adds the create event, on which everything rests in room version 12 too, though there no event lists it.
func (t *ToldState) addCreate(ctx context.Context) error {
	pos, err := t.peer.Room.StatePos(ctx, t.peer.Room.View().State, "m.room.create", "")
	if err == nil && pos != 0 && !slices.Contains(t.chain, pos) {
		t.chain = append(t.chain, pos)
	}
	return err
}

// IDs returns the ids of the events of the state and of the auth chain.
func (t *ToldState) IDs(ctx context.Context) (state, chain []id.EventID, err error) {
	if state, err = t.peer.Room.EventIDs(ctx, t.state); err != nil {
		return nil, nil, err
	}
	chain, err = t.peer.Room.EventIDs(ctx, t.chain)
	return state, chain, err
}

// WriteState writes the events of the state as a JSON list of PDUs.
func (t *ToldState) WriteState(ctx context.Context, w io.Writer) error {
	return t.write(ctx, w, t.state)
}

// WriteChain writes the auth chain as a JSON list of PDUs.
func (t *ToldState) WriteChain(ctx context.Context, w io.Writer) error {
	return t.write(ctx, w, t.chain)
}

// writtenAtOnce is how many events are in memory for an answer.
const writtenAtOnce = 256

func (t *ToldState) write(ctx context.Context, w io.Writer, positions []storage.Pos) error {
	dst, separator := []byte{'['}, ""
	for some := range slices.Chunk(positions, writtenAtOnce) {
		events, err := t.peer.Room.EventsAt(ctx, some)
		if err != nil {
			return err
		}
		for _, e := range events {
			if dst, err = t.append(ctx, append(dst, separator...), e); err != nil {
				return err
			}
			separator = ","
		}
		if _, err := w.Write(dst); err != nil {
			return err
		}
		dst = dst[:0]
	}
	_, err := w.Write(append(dst, ']'))
	return err
}

func (t *ToldState) append(ctx context.Context, dst []byte, e *roomstate.Event) ([]byte, error) {
	whole := t.whole
	if !whole {
		var err error
		if whole, err = t.peer.See(ctx, e); err != nil {
			return dst, err
		}
	}
	return t.peer.Append(dst, e, whole)
}
