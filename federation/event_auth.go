package federation

import (
	"bufio"
	"net/http"

	"github.com/embedmatrix/homeserver/internal/httpapi"
)

// getEventAuth implements GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1event_authroomideventid
func (s *Service) getEventAuth(w http.ResponseWriter, c *httpapi.Call) error {
	ctx := c.Request.Context()
	auth, err := s.cfg.Rooms.AuthFor(ctx, c.Origin, c.RoomID("roomId"), c.EventID("eventId"))
	if err != nil {
		return err
	}
	return stream(w, func(b *bufio.Writer) error {
		if _, err := b.WriteString(`{"auth_chain":`); err != nil {
			return err
		}
		if err := auth.WriteChain(ctx, b); err != nil {
			return err
		}
		return b.WriteByte('}')
	})
}
