package media_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/color/palette"
	"image/gif"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/media"
	"github.com/embedmatrix/homeserver/storage/sqlite"
	"github.com/embedmatrix/homeserver/storage/storagetest"
)

// hooked is a store that lets a test do something in between.
type hooked struct {
	*counting
	put    func()                            // behind a Put
	get    func(io.ReadCloser) io.ReadCloser // what a Get gives instead
	before func()                            // before a Get
	delete func() error                      // instead of a Delete that fails
}

func (h *hooked) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	err := h.counting.Put(ctx, key, r, size)
	if h.put != nil {
		h.put()
	}
	return err
}

func (h *hooked) Get(ctx context.Context, key string, offset, length int64) (io.ReadCloser, int64, error) {
	if h.before != nil {
		h.before()
	}
	body, size, err := h.counting.Get(ctx, key, offset, length)
	if err == nil && h.get != nil {
		body = h.get(body)
	}
	return body, size, err
}

func (h *hooked) Delete(ctx context.Context, key string) error {
	if h.delete != nil {
		if err := h.delete(); err != nil {
			return err
		}
	}
	return h.counting.Delete(ctx, key)
}

func withHooks(t testing.TB, opts ...func(*homeserver.Config)) (*homeservertest.Server, *hooked) {
	store := &hooked{counting: &counting{Store: media.Memory(), keys: map[string]bool{}}}
	return homeservertest.New(t, append(opts, func(c *homeserver.Config) { c.Media = store })...), store
}

// TestClientsThatGoAway: nothing stays of an upload whose client goes away, wherever that is.
func TestClientsThatGoAway(t *testing.T) {
	hs, store := withHooks(t)
	alice := hs.User("alice")
	ctx, leave := context.WithCancel(t.Context())
	store.put = leave // all bytes are there, and the file is not known yet
	r := httptest.NewRequestWithContext(ctx, "POST", oldMedia+"upload", strings.NewReader("0123456789"))
	r.Header.Set("Authorization", "Bearer "+alice.Token)
	w := httptest.NewRecorder()
	hs.ServeHTTP(w, r)
	require.NotEqual(t, 200, w.Code)
	require.Zero(t, store.count())

	store.put = nil
	broken := io.MultiReader(strings.NewReader("0123"), errReader{errors.New("connection reset")})
	wantError(t, ask(hs, alice, "POST", oldMedia+"upload", "", broken), 400, "M_UNKNOWN")
	require.Zero(t, store.count())
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

// TestLostCommits: while nobody knows whether a file is kept, its bytes are; the next start knows.
func TestLostCommits(t *testing.T) {
	for name, at := range map[string]storagetest.Op{"stored": storagetest.Committed, "not stored": storagetest.Commit} {
		t.Run(name, func(t *testing.T) {
			engine := storagetest.NewFaulty(sqlite.Memory(), nil)
			hs, store := withHooks(t, func(c *homeserver.Config) { c.Storage = engine })
			alice := hs.User("alice")
			away := false
			store.put = func() {
				engine.Fail(func(c storagetest.Call) error {
					if away = away || c.Op == at; away {
						return storagetest.ErrFault
					}
					return nil
				})
			}
			require.GreaterOrEqual(t, ask(hs, alice, "POST", oldMedia+"upload", "", strings.NewReader("0123456789")).Code, 500)
			engine.Fail(nil)
			require.Equal(t, 1, store.count())
			hs.Restart()
			store.put = nil
			upload(t, hs, alice, "", "", []byte("other bytes")) // the sweeper is at work beside it
			if at == storagetest.Commit {
				require.Eventually(t, func() bool { return store.count() == 1 }, 5*time.Second, time.Millisecond)
			}
			upload(t, hs, alice, "", "", []byte("0123456789"))
			require.Equal(t, 2, store.count(), "the bytes of a file that was kept are still there")
		})
	}
}

// TestDeletedWhileAskedFor: a file that is deleted between the moment it is found and the one it is opened is not there.
func TestDeletedWhileAskedFor(t *testing.T) {
	hs, store := withHooks(t)
	alice := hs.User("alice")
	for _, path := range []string{"download/%s", "thumbnail/%s?width=32&height=32"} {
		file := upload(t, hs, alice, "", "image/png", photo(t, 100, 100, "image/png"))
		var once sync.Once
		store.before = func() {
			once.Do(func() { require.NoError(t, hs.Homeserver().Admin().DeleteMedia(t.Context(), "mxc://"+file)) })
		}
		w := ask(hs, alice, "GET", newMedia+fmt.Sprintf(path, file), "", nil)
		wantError(t, w, 404, "M_NOT_FOUND")
		require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
		require.Empty(t, w.Header().Get("Etag"))
		store.before = nil
		require.Zero(t, store.count())
	}
}

// TestStoresThatBreakOff: half a file is never taken for a whole one, and no picture is called damaged for it.
func TestStoresThatBreakOff(t *testing.T) {
	var said journal
	hs, store := withHooks(t, func(c *homeserver.Config) { c.Logger = slog.New(slog.NewTextHandler(&said, nil)) })
	alice := hs.User("alice")
	data := photo(t, 300, 300, "image/png")
	file := upload(t, hs, alice, "", "image/png", data)
	server := hs.Listen()
	get := func(contentRange string) (*http.Response, error) {
		r, err := http.NewRequestWithContext(t.Context(), "GET", server.URL+"/"+newMedia[1:]+"download/"+file, nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+alice.Token)
		if contentRange != "" {
			r.Header.Set("Range", contentRange)
		}
		return server.Client().Do(r)
	}
	for name, ending := range map[string]error{"an error": syscall.EIO, "an early end": io.EOF} {
		store.get = func(body io.ReadCloser) io.ReadCloser {
			return struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(body, 20), errReader{ending}), body}
		}
		for _, part := range []string{"", "bytes=10-90"} {
			resp, err := get(part)
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			require.Error(t, err, "%s %s", name, part)
			require.Eventually(t, func() bool { return strings.Contains(said.take(), "answer broken off") }, 5*time.Second, time.Millisecond)
		}
	}
	store.get = func(body io.ReadCloser) io.ReadCloser {
		return struct {
			io.Reader
			io.Closer
		}{errReader{syscall.EIO}, body}
	}
	wantError(t, ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32", "", nil), 500, "M_UNKNOWN")
	store.get = nil
	require.Equal(t, 200, ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32", "", nil).Code)
}

// journal is what was logged.
type journal struct {
	mu   sync.Mutex // guards the following
	text strings.Builder
}

func (l *journal) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

// take returns what was logged since it was asked before.
func (l *journal) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}

