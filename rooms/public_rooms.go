package rooms

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// RemoteDirectory is how the rooms of other servers are found. What it returns is what they say.
type RemoteDirectory interface {
	// PublicRooms asks a server for a page of its directory.
	PublicRooms(ctx context.Context, server id.ServerName, q DirectoryQuery) (*DirectoryPage, error)
	// Hierarchy asks a server for a space and its children, or for a room that is none.
	Hierarchy(ctx context.Context, server id.ServerName, room id.RoomID, suggestedOnly bool) (*Hierarchy, error)
}

// DirectoryQuery asks for a page of a server's directory.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#post_matrixfederationv1publicrooms
type DirectoryQuery struct {
	Limit  int              `json:"limit,omitempty"` // zero: as many as the server gives at once
	Since  string           `json:"since,omitempty"`
	Filter *DirectoryFilter `json:"filter,omitempty"`

	// Networks of application services: with an instance only its rooms are asked for.
	IncludeAllNetworks   bool   `json:"include_all_networks,omitempty"`
	ThirdPartyInstanceID string `json:"third_party_instance_id,omitempty"`
}

// DirectoryFilter says which rooms are looked for. Its zero value passes all.
type DirectoryFilter struct {
	GenericSearchTerm string    `json:"generic_search_term,omitempty"` // in name, topic or alias, in any case
	RoomTypes         []*string `json:"room_types,omitempty"`          // nil: of any type; one that is nil: of none
}

// DirectoryPage is some of the rooms that a server publishes.
type DirectoryPage struct {
	Chunk     []*Summary `json:"chunk"`
	NextBatch string     `json:"next_batch,omitempty"`
	PrevBatch string     `json:"prev_batch,omitempty"`
	Total     int64      `json:"total_room_count_estimate"`
}

// getPublicRooms implements GET /_matrix/client/v3/publicRooms.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3publicrooms
func (s *Service) getPublicRooms(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*DirectoryPage, error) {
	limit, err := c.Int("limit", 0)
	if err != nil {
		return nil, err
	}
	return s.publicRooms(ctx, c, DirectoryQuery{Limit: limit, Since: c.Query("since")})
}

// queryPublicRooms implements POST /_matrix/client/v3/publicRooms.
//
// https://spec.matrix.org/latest/client-server-api/#post_matrixclientv3publicrooms
func (s *Service) queryPublicRooms(ctx context.Context, c *httpapi.Call, in *DirectoryQuery) (*DirectoryPage, error) {
	// "third_party_instance_id … Can only be used if include_all_networks is false."
	if in.IncludeAllNetworks && in.ThirdPartyInstanceID != "" {
		return nil, mxerr.InvalidParam.With("third_party_instance_id cannot be used with include_all_networks")
	}
	return s.publicRooms(ctx, c, *in)
}

// publicRooms answers from this server's directory, or asks another server. Who is not logged in has nobody asked.
func (s *Service) publicRooms(ctx context.Context, c *httpapi.Call, q DirectoryQuery) (*DirectoryPage, error) {
	server := id.ServerName(cmp.Or(c.Query("server"), string(s.ServerName)))
	elsewhere := server != s.ServerName
	if c.User == "" && (elsewhere || s.PrivateDirectory) {
		return nil, mxerr.MissingToken
	}
	if !elsewhere {
		return s.PublicRooms(ctx, q)
	}
	if _, err := id.ParseServerName(string(server)); err != nil {
		return nil, mxerr.InvalidParam.With("server is no server name")
	}
	return s.publicRoomsOf(ctx, server, q)
}

// publicRoomsOf asks another server for a page of its directory.
func (s *Service) publicRoomsOf(ctx context.Context, server id.ServerName, q DirectoryQuery) (*DirectoryPage, error) {
	switch {
	case q.Limit < 0:
		return nil, mxerr.InvalidParam.With("limit is negative")
	case s.Remote == nil:
		return nil, mxerr.NotFound.With("this server does not ask others")
	}
	page, err := s.Remote.PublicRooms(ctx, server, q)
	if err != nil {
		return nil, err
	}
	for _, told := range page.Chunk {
		told.tidy()
	}
	return page, nil
}

