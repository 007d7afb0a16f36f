package federation

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
)

// makeJoin implements GET /_matrix/federation/v1/make_join/{roomId}/{userId}.
//
// https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1make_joinroomiduserid
func (s *Service) makeJoin(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*rooms.Template, error) {
	wish := wishOf(c, "join")
	wish.Versions = c.QueryAll("ver")
	if wish.Versions == nil {
		wish.Versions = []string{"1"} // "Defaults to [1]."
	}
	return s.cfg.Rooms.Template(ctx, wish)
}

// sendJoinV2 implements PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}.
//
// Members are never omitted. Who lets us omit them gets an auth chain without what is in the state.
//
// https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_joinroomideventid
func (s *Service) sendJoinV2(ctx context.Context, c *httpapi.Call, in *json.RawMessage) (*joined, error) {
	omit, err := c.Bool("omit_members", false)
	if err != nil {
		return nil, err
	}
	return s.join(ctx, c, *in, joined{brief: omit})
}

// sendJoinV1 implements PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}.
//
// The specification had it until v1.17.
//
// https://spec.matrix.org/v1.17/server-server-api/#put_matrixfederationv1send_joinroomideventid
func (s *Service) sendJoinV1(ctx context.Context, c *httpapi.Call, in *json.RawMessage) (*joined, error) {
	return s.join(ctx, c, *in, joined{inList: true})
}

func (s *Service) join(ctx context.Context, c *httpapi.Call, raw json.RawMessage, answer joined) (*joined, error) {
	entered, err := s.sendMember(ctx, c, "join", raw)
	if err != nil {
		return nil, err
	}
	answer.Entered, answer.origin = entered, s.cfg.ServerName
	answer.servers = before(entered, c.Origin)
	return &answer, nil
}

// before returns the servers that were in a room before somebody of a server came in: "A list of the servers active in
// the room (ie, those with joined members) before the join."
func before(entered *rooms.Entered, origin id.ServerName) []id.ServerName {
	for _, ev := range entered.State {
		if ev.Membership() == "join" && id.UserID(*ev.StateKey).Server() == origin {
			return entered.Servers
		}
	}
	return slices.DeleteFunc(slices.Clone(entered.Servers), func(server id.ServerName) bool { return server == origin })
}

// sendMember lets rooms take in what somebody has made of a template.
func (s *Service) sendMember(ctx context.Context, c *httpapi.Call, membership string, raw json.RawMessage) (*rooms.Entered, error) {
	signatures := gjson.GetBytes(raw, "signatures").Map()[string(c.Origin)]
	if len(signatures.Map()) == 0 || !gjson.GetBytes(raw, "hashes.sha256").Exists() {
		return nil, mxerr.Forbidden.With("%s has not hashed and signed the event", c.Origin)
	}
	return s.cfg.Rooms.SendMember(ctx, wishOf(c, membership), c.EventID("eventId"), raw)
}

// wishOf is what the path of a request about a membership says.
func wishOf(c *httpapi.Call, membership string) rooms.Wish {
	return rooms.Wish{Origin: c.Origin, Room: c.RoomID("roomId"), User: c.UserID("userId"), Membership: membership}
}

// joined is a room as the server of who has joined is told of it.
type joined struct {
	*rooms.Entered
	origin  id.ServerName
	servers []id.ServerName // that were in the room before
	brief   bool            // the auth chain leaves out what is in the state
	inList  bool            // in a list behind the status, as version 1 answers
}

// AppendJSON copies the events as they are stored: of a large room there are many.
func (j *joined) AppendJSON(dst []byte) []byte {
	auth := j.Auth
	if j.brief {
		auth = without(auth, j.State)
	}
	dst = grow(dst, auth, j.State)
	if j.inList {
		dst = append(dst, "[200,"...)
	}
	dst = appendEvents(append(dst, `{"auth_chain":`...), auth)
	dst = append(append(dst, `,"event":`...), j.Event.JSON...)
	dst = append(append(dst, `,"members_omitted":false,"origin":`...), quote(string(j.origin))...)
	dst = appendTexts(append(dst, `,"servers_in_room":`...), j.servers)
	dst = append(appendEvents(append(dst, `,"state":`...), j.State), '}')
	if j.inList {
		dst = append(dst, ']')
	}
	return dst
}

// without returns the events of a list that are not in another.
func without(list, others []*event.Event) []*event.Event {
	known := make(map[id.EventID]bool, len(others))
	for _, ev := range others {
		known[ev.ID] = true
	}
	var kept []*event.Event
	for _, ev := range list {
		if !known[ev.ID] {
			kept = append(kept, ev)
		}
	}
	return kept
}

// grow makes room for events.
func grow(dst []byte, lists ...[]*event.Event) []byte {
	size := 1 << 10
	for _, list := range lists {
		for _, ev := range list {
			size += len(ev.JSON) + 1
		}
	}
	if cap(dst)-len(dst) >= size {
		return dst
	}
	return append(make([]byte, 0, len(dst)+size), dst...)
}

func appendEvents(dst []byte, events []*event.Event) []byte {
	dst = append(dst, '[')
	for i, ev := range events {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, ev.JSON...)
	}
	return append(dst, ']')
}