// TestOpenedOnce: a file is opened once to be given out, and again only to be read elsewhere.
func TestOpenedOnce(t *testing.T) {
	hs, store := withHooks(t)
	alice := hs.User("alice")
	file := upload(t, hs, alice, "", "image/png", photo(t, 100, 100, "image/png"))
	thumbnail := newMedia + "thumbnail/" + file + "?width=32&height=32"
	require.Equal(t, 200, ask(hs, alice, "GET", thumbnail, "", nil).Code)
	var opened atomic.Int32
	store.before = func() { opened.Add(1) }
	for _, path := range []string{newMedia + "download/" + file, thumbnail} {
		opened.Store(0)
		require.Equal(t, 200, ask(hs, alice, "GET", path, "", nil).Code)
		require.EqualValues(t, 1, opened.Load(), path)
		w := ask(hs, alice, "HEAD", path, "", nil)
		require.Equal(t, 200, w.Code)
		require.Empty(t, w.Body.Bytes())
		require.NotEmpty(t, w.Header().Get("Content-Length"))
	}
}

// TestDeletedLater: what the store could not delete is deleted by the sweeper.
func TestDeletedLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var back atomic.Bool
		var deleted atomic.Int32
		store := &hooked{counting: &counting{Store: media.Memory(), keys: map[string]bool{}}, delete: func() error {
			if !back.Load() {
				return errors.New("the bucket is away")
			}
			deleted.Add(1)
			return nil
		}}
		hs := homeservertest.New(t, func(c *homeserver.Config) { c.Media = store })
		alice := hs.User("alice")
		file := upload(t, hs, alice, "", "", []byte("0123456789"))
		require.NoError(t, hs.Homeserver().Admin().DeleteMedia(t.Context(), "mxc://"+file))
		broken := io.MultiReader(strings.NewReader("0123"), errReader{errors.New("connection reset")})
		wantError(t, ask(hs, alice, "POST", oldMedia+"upload", "", broken), 400, "M_UNKNOWN")
		require.Equal(t, 1, store.count())
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.Equal(t, 1, store.count())
		back.Store(true)
		time.Sleep(2 * time.Hour)
		synctest.Wait()
		require.Zero(t, store.count())
		require.EqualValues(t, 2, deleted.Load(), "and each once")
	})
}

