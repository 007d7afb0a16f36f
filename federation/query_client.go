package federation

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
)

// What the answers to queries may be, in bytes.
const (
	maxQueryAnswer   = 256 << 10 // of a profile, which has 64 KiB, or of an alias
	maxListingAnswer = 4 << 20   // of a directory or a space
	maxAliasServers  = 100       // more are not of use to anybody who wants to join
)

// ResolveAlias asks the server of an alias for its room and for servers that are in it, at most 100. The error is
// mxerr.NotFound when there is no such alias; any other says with status 502 that the server could not be asked.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1querydirectory
func (c *Client) ResolveAlias(ctx context.Context, alias id.RoomAlias) (id.RoomID, []id.ServerName, error) {
	var answer struct {
		RoomID  string            `json:"room_id"`
		Servers []json.RawMessage `json:"servers"`
	}
	err := c.ask(ctx, wire.Request{
		Destination: alias.Server(), Method: http.MethodGet, MaxAnswer: maxQueryAnswer,
		Path: "/_matrix/federation/v1/query/directory", Query: url.Values{"room_alias": {string(alias)}},
	}, &answer)
	if err != nil {
		return "", nil, err
	}
	room, err := id.ParseRoomID(answer.RoomID)
	if err != nil {
		return "", nil, malformed(alias.Server(), "names no room")
	}
	return room, namesAmong(answer.Servers), nil
}

// namesAmong returns what is a server name in a list, each once.
func namesAmong(list []json.RawMessage) []id.ServerName {
	names := []id.ServerName{}
	for _, raw := range list {
		var text string
		if json.Unmarshal(raw, &text) != nil {
			continue
		}
		name, err := id.ParseServerName(text)
		if err == nil && len(names) < maxAliasServers && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Profile asks the server of a user for a field of the profile, or for all of it when field is empty, and returns an
// object whose values are not checked. Fields that are null are as good as missing. The error is mxerr.NotFound when
// there is no such user or field, mxerr.Forbidden when the server does not tell.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1queryprofile
func (c *Client) Profile(ctx context.Context, user id.UserID, field string) (json.RawMessage, error) {
	query := url.Values{"user_id": {string(user)}}
	if field != "" {
		query.Set("field", field)
	}
	var answer json.RawMessage
	err := c.ask(ctx, wire.Request{
		Destination: user.Server(), Method: http.MethodGet, MaxAnswer: maxQueryAnswer,
		Path: "/_matrix/federation/v1/query/profile", Query: query,
	}, &answer)
	if err == nil && !isObject(answer) {
		err = malformed(user.Server(), "gives no profile")
	}
	if err != nil {
		return nil, err
	}
	return answer, nil
}

// PublicRooms asks a server for a page of its directory. Rooms without a valid id are left out; the rest of an entry is
// what that server says.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1publicrooms
func (c *Client) PublicRooms(ctx context.Context, server id.ServerName, q rooms.DirectoryQuery) (*rooms.DirectoryPage, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	page := &rooms.DirectoryPage{}
	err = c.ask(ctx, wire.Request{
		Destination: server, Method: http.MethodPost, MaxAnswer: maxListingAnswer,
		Path: "/_matrix/federation/v1/publicRooms", Body: body,
	}, page)
	if hasStatus(err, http.StatusBadRequest) { // the query is the client's own
		return nil, mxerr.InvalidParam.With("%s does not take the query", server)
	}
	if err != nil {
		return nil, err
	}
	page.Chunk = withIDs(page.Chunk)
	return page, nil
}

func withIDs(list []*rooms.Summary) []*rooms.Summary {
	kept := make([]*rooms.Summary, 0, len(list))
	for _, s := range list {
		if s == nil {
			continue
		}
		if _, err := id.ParseRoomID(string(s.RoomID)); err == nil {
			kept = append(kept, s)
		}
	}
	return kept
}

// Hierarchy asks a server for a space and its children, an old one by the unstable name of the endpoint. The room is the
// one that was asked for; entries without a valid id are left out.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1hierarchyroomid
func (c *Client) Hierarchy(ctx context.Context, server id.ServerName, room id.RoomID, suggestedOnly bool) (*rooms.Hierarchy, error) {
	h := &rooms.Hierarchy{}
	request := wire.Request{
		Destination: server, Method: http.MethodGet, MaxAnswer: maxListingAnswer,
		Path:  escape("/_matrix/federation/v1/hierarchy", string(room)),
		Query: url.Values{"suggested_only": {strconv.FormatBool(suggestedOnly)}},
	}
	err := c.ask(ctx, request, h)
	if isOld(err) {
		request.Path = escape("/_matrix/federation/unstable/org.matrix.msc2946/hierarchy", string(room))
		err = c.ask(ctx, request, h)
	}
	switch {
	case isOld(err):
		return nil, mxerr.NotFound.With("%s knows no spaces", server)
	case err != nil:
		return nil, err
	case h.Room == nil || h.Room.RoomID != room:
		return nil, malformed(server, "tells of another room")
	}
	h.Children = withIDs(h.Children)
	return h, nil
}
