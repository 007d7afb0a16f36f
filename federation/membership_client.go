package federation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"time"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/rooms"
)

// What the answers about memberships may be, in bytes, and how long a server may take for one.
const (
	maxMemberAnswer = 1 << 20   // a template, an event, or what a room is recognised by
	maxJoinAnswer   = 512 << 20 // a whole room
	joinPatience    = 2 * time.Minute
)

// MakeMember asks a server that is in a room for the template of a member event. Nothing in it is checked but that it
// is an object, and that a version which is named is not empty: that would pass for one that is not named.
//
// A server that refuses gives an *mxerr.Error, as all methods for memberships do.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1make_joinroomiduserid
func (c *Client) MakeMember(ctx context.Context, server id.ServerName, wish rooms.Wish) (*rooms.Template, error) {
	r := wire.Request{
		Destination: server, Method: http.MethodGet, MaxAnswer: maxMemberAnswer,
		Path: escape("/_matrix/federation/v1/make_"+wish.Membership, string(wish.Room), string(wish.User)),
	}
	if wish.Membership != "leave" {
		r.Query = url.Values{"ver": wish.Versions}
	}
	var answer struct {
		Event   json.RawMessage `json:"event"`
		Version *string         `json:"room_version"`
	}
	if err := c.ask(ctx, r, &answer); err != nil {
		return nil, err
	}
	if !isObject(answer.Event) {
		return nil, malformed(server, "gives no template of an event")
	}
	return template(server, answer.Event, answer.Version)
}

// template is what a server gives, with the empty version when it names none, which is not to name an empty one.
func template(server id.ServerName, event json.RawMessage, version *string) (*rooms.Template, error) {
	switch {
	case version == nil:
		return &rooms.Template{Event: event}, nil
	case *version == "":
		return nil, malformed(server, "names an empty room version")
	}
	return &rooms.Template{Event: event, Version: *version}, nil
}

// SendJoin lets a server take in a join, and returns what it tells of the room: at most 512 MiB, of which nothing is
// checked but the form of the answer.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_joinroomideventid
func (c *Client) SendJoin(ctx context.Context, server id.ServerName, join *event.Event) (*rooms.JoinAnswer, error) {
	r := handing(server, "v2/send_join", join, join.JSON)
	r.MaxAnswer, r.Timeout = maxJoinAnswer, joinPatience
	stream, err := c.Wire.Stream(ctx, r)
	if isOld(err) {
		r.Path = pathOf("v1/send_join", join)
		stream, err = c.Wire.Stream(ctx, r)
	}
	if err != nil {
		return nil, refused(server, err)
	}
	defer stream.Body.Close()
	answer, err := readJoinAnswer(stream.Body)
	if err != nil {
		return nil, refused(server, err)
	}
	return answer, nil
}

// SendLeave lets a server take in a leave.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2send_leaveroomideventid
func (c *Client) SendLeave(ctx context.Context, server id.ServerName, leave *event.Event) error {
	r := handing(server, "v2/send_leave", leave, leave.JSON)
	_, err := c.Wire.Do(ctx, r)
	if isOld(err) {
		r.Path = pathOf("v1/send_leave", leave)
		_, err = c.Wire.Do(ctx, r)
	}
	return refused(server, err)
}

// SendKnock lets a server take in a knock, and returns what it tells of the room: nothing, if that is no list.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1send_knockroomideventid
func (c *Client) SendKnock(ctx context.Context, server id.ServerName, knock *event.Event) ([]json.RawMessage, error) {
	var answer struct {
		State json.RawMessage `json:"knock_room_state"`
	}
	if err := c.ask(ctx, handing(server, "v1/send_knock", knock, knock.JSON), &answer); err != nil {
		return nil, err
	}
	var state []json.RawMessage
	if json.Unmarshal(answer.State, &state) != nil { // the knock was taken in, whatever is said of the room
		return nil, nil
	}
	return state, nil
}

type invitation struct {
	RoomVersion     string            `json:"room_version"`
	Event           json.RawMessage   `json:"event"`
	InviteRoomState []json.RawMessage `json:"invite_room_state"`
}

