package rooms

import (
	"context"
	"errors"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// maxReason is how many bytes the reason of a report may have.
const maxReason = 4096

// maxReportBody bounds a report, in which there is nothing else.
const maxReportBody = 64 << 10

type reportBody struct {
	Reason *string `json:"reason"` // "May be blank"
}

// text returns the reason, which some reports need to have, be it empty.
func (b *reportBody) text(needed bool) (string, error) {
	switch {
	case b.Reason == nil && needed:
		return "", mxerr.MissingParam.With("reason is missing")
	case b.Reason == nil:
		return "", nil
	case len(*b.Reason) > maxReason:
		return "", mxerr.InvalidParam.With("reason may have %d bytes", maxReason)
	}
	return *b.Reason, nil
}

// reportEvent implements POST /_matrix/client/v3/rooms/{roomId}/report/{eventId}.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidreporteventid
func (s *Service) reportEvent(ctx context.Context, c *httpapi.Call, in *reportBody) (*httpapi.Empty, error) {
	reason, err := in.text(false)
	if err != nil {
		return nil, err
	}
	// "servers MUST verify that the reporting user is currently joined to the room": otherwise it is 404, too.
	if _, err := s.roomOf(ctx, c.RoomID("roomId"), c.User); err != nil {
		if errors.Is(err, mxerr.Forbidden) {
			err = unknownEvent()
		}
		return nil, err
	}
	rd, err := s.reader(ctx, c)
	if err != nil {
		return nil, err
	}
	e, err := rd.event(ctx, c.EventID("eventId"))
	if err != nil {
		return nil, err
	}
	return nil, s.report(ctx, storage.Report{Reporter: c.User, Room: e.Room, Event: e.ID, User: e.Sender, Reason: reason})
}

// reportRoom implements POST /_matrix/client/v3/rooms/{roomId}/report.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3roomsroomidreport
func (s *Service) reportRoom(ctx context.Context, c *httpapi.Call, in *reportBody) (*httpapi.Empty, error) {
	reason, err := in.text(true)
	if err != nil {
		return nil, err
	}
	room := c.RoomID("roomId")
	if _, err := s.room(ctx, room); err != nil {
		return nil, err
	}
	return nil, s.report(ctx, storage.Report{Reporter: c.User, Room: room, Reason: reason})
}

// reportUser implements POST /_matrix/client/v3/users/{userId}/report.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3usersuseridreport
func (s *Service) reportUser(ctx context.Context, c *httpapi.Call, in *reportBody) (*httpapi.Empty, error) {
	reason, err := in.text(true)
	if err != nil {
		return nil, err
	}
	user := c.UserID("userId")
	if s.local(user) { // who exists elsewhere is not known here
		_, known, err := s.account(ctx, user)
		if err == nil && !known {
			err = mxerr.NotFound.With("there is no such user here")
		}
		if err != nil {
			return nil, err
		}
	}
	return nil, s.report(ctx, storage.Report{Reporter: c.User, User: user, Reason: reason})
}

// report keeps a report for the administrators, and tells the host of it, but not once more when somebody reports the
// same thing again.
func (s *Service) report(ctx context.Context, r storage.Report) error {
	r.AtMS = s.Now().UnixMilli()
	var again bool
	err := s.DB.Write(ctx, func(tx *storage.Tx, pos storage.Pos) (err error) {
		r.ID = pos
		again, err = tx.PutReport(r)
		return err
	})
	if err == nil && !again && s.OnReport != nil {
		s.OnReport(context.WithoutCancel(ctx), r)
	}
	return err
}

// Reports returns at most limit reports whose ids are larger than after, oldest first; 100 if limit is not positive.
func (s *Service) Reports(ctx context.Context, after int64, limit int) (list []storage.Report, err error) {
	if limit <= 0 {
		limit = 100
	}
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		list, err = tx.ReportsAfter(after, limit)
		return err
	})
	return list, err
}

// DeleteReport removes a report that was dealt with; mxerr.NotFound when there is none.
func (s *Service) DeleteReport(ctx context.Context, report int64) error {
	return s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		there, err := tx.DeleteReport(report)
		if err == nil && !there {
			err = mxerr.NotFound.With("there is no such report")
		}
		return err
	})
}
