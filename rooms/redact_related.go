package rooms

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"slices"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/storage"
)

// How much is redacted with an event: of the ways in which others relate to it, and of those the newest.
const (
	maxRedactedKinds = 50
	maxRedacted      = 500
)

// redactRelated redacts what relates to a redacted event in one of some ways, where * is any, as far as the caller may. What
// they may not redact stays; so does, with a line in the log, what could not be stored.
//
// Proposal: https://github.com/matrix-org/matrix-spec-proposals/pull/3912
func (s *Service) redactRelated(ctx context.Context, c *httpapi.Call, content json.RawMessage, kinds []string) {
	if len(kinds) == 0 {
		return
	}
	related, err := s.relatedTo(ctx, c.RoomID("roomId"), c.EventID("eventId"), kinds)
	for i := 0; i < len(related) && err == nil; i++ {
		_, err = s.Send(ctx, Draft{
			Room: c.RoomID("roomId"), Sender: c.User, Device: c.Device, Type: "m.room.redaction", Content: content, Redacts: related[i], Admin: c.Admin,
		})
		if errors.Is(err, mxerr.Forbidden) {
			err = nil
		}
	}
	if err != nil {
		s.Log.WarnContext(ctx, "redact what relates to an event", slog.String("event", string(c.EventID("eventId"))), slog.Any("error", err))
	}
}

// relatedTo returns the newest events that relate to one in one of some ways.
func (s *Service) relatedTo(ctx context.Context, room id.RoomID, parent id.EventID, kinds []string) ([]id.EventID, error) {
	r, err := s.room(ctx, room)
	if err != nil {
		return nil, err
	}
	if err := r.FindRelations(ctx); err != nil {
		return nil, err
	}
	var positions []storage.Pos
	for _, kind := range relTypes(kinds) {
		q := &storage.RelationQuery{Room: r.Num, Parent: parent, Kind: kind, After: firstPlace, Before: lastPlace, Limit: maxRedacted - len(positions)}
		rows, err := r.Relations(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range rows {
			positions = append(positions, rows[i].Pos)
		}
	}
	events, err := r.EventsAt(ctx, positions)
	return eventIDs(events), err
}

// relTypes returns each of some ways once; "" is any, for which clients write *.
func relTypes(kinds []string) []string {
	if slices.Contains(kinds, "*") {
		return []string{""}
	}
	kinds = slices.DeleteFunc(kinds, func(kind string) bool { return kind == "" })
	slices.Sort(kinds)
	kinds = slices.Compact(kinds)
	return kinds[:min(len(kinds), maxRedactedKinds)]
}

func eventIDs(events []*roomstate.Event) []id.EventID {
	list := make([]id.EventID, len(events))
	for i, e := range events {
		list[i] = e.ID
	}
	return list
}