// full is a store on a volume of so many bytes.
type full struct {
	media.Store
	mu   sync.Mutex // guards the following
	free int64
	held map[string]int64
}

func (f *full) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	f.mu.Lock()
	free := f.free
	f.mu.Unlock()
	data, err := io.ReadAll(io.LimitReader(r, free+1))
	switch {
	case err != nil:
		return err
	case int64(len(data)) > free:
		return syscall.ENOSPC
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free -= int64(len(data))
	f.held[key] = int64(len(data))
	return f.Store.Put(ctx, key, bytes.NewReader(data), size)
}

func (f *full) Delete(ctx context.Context, key string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.free += f.held[key]
	delete(f.held, key)
	return f.Store.Delete(ctx, key)
}

// TestFullVolume is M-22: everything else goes on, and files are kept again once there is room.
func TestFullVolume(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	far := network.New("far.test")
	store := &full{Store: media.Memory(), held: map[string]int64{}, free: 1000}
	near := network.New("near.test", func(c *homeserver.Config) { c.Media = store })
	alice, bob := near.User("alice"), far.User("bob")
	first := upload(t, near, alice, "", "", bytes.Repeat([]byte("a"), 600))
	wantError(t, ask(near, alice, "POST", oldMedia+"upload", "", bytes.NewReader(make([]byte, 600))), 500, "M_UNKNOWN")
	pending := strings.TrimPrefix(alice.Do("POST", "/_matrix/media/v1/create", map[string]any{}).WantOK().Get("content_uri").String(), "mxc://")
	wantError(t, ask(near, alice, "PUT", oldMedia+"upload/"+pending, "", bytes.NewReader(make([]byte, 600))), 500, "M_UNKNOWN")
	other := upload(t, far, bob, "", "", make([]byte, 700))
	wantError(t, ask(near, alice, "GET", newMedia+"download/"+other, "", nil), 500, "M_UNKNOWN")

	room := alice.CreateRoom(homeservertest.Private)
	alice.Send(room, "hi")
	alice.Expect(room, homeservertest.Text("hi"))
	require.Equal(t, 600, ask(near, alice, "GET", newMedia+"download/"+first, "", nil).Body.Len())

	require.NoError(t, near.Homeserver().Admin().DeleteMedia(t.Context(), "mxc://"+first))
	require.EqualValues(t, 1000, store.free)
	require.Equal(t, 200, ask(near, alice, "GET", newMedia+"download/"+other, "", nil).Code)
	require.Equal(t, 200, ask(near, alice, "PUT", oldMedia+"upload/"+pending, "", bytes.NewReader(make([]byte, 300))).Code)
}

// TestManyThumbnails is M-07: who asks for a hundred thumbnails at once gets them, two at a time, and keeps nobody else
// waiting.
func TestManyThumbnails(t *testing.T) {
	hs, store := withHooks(t)
	alice := hs.User("alice")
	var files []string
	for i := range 100 {
		files = append(files, upload(t, hs, alice, "", "image/png", photo(t, 200+i, 200, "image/png")))
	}
	var drawing, most atomic.Int32
	store.get = func(body io.ReadCloser) io.ReadCloser {
		data, err := io.ReadAll(body)
		require.NoError(t, err)
		if config, _, _ := image.DecodeConfig(bytes.NewReader(data)); config.Width < 200 {
			return io.NopCloser(bytes.NewReader(data)) // a thumbnail that is given out
		}
		for now := drawing.Add(1); ; {
			if before := most.Load(); now <= before || most.CompareAndSwap(before, now) {
				break
			}
		}
		return struct {
			io.Reader
			io.Closer
		}{bytes.NewReader(data), closer(func() { drawing.Add(-1) })}
	}
	var asked sync.WaitGroup
	for _, file := range files {
		asked.Go(func() {
			w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=96&height=96&method=crop", "", nil)
			require.Equal(t, 200, w.Code, "%s", w.Body)
		})
	}
	for range 10 {
		began := time.Now()
		alice.Do("GET", "/_matrix/client/v3/account/whoami", nil).WantOK()
		require.Less(t, time.Since(began), 2*time.Second)
	}
	asked.Wait()
	require.LessOrEqual(t, most.Load(), int32(2))
}

type closer func()

func (c closer) Close() error { c(); return nil }

