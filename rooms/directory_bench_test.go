package rooms_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
)

// listRooms puts rooms into the directory of which storage knows nothing but what the directory tells.
func listRooms(b *testing.B, s *rooms.Service, n int) {
	b.Helper()
	act := &storage.Act{}
	for i := range n {
		num := s.DB.NextRoom()
		told, err := json.Marshal(rooms.Summary{
			RoomID: id.RoomID(fmt.Sprintf("!listed%d:hs.test", i)), Name: fmt.Sprint("Room number ", i), Topic: "A topic of some length, as rooms have",
			CanonicalAlias: id.RoomAlias(fmt.Sprintf("#room%d:hs.test", i)), NumJoinedMembers: int64(i % 500), JoinRule: "public", RoomVersion: "12",
		})
		require.NoError(b, err)
		act.Add(storage.InsertRoom, num, fmt.Sprintf("!listed%d:hs.test", i), "12", int64(1), int64(0), int64(0), []byte("[]"))
		act.Add(storage.UpsertListing, num, int64(0), true, told)
		act.Also(func(tx *storage.Tx, _ storage.Pos) error { return tx.Publish(num) })
	}
	s.DB.Queue(act)
	require.NoError(b, act.Wait(context.Background()))
}

// A page of the directory: whatever its size, however deep, with a search that finds little, and after a change.
func BenchmarkPublicRooms(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		s := onDisk(b)
		listRooms(b, s, n)
		room, err := s.Create(context.Background(), "@a:hs.test", rooms.NewRoom{Preset: "public_chat", Visibility: "public"})
		require.NoError(b, err)
		page := func(q rooms.DirectoryQuery) *rooms.DirectoryPage {
			p, err := s.PublicRooms(context.Background(), q)
			require.NoError(b, err)
			return p
		}
		deep := page(rooms.DirectoryQuery{Limit: n / 2}).NextBatch
		run := func(name string, q rooms.DirectoryQuery) {
			b.Run(fmt.Sprintf("%s/rooms=%d", name, n), func(b *testing.B) {
				b.ReportAllocs()
				for b.Loop() {
					page(q)
				}
			})
		}
		run("first", rooms.DirectoryQuery{Limit: 20})
		run("deep", rooms.DirectoryQuery{Limit: 20, Since: deep})
		run("search", rooms.DirectoryQuery{Limit: 20, Filter: &rooms.DirectoryFilter{GenericSearchTerm: "number 77"}})
		run("search-nothing", rooms.DirectoryQuery{Limit: 20, Filter: &rooms.DirectoryFilter{GenericSearchTerm: "nothing"}})
		b.Run(fmt.Sprintf("changed/rooms=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				b.StopTimer()
				key := ""
				_, err := s.Send(context.Background(), rooms.Draft{
					Room: room, Sender: "@a:hs.test", Type: "m.room.name", StateKey: &key, Content: fmt.Appendf(nil, `{"name":"%d"}`, i),
				})
				require.NoError(b, err)
				b.StartTimer()
				page(rooms.DirectoryQuery{Limit: 20})
			}
		})
		b.Run(fmt.Sprintf("load/rooms=%d", n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, err := rooms.New(s.Config).PublicRooms(context.Background(), rooms.DirectoryQuery{Limit: 20})
				require.NoError(b, err)
			}
		})
	}
}

// signedIn lets one user call the endpoints of rooms.
type signedIn struct{ user id.UserID }

func (s signedIn) Session(context.Context, string, httpapi.Seen) (*httpapi.Session, error) {
	return &httpapi.Session{User: s.user}, nil
}

// getter asks the endpoints of rooms as a user.
func getter(b *testing.B, s *rooms.Service, user id.UserID) func(path string) []byte {
	router := httpapi.NewRouter(httpapi.Config{Sessions: signedIn{user}, Limits: httpapi.Limits{Off: true}}, s.Routes())
	return func(path string) []byte {
		r := httptest.NewRequest("GET", path, nil)
		r.Header.Set("Authorization", "Bearer x")
		w := httptest.NewRecorder()
		router.ServeHTTP(w, r)
		require.Equal(b, http.StatusOK, w.Code, "%s: %s", path, w.Body)
		return w.Body.Bytes()
	}
}

// bigSpace is a space with children, and in the last of them one more.
func bigSpace(b *testing.B, s *rooms.Service, children int) id.RoomID {
	b.Helper()
	ctx := context.Background()
	list := make([]rooms.InitialState, children)
	var wg sync.WaitGroup
	turns := make(chan struct{}, 16)
	for i := range children {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			room, err := s.Create(ctx, "@a:hs.test", rooms.NewRoom{Preset: "public_chat", Name: fmt.Sprint("Child ", i)})
			if err != nil {
				b.Error(err)
			}
			list[i] = rooms.InitialState{Type: "m.space.child", StateKey: string(room), Content: []byte(`{"via":["hs.test"]}`)}
		})
	}
	wg.Wait()
	space, err := s.Create(ctx, "@a:hs.test", rooms.NewRoom{Preset: "public_chat", Creation: map[string]any{"type": "m.space"}, InitialState: list})
	require.NoError(b, err)
	return space
}

// A page of a space costs what its rooms cost; the first one also reads the names of the children.
func BenchmarkHierarchy(b *testing.B) {
	for _, children := range []int{50, 1000} {
		s := onDisk(b)
		space := bigSpace(b, s, children)
		get := getter(b, s, "@eve:hs.test")
		path := "/_matrix/client/v1/rooms/" + string(space) + "/hierarchy?limit=20"
		b.Run(fmt.Sprint("first/children=", children), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				get(path)
			}
		})
		b.Run(fmt.Sprint("second/children=", children), func(b *testing.B) {
			var page struct {
				Next string `json:"next_batch"`
			}
			require.NoError(b, json.Unmarshal(get(path), &page))
			b.ReportAllocs()
			for b.Loop() {
				get(path + "&from=" + page.Next)
			}
		})
		b.Run(fmt.Sprint("summary/children=", children), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				get("/_matrix/client/v1/room_summary/" + string(space))
			}
		})
	}
}
