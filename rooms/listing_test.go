package rooms_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/notify"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// again is the rooms of a server after a restart.
func again(s *rooms.Service) *rooms.Service {
	cfg := s.Config
	cfg.Hub = notify.New(cfg.DB.Published())
	cfg.Cache = roomstate.NewCache(cfg.DB, cfg.Hub, roomstate.Config{})
	return rooms.New(cfg)
}

// names are the names of the rooms in the directory.
func names(t *testing.T, s *rooms.Service) (list []string) {
	t.Helper()
	page, err := s.PublicRooms(context.Background(), rooms.DirectoryQuery{})
	require.NoError(t, err)
	require.Equal(t, int64(len(page.Chunk)), page.Total)
	for _, room := range page.Chunk {
		list = append(list, room.Name)
	}
	return list
}

func rename(t *testing.T, s *rooms.Service, room id.RoomID, name string) {
	t.Helper()
	key := ""
	_, err := s.Send(context.Background(), rooms.Draft{
		Room: room, Sender: alice, Type: "m.room.name", StateKey: &key, Content: fmt.Appendf(nil, `{"name":%q}`, name),
	})
	require.NoError(t, err)
}

// A database may hold published rooms of which the directory knows nothing, or nothing new: it was made before there was a
// directory, or nobody has asked since the rooms have changed.
func TestDirectoryOfAnOldDatabase(t *testing.T) {
	ctx := context.Background()
	s := emptyFederated(t, sqlite.Memory()).Service
	const many = 1100 // more than are read at once
	made := make([]id.RoomID, 3)
	for i := range made {
		var err error
		made[i], err = s.Create(ctx, alice, rooms.NewRoom{Preset: "public_chat", Visibility: "public", Name: fmt.Sprint("n", i)})
		require.NoError(t, err)
	}
	require.Equal(t, []string{"n0", "n1", "n2"}, names(t, s))
	rename(t, s, made[1], "new")
	require.Equal(t, []string{"n0", "new", "n2"}, names(t, again(s)), "it has changed since")
	require.NoError(t, s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error {
		for num := range int64(10) {
			if err := tx.DeleteListing(num); err != nil {
				return err
			}
		}
		return nil
	}))
	require.Equal(t, []string{"n0", "new", "n2"}, names(t, again(s)), "nothing was noted")

	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range many / 8 {
				_, err := s.Create(ctx, alice, rooms.NewRoom{Preset: "public_chat", Visibility: "public", Name: "one of many"})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	page, err := s.PublicRooms(ctx, rooms.DirectoryQuery{})
	require.NoError(t, err)
	require.Len(t, page.Chunk, 500)
	page, err = again(s).PublicRooms(ctx, rooms.DirectoryQuery{})
	require.NoError(t, err)
	require.Equal(t, int64(3+many/8*8), page.Total)
}

// Whoever has changed a room finds it changed in the directory, whoever else reads that at the same time.
func TestDirectoryReadAtOnce(t *testing.T) {
	ctx := context.Background()
	s := emptyFederated(t, sqlite.Memory()).Service
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			room, err := s.Create(ctx, alice, rooms.NewRoom{Preset: "public_chat", Visibility: "public"})
			if err != nil {
				t.Error(err)
				return
			}
			for j := range 20 {
				name := fmt.Sprintf("room %d as of %d.", i, j)
				key := ""
				_, err := s.Send(ctx, rooms.Draft{
					Room: room, Sender: alice, Type: "m.room.name", StateKey: &key, Content: fmt.Appendf(nil, `{"name":%q}`, name),
				})
				if err != nil {
					t.Error(err)
				}
				page, err := s.PublicRooms(ctx, rooms.DirectoryQuery{Filter: &rooms.DirectoryFilter{GenericSearchTerm: name}})
				if err != nil || len(page.Chunk) != 1 || page.Chunk[0].Name != name {
					t.Errorf("find %q: %v, %v", name, page, err)
				}
			}
		})
	}
	wg.Wait()
}