// SendInvite brings an invite to the server of who is invited, with what is told of the room, and returns the event as
// that server has signed it.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv2inviteroomideventid
func (c *Client) SendInvite(ctx context.Context, server id.ServerName, invite *event.Event, state []json.RawMessage) (json.RawMessage, error) {
	if state == nil {
		state = []json.RawMessage{}
	}
	body, err := json.Marshal(invitation{invite.Rules.Version, invite.JSON, state})
	if err != nil {
		return nil, fmt.Errorf("encode invite: %w", err)
	}
	var answer struct{ Event json.RawMessage }
	err = c.ask(ctx, handing(server, "v2/invite", invite, body), &answer)
	if inOldRoom(invite) && (errors.Is(err, mxerr.Unrecognized) || hasStatus(err, http.StatusBadRequest, http.StatusNotFound)) {
		return c.sendInviteV1(ctx, server, invite, state)
	}
	if err == nil && !isObject(answer.Event) {
		err = malformed(server, "returns no signed invite")
	}
	return answer.Event, err
}

// sendInviteV1 is SendInvite for servers that know rooms of versions 1 and 2 only.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1inviteroomideventid
func (c *Client) sendInviteV1(ctx context.Context, server id.ServerName, invite *event.Event, state []json.RawMessage) (json.RawMessage, error) {
	unsigned, err := json.Marshal(map[string]any{"invite_room_state": state})
	if err != nil {
		return nil, fmt.Errorf("encode invite: %w", err)
	}
	body := append(bytes.TrimSuffix(bytes.Clone(invite.JSON), []byte("}")), `,"unsigned":`...)
	var pair []json.RawMessage
	if err := c.ask(ctx, handing(server, "v1/invite", invite, append(append(body, unsigned...), '}')), &pair); err != nil {
		return nil, err
	}
	var answer struct{ Event json.RawMessage }
	if len(pair) != 2 || json.Unmarshal(pair[1], &answer) != nil || !isObject(answer.Event) {
		return nil, malformed(server, "returns no signed invite")
	}
	return answer.Event, nil
}

// inOldRoom reports whether an event is of a room for which the first form of invites was made.
func inOldRoom(ev *event.Event) bool { return ev.Rules.EventIDs == roomversion.EventIDInEvent }

// ExchangeInvite asks a server that is in a room to make an invite of a third-party invite: event is the partial
// m.room.member.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#put_matrixfederationv1exchange_third_party_inviteroomid
func (c *Client) ExchangeInvite(ctx context.Context, server id.ServerName, room id.RoomID, partial json.RawMessage) error {
	_, err := c.Wire.Do(ctx, wire.Request{
		Destination: server, Method: http.MethodPut, Body: partial, MaxAnswer: maxMemberAnswer,
		Path: escape("/_matrix/federation/v1/exchange_third_party_invite", string(room)),
	})
	return refused(server, err)
}

// handing is the request by which an event is handed over.
func handing(server id.ServerName, endpoint string, ev *event.Event, body []byte) wire.Request {
	return wire.Request{
		Destination: server, Method: http.MethodPut, Path: pathOf(endpoint, ev), Body: body, MaxAnswer: maxMemberAnswer,
	}
}

func pathOf(endpoint string, ev *event.Event) string {
	return escape("/_matrix/federation/"+endpoint, string(ev.Room), string(ev.ID))
}

// escape appends segments to a path.
func escape(path string, segments ...string) string {
	for _, s := range segments {
		path += "/" + url.PathEscape(s)
	}
	return path
}

// ask sends a request and decodes the answer into out.
func (c *Client) ask(ctx context.Context, r wire.Request, out any) error {
	answer, err := c.Wire.Do(ctx, r)
	if err != nil {
		return refused(r.Destination, err)
	}
	if err := json.Unmarshal(answer.Body, out); err != nil {
		return malformed(r.Destination, "gives an answer of another form")
	}
	return nil
}

// isOld reports whether a server says that it does not know an endpoint.
func isOld(err error) bool {
	var said *wire.Error
	return errors.As(err, &said) && (errors.Is(said, mxerr.Unrecognized) || said.Status == http.StatusNotFound && said.Code == "")
}

func hasStatus(err error, statuses ...int) bool {
	var said *wire.Error
	return errors.As(err, &said) && slices.Contains(statuses, said.Status)
}

func isObject(raw json.RawMessage) bool {
	raw = bytes.TrimLeft(raw, " \t\r\n")
	return len(raw) > 0 && raw[0] == '{'
}

// malformed is what a client is told when another server says what it may not.
func malformed(server id.ServerName, what string) error {
	return mxerr.Unknown.WithStatus(http.StatusBadGateway).With("%s %s", server, what)
}