// maxDirectoryPage is how many rooms a page of the directory has at most, and without a limit.
const maxDirectoryPage = 500

// PublicRooms returns a page of the rooms that this server publishes and is in, at most 500: those with the most joined
// members first, and of those with as many the one that it has known for longest. Published says nothing about who may
// join a room or read it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#published-room-directory
func (s *Service) PublicRooms(ctx context.Context, q DirectoryQuery) (*DirectoryPage, error) {
	return s.directoryPage(ctx, q, &wanted{})
}

// DirectoryFor is PublicRooms for another server: rooms that do not federate are left out.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#published-room-directory
func (s *Service) DirectoryFor(ctx context.Context, q DirectoryQuery) (*DirectoryPage, error) {
	return s.directoryPage(ctx, q, &wanted{federated: true})
}

func (s *Service) directoryPage(ctx context.Context, q DirectoryQuery, w *wanted) (*DirectoryPage, error) {
	if q.Limit < 0 {
		return nil, mxerr.InvalidParam.With("limit is negative")
	}
	if q.Limit == 0 || q.Limit > maxDirectoryPage {
		q.Limit = maxDirectoryPage
	}
	if q.Filter != nil {
		w.filter(q.Filter)
	}
	from, err := parseSince(q.Since)
	if err != nil {
		return nil, err
	}
	if q.ThirdPartyInstanceID != "" && !q.IncludeAllNetworks { // there are no rooms of other networks
		return &DirectoryPage{Chunk: []*Summary{}}, nil
	}
	if err := s.refresh(ctx); err != nil {
		return nil, err
	}
	return s.tellListed(ctx, from.page(s.listing, q.Limit, w))
}

// tellListed reads what is told of the rooms of a page.
func (s *Service) tellListed(ctx context.Context, p stand) (*DirectoryPage, error) {
	told := map[int64][]byte{}
	err := s.DB.Read(ctx, func(tx *storage.Tx) error {
		rows, err := tx.ListingsOf(p.nums)
		for _, row := range rows {
			told[row.Room] = row.Summary
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := &DirectoryPage{Chunk: make([]*Summary, 0, len(p.nums)), Total: int64(p.total)}
	for _, num := range p.nums {
		if len(told[num]) == 0 { // it was taken out of the directory a moment ago
			continue
		}
		room := &Summary{}
		if err := json.Unmarshal(told[num], room); err != nil {
			return nil, fmt.Errorf("what is noted of room %d: %w", num, err)
		}
		out.Chunk = append(out.Chunk, room)
	}
	out.NextBatch, out.PrevBatch = since{at: p.behind}.String(), since{at: p.before, back: true}.String()
	return out, nil
}

// since is a token of the directory: n and the place behind which the next rooms stand, or p and that up to which the
// previous ones do. Without a place it is the beginning.
type since struct {
	at   *rank
	back bool
}

func (t since) String() string {
	switch {
	case t.at == nil:
		return ""
	case t.back:
		return fmt.Sprintf("p%d_%d", t.at.members, t.at.num)
	}
	return fmt.Sprintf("n%d_%d", t.at.members, t.at.num)
}

func parseSince(text string) (since, error) {
	if text == "" {
		return since{}, nil
	}
	members, num, _ := strings.Cut(text[1:], "_")
	most, badMembers := strconv.ParseInt(members, 10, 64)
	room, badNum := strconv.ParseInt(num, 10, 64)
	if badMembers != nil || badNum != nil || text[0] != 'n' && text[0] != 'p' {
		return since{}, mxerr.InvalidParam.With("since is no token of this directory")
	}
	return since{&rank{most, room}, text[0] == 'p'}, nil
}

// page takes the rooms of a page.
func (t since) page(l *listing, limit int, w *wanted) stand {
	if t.back {
		return l.upTo(*t.at, limit, w)
	}
	return l.after(t.at, limit, w)
}