// TestThumbnailsThatDoNotMove: what does not move, or cannot be made to, has one thumbnail of a size.
func TestThumbnailsThatDoNotMove(t *testing.T) {
	hs, store := withStore(t, func(c *homeserver.Config) { c.MediaLimits.Pixels = 200 * 200 * 3 })
	alice := hs.User("alice")
	file := upload(t, hs, alice, "", "image/png", photo(t, 100, 100, "image/png"))
	for _, animated := range []string{"true", "false"} {
		w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32&animated="+animated, "", nil)
		require.Equal(t, "image/png", w.Header().Get("Content-Type"))
	}
	require.Equal(t, 2, store.count())

	long := &gif.GIF{}
	for range 4 { // more pixels than may be drawn
		long.Image = append(long.Image, image.NewPaletted(image.Rect(0, 0, 200, 200), color.Palette{color.Black}))
		long.Delay = append(long.Delay, 10)
	}
	var data bytes.Buffer
	require.NoError(t, gif.EncodeAll(&data, long))
	file = upload(t, hs, alice, "", "image/gif", data.Bytes())
	w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32&animated=true", "", nil)
	require.Equal(t, 200, w.Code, "%s", w.Body)
	require.Equal(t, "image/png", w.Header().Get("Content-Type"))
}

// TestServersThatBreakOff: what another server does not send to its end is not there, and nothing of it stays.
func TestServersThatBreakOff(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	store := &counting{Store: media.Memory(), keys: map[string]bool{}}
	near := network.New("near.test", func(c *homeserver.Config) {
		c.Media, c.MediaLimits = store, homeserver.MediaLimits{RemoteCache: 500}
	})
	alice, rogue := near.User("alice"), network.Rogue("rogue.test")
	give := func(whole bool, size int) {
		rogue.Handle(func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, "/media/download/") {
				return false
			}
			parts := multipart.NewWriter(w)
			w.Header().Set("Content-Type", "multipart/mixed; boundary="+parts.Boundary())
			for _, text := range []string{"{}", strings.Repeat("x", size)} {
				part, err := parts.CreatePart(textproto.MIMEHeader{"Content-Type": {"application/octet-stream"}})
				require.NoError(t, err)
				_, err = io.WriteString(part, text)
				require.NoError(t, err)
			}
			if whole {
				require.NoError(t, parts.Close())
			}
			return true
		})
	}
	give(false, 100)
	wantError(t, ask(near, alice, "GET", newMedia+"download/rogue.test/a", "", nil), 404, "M_NOT_FOUND")
	give(true, 501)
	wantError(t, ask(near, alice, "GET", newMedia+"download/rogue.test/a", "", nil), 502, "M_TOO_LARGE")
	require.Zero(t, store.count())
	give(true, 500)
	require.Equal(t, 500, ask(near, alice, "GET", newMedia+"download/rogue.test/a", "", nil).Body.Len())
}

// animation is a GIF of colours that change with every frame.
func animation(t testing.TB, width, height, frames int) []byte {
	t.Helper()
	moving := &gif.GIF{}
	for i := range frames {
		frame := image.NewPaletted(image.Rect(0, 0, width, height), palette.Plan9)
		for at := range frame.Pix {
			frame.Pix[at] = byte(at%width*256/width + at/width + i)
		}
		moving.Image, moving.Delay = append(moving.Image, frame), append(moving.Delay, 10)
	}
	var data bytes.Buffer
	require.NoError(t, gif.EncodeAll(&data, moving))
	return data.Bytes()
}

// TestColoursOfAnimations: what is red or transparent is so in the thumbnail.
func TestColoursOfAnimations(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	red := color.RGBA{R: 255, A: 255}
	moving := &gif.GIF{}
	for range 2 {
		frame := image.NewPaletted(image.Rect(0, 0, 100, 100), color.Palette{color.Transparent, color.White, red})
		for at := range len(frame.Pix) / 2 {
			frame.Pix[at] = 2
		}
		moving.Image, moving.Delay = append(moving.Image, frame), append(moving.Delay, 10)
	}
	var data bytes.Buffer
	require.NoError(t, gif.EncodeAll(&data, moving))
	file := upload(t, hs, alice, "", "image/gif", data.Bytes())
	w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32&animated=true", "", nil)
	small, err := gif.DecodeAll(w.Body)
	require.NoError(t, err)
	for _, frame := range small.Image {
		require.Equal(t, red, color.RGBAModel.Convert(frame.At(16, 5)))
		require.Equal(t, color.RGBA{}, color.RGBAModel.Convert(frame.At(16, 28)))
	}
}
