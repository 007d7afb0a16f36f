package rooms

import (
	"context"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// mayRedactWhileSuspended lets suspended users redact what they have sent themselves, and nothing else.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#account-suspension
func (s *Service) mayRedactWhileSuspended(ctx context.Context, c *httpapi.Call) error {
	if notSuspended(c) == nil {
		return nil
	}
	rd, err := s.reader(ctx, c)
	if err != nil {
		return err
	}
	e, err := rd.event(ctx, c.EventID("eventId"))
	if err == nil && e.Sender != c.User {
		err = mxerr.UserSuspended
	}
	return err
}
