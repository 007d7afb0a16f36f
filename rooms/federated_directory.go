package rooms

import (
	"context"
	"encoding/json"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// AliasFor returns the room that an alias of this server stands for and the servers that are in it, or mxerr.NotFound.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1querydirectory
func (s *Service) AliasFor(ctx context.Context, alias id.RoomAlias) (id.RoomID, []id.ServerName, error) {
	room, err := s.resolve(ctx, alias)
	if err != nil {
		return "", nil, err
	}
	r, err := s.room(ctx, room)
	if err != nil {
		return "", nil, err
	}
	servers := append([]id.ServerName{}, r.Servers()...)
	slices.Sort(servers)
	return room, servers, nil
}

// ProfileFor returns the profile of a user of this server as an object, or, if field is not empty, that field alone.
// It is mxerr.NotFound for everybody else, deactivated users too.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#get_matrixfederationv1queryprofile
func (s *Service) ProfileFor(ctx context.Context, user id.UserID, field string) (json.RawMessage, error) {
	if err := s.checkKnown(ctx, user); err != nil {
		return nil, err
	}
	fields, err := s.profile(ctx, user)
	if err != nil {
		return nil, err
	}
	if field != "" {
		fields = slices.DeleteFunc(fields, func(f storage.ProfileField) bool { return f.Name != field })
	}
	return appendFields(nil, sorted(fields)), nil
}

// What a page of the directory may cost.
const (
	maxDirectoryPage = 500
	maxDirectoryWalk = 2000 // rooms that are looked at, when a filter passes few of them
	directoryStride  = 100  // rooms that are read at once
)

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

// DirectoryFor returns for another server a page of the rooms that this server publishes and is in, in the order in
// which it came to know them: at most 500, and fewer than asked for when a filter passes few. Rooms that do not
// federate are left out.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#published-room-directory
func (s *Service) DirectoryFor(ctx context.Context, q DirectoryQuery) (*DirectoryPage, error) {
	if q.Limit < 0 {
		return nil, mxerr.InvalidParam.With("limit is negative")
	}
	walk, err := startWalk(q)
	if err != nil {
		return nil, err
	}
	page := &DirectoryPage{Chunk: []*Summary{}}
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		page.Total, err = tx.CountPublished()
		return err
	})
	if err != nil || q.ThirdPartyInstanceID != "" && !q.IncludeAllNetworks { // there are no rooms of other networks
		return page, err
	}
	return page, s.stroll(ctx, walk, page)
}

// directoryWalk goes through the directory by the numbers of its rooms.
type directoryWalk struct {
	DirectoryQuery
	at        int64 // the number of the last room that was looked at
	backwards bool
	looked    int
	over      bool // there is no room beyond
}

// startWalk reads the token of a page: n and the number of the room after which, or p and that before which it lies.
func startWalk(q DirectoryQuery) (*directoryWalk, error) {
	w := &directoryWalk{DirectoryQuery: q, at: math.MinInt64}
	if w.Limit == 0 || w.Limit > maxDirectoryPage {
		w.Limit = maxDirectoryPage
	}
	if q.Filter == nil {
		w.Filter = &DirectoryFilter{}
	}
	if q.Since == "" {
		return w, nil
	}
	at, err := strconv.ParseInt(q.Since[1:], 10, 64)
	if err != nil || q.Since[0] != 'n' && q.Since[0] != 'p' {
		return nil, mxerr.InvalidParam.With("since is no token of this directory")
	}
	w.at, w.backwards = at, q.Since[0] == 'p'
	return w, nil
}

// stroll fills a page.
func (s *Service) stroll(ctx context.Context, w *directoryWalk, page *DirectoryPage) error {
	start := w.at
	for len(page.Chunk) < w.Limit && !w.over && w.looked < maxDirectoryWalk {
		list, err := s.stride(ctx, w)
		if err != nil {
			return err
		}
		if page.Chunk, err = s.list(ctx, w, list, page.Chunk); err != nil {
			return err
		}
	}
	ahead, behind := "n"+strconv.FormatInt(w.at, 10), ""
	if w.Since != "" {
		behind = "p" + strconv.FormatInt(start+1, 10) // the room with that number was on the page before
	}
	if w.backwards {
		slices.Reverse(page.Chunk)
		ahead, behind = "n"+strconv.FormatInt(start-1, 10), "p"+strconv.FormatInt(w.at, 10)
	}
	page.NextBatch, page.PrevBatch = ahead, behind
	switch {
	case w.over && w.backwards:
		page.PrevBatch = ""
	case w.over:
		page.NextBatch = ""
	}
	return nil
}

// stride reads the next rooms.
func (s *Service) stride(ctx context.Context, w *directoryWalk) (list []storage.PublishedRoom, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		if w.backwards {
			list, err = tx.PublishedBefore(w.at, directoryStride)
		} else {
			list, err = tx.PublishedAfter(w.at, directoryStride)
		}
		return err
	})
	w.over = len(list) < directoryStride
	return list, err
}

// list adds those of some rooms that another server may be told of to a chunk, until that is full.
func (s *Service) list(ctx context.Context, w *directoryWalk, rooms []storage.PublishedRoom, chunk []*Summary) ([]*Summary, error) {
	for i, room := range rooms {
		w.at = room.Room
		w.looked++
		r, err := s.roomHere(ctx, room.RoomID)
		if err != nil {
			return nil, err
		}
		if r == nil {
			continue
		}
		o, err := s.outline(ctx, r)
		if err != nil {
			return nil, err
		}
		if o.federated && w.Filter.passes(&o.Summary) {
			chunk = append(chunk, &o.Summary)
		}
		if len(chunk) == w.Limit {
			w.over = w.over && i == len(rooms)-1
			break
		}
	}
	return chunk, nil
}

func (f *DirectoryFilter) passes(s *Summary) bool {
	ofType := func(t *string) bool { return t == nil && s.RoomType == "" || t != nil && *t == s.RoomType }
	if f.RoomTypes != nil && !slices.ContainsFunc(f.RoomTypes, ofType) {
		return false
	}
	term := strings.ToLower(f.GenericSearchTerm)
	return slices.ContainsFunc([]string{s.Name, s.Topic, string(s.CanonicalAlias)}, func(text string) bool {
		return strings.Contains(strings.ToLower(text), term)
	})
}
