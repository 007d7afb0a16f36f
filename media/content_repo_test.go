package media_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/media"
)

const (
	oldMedia = "/_matrix/media/v3/"
	newMedia = "/_matrix/client/v1/media/"
)

// ask sends a request with a body that is no JSON.
func ask(hs http.Handler, u *homeservertest.User, method, path, contentType string, body io.Reader) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, body)
	if u != nil {
		r.Header.Set("Authorization", "Bearer "+u.Token)
	}
	if contentType != "" {
		r.Header.Set("Content-Type", contentType)
	}
	w := httptest.NewRecorder()
	hs.ServeHTTP(w, r)
	return w
}

// upload uploads a file and returns what follows mxc://.
func upload(t testing.TB, hs http.Handler, u *homeservertest.User, name, contentType string, data []byte) string {
	t.Helper()
	w := ask(hs, u, "POST", oldMedia+"upload?filename="+name, contentType, bytes.NewReader(data))
	require.Equal(t, 200, w.Code, "%s", w.Body)
	uri := gjson.GetBytes(w.Body.Bytes(), "content_uri").String()
	require.True(t, strings.HasPrefix(uri, "mxc://"), uri)
	return strings.TrimPrefix(uri, "mxc://")
}

func wantError(t *testing.T, w *httptest.ResponseRecorder, status int, errcode string) {
	t.Helper()
	require.Equal(t, status, w.Code, "%s", w.Body)
	require.Equal(t, errcode, gjson.GetBytes(w.Body.Bytes(), "errcode").String(), "%s", w.Body)
}

// TestRoundtrip is MD-01, MD-03 and MD-08.
func TestRoundtrip(t *testing.T) {
	hs := homeservertest.New(t)
	alice, guest := hs.User("alice"), hs.Guest()
	file := upload(t, hs, alice, "a+name.txt", "text/plain", []byte("some text"))
	for _, u := range []*homeservertest.User{alice, guest} {
		w := ask(hs, u, "GET", newMedia+"download/"+file, "", nil)
		require.Equal(t, 200, w.Code)
		require.Equal(t, "some text", w.Body.String())
		require.Equal(t, "text/plain", w.Header().Get("Content-Type"))
		require.Equal(t, `inline; filename="a name.txt"`, w.Header().Get("Content-Disposition"))
		require.Equal(t, "cross-origin", w.Header().Get("Cross-Origin-Resource-Policy"))
		require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		require.Contains(t, w.Header().Get("Content-Security-Policy"), "sandbox; default-src 'none'")
		require.Contains(t, w.Header().Get("Cache-Control"), "private")
	}
	w := ask(hs, alice, "GET", newMedia+"download/"+file+"/other%C3%A9.txt", "", nil)
	require.Equal(t, `inline; filename*=utf-8''other%C3%A9.txt`, w.Header().Get("Content-Disposition"))
	wantError(t, ask(hs, nil, "GET", newMedia+"download/"+file, "", nil), 401, "M_MISSING_TOKEN")
	wantError(t, ask(hs, guest, "POST", oldMedia+"upload", "text/plain", strings.NewReader("x")), 403, "M_GUEST_ACCESS_FORBIDDEN")
	wantError(t, ask(hs, nil, "POST", oldMedia+"upload", "text/plain", strings.NewReader("x")), 401, "M_MISSING_TOKEN")

	unnamed := upload(t, hs, alice, "", "", nil)
	w = ask(hs, alice, "GET", newMedia+"download/"+unnamed, "", nil)
	require.Equal(t, 200, w.Code)
	require.Empty(t, w.Body.String())
	require.Equal(t, "application/octet-stream", w.Header().Get("Content-Type"))
	require.Equal(t, "attachment", w.Header().Get("Content-Disposition"))
	require.Equal(t, int64(100<<20), alice.Do("GET", newMedia+"config", nil).WantOK().Get("m\\.upload\\.size").Int())
}

// TestFrozenEndpoints is MD-02: what asks for no token knows of no file, unless the host wants it to.
func TestFrozenEndpoints(t *testing.T) {
	hs := homeservertest.New(t)
	file := upload(t, hs, hs.User("alice"), "x", "text/plain", []byte("x"))
	wantError(t, ask(hs, nil, "GET", oldMedia+"download/"+file, "", nil), 404, "M_NOT_FOUND")
	wantError(t, ask(hs, nil, "GET", oldMedia+"thumbnail/"+file+"?width=1&height=1", "", nil), 404, "M_NOT_FOUND")

	thawed := homeservertest.New(t, func(c *homeserver.Config) { c.MediaWithoutToken = true })
	file = upload(t, thawed, thawed.User("alice"), "x", "text/plain", []byte("x"))
	w := ask(thawed, nil, "GET", oldMedia+"download/"+file, "", nil)
	require.Equal(t, "x", w.Body.String())
	require.Contains(t, w.Header().Get("Cache-Control"), "public")
	require.Equal(t, 200, ask(thawed, nil, "GET", "/_matrix/media/r0/download/"+file+"/name", "", nil).Code)
}

// TestRanges is MD-15.
func TestRanges(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	file := upload(t, hs, alice, "x", "video/mp4", []byte("0123456789"))
	get := func(header, value string) *httptest.ResponseRecorder {
		r := httptest.NewRequest("GET", newMedia+"download/"+file, nil)
		r.Header.Set("Authorization", "Bearer "+alice.Token)
		r.Header.Set(header, value)
		w := httptest.NewRecorder()
		hs.ServeHTTP(w, r)
		return w
	}
	w := get("Range", "bytes=2-4")
	require.Equal(t, 206, w.Code)
	require.Equal(t, "234", w.Body.String())
	require.Equal(t, "bytes 2-4/10", w.Header().Get("Content-Range"))
	require.Equal(t, "89", get("Range", "bytes=-2").Body.String())
	require.Equal(t, 416, get("Range", "bytes=20-").Code)
	require.Equal(t, 304, get("If-None-Match", w.Header().Get("Etag")).Code)
}

// TestNothingRunsInBrowsers is MD-18 and M-02, M-03.
func TestNothingRunsInBrowsers(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	for _, kind := range []string{
		"text/html", "TEXT/HTML", "text/html;x", "text/html; charset=utf-8", "image/svg+xml", "application/xhtml+xml", "text/xml",
		"application/pdf", "text/javascript", "application/javascript", "", "nonsense", "image/svg+xml; x=\"image/png\"",
	} {
		file := upload(t, hs, alice, "x.html", kind, []byte("<script>alert(1)</script>"))
		for _, path := range []string{file, file + "/evil.html"} {
			w := ask(hs, alice, "GET", newMedia+"download/"+path, "", nil)
			require.Equal(t, 200, w.Code)
			require.True(t, strings.HasPrefix(w.Header().Get("Content-Disposition"), "attachment"), "%s: %s", kind, w.Header())
			require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
		}
	}
	for _, name := range []string{`a%22b`, `a%0D%0AX-Evil:1`, `a%3Bb=c`, "%E2%82%AC", strings.Repeat("n", 4096), `..%2F..%2Fetc`} {
		file := upload(t, hs, alice, name, "image/png", []byte("<html>"))
		w := ask(hs, alice, "GET", newMedia+"download/"+file, "", nil)
		require.Equal(t, "image/png", w.Header().Get("Content-Type"))
		require.Empty(t, w.Header().Get("X-Evil"))
		require.NotContains(t, w.Header().Get("Content-Disposition"), "\n")
		require.Less(t, len(w.Header().Get("Content-Disposition")), 4000)
	}
	w := ask(hs, alice, "POST", oldMedia+"upload", "text/plain\x01", strings.NewReader("x"))
	wantError(t, w, 400, "M_INVALID_PARAM")
}

// TestMediaIDs is MD-07 and M-01.
func TestMediaIDs(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	for _, path := range []string{
		"hs.test/..%2F..%2Fx", "hs.test/%2e%2e%2f", "hs.test/..%5c", "hs.test/" + strings.Repeat("a", 256), "hs.test/a%00", "hs.test/.",
		"hs.test/a.b", "..%2F/abc", "%2e%2e/abc", "a%20b/abc", "hs.test/unknown", "hs.test/%C3%A9",
	} {
		for _, endpoint := range []string{"download/" + path, "download/" + path + "/name", "thumbnail/" + path + "?width=1&height=1"} {
			w := ask(hs, alice, "GET", newMedia+endpoint, "", nil)
			require.Contains(t, []int{400, 404}, w.Code, "%s: %s", endpoint, w.Body)
		}
	}
}

// TestLimits is MD-03 and M-17.
func TestLimits(t *testing.T) {
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.MediaLimits = homeserver.MediaLimits{Upload: 10, PerUser: 25} })
	alice, bob := hs.User("alice"), hs.User("bob")
	wantError(t, ask(hs, alice, "POST", oldMedia+"upload", "", strings.NewReader("01234567890")), 413, "M_TOO_LARGE")
	unknownLength := io.MultiReader(strings.NewReader("0123456"), strings.NewReader("7890"))
	wantError(t, ask(hs, alice, "POST", oldMedia+"upload", "", unknownLength), 413, "M_TOO_LARGE")
	upload(t, hs, alice, "", "", []byte("0123456789"))
	upload(t, hs, alice, "", "", []byte("0123456789"))
	wantError(t, ask(hs, alice, "POST", oldMedia+"upload", "", strings.NewReader("012345")), 403, "M_FORBIDDEN")
	wantError(t, ask(hs, alice, "POST", oldMedia+"upload", "", io.MultiReader(strings.NewReader("012345"))), 403, "M_FORBIDDEN")
	upload(t, hs, alice, "", "", []byte("01234"))
	upload(t, hs, bob, "", "", []byte("0123456789"))

	r := httptest.NewRequest("POST", oldMedia+"upload", strings.NewReader("012"))
	r.ContentLength = 5 // it lies
	r.Header.Set("Authorization", "Bearer "+bob.Token)
	w := httptest.NewRecorder()
	hs.ServeHTTP(w, r)
	require.Equal(t, 400, w.Code, "%s", w.Body)
}

// TestUploadLater is MD-04 to MD-06.
func TestUploadLater(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hs := homeservertest.New(t, func(c *homeserver.Config) { c.MediaLimits.Pending = 2 })
		alice, bob := hs.User("alice"), hs.User("bob")
		create := func() (string, int64) {
			made := alice.Do("POST", "/_matrix/media/v1/create", map[string]any{}).WantOK()
			return strings.TrimPrefix(made.Get("content_uri").String(), "mxc://"), made.Get("unused_expires_at").Int()
		}
		file, expires := create()
		require.Equal(t, time.Now().Add(24*time.Hour).UnixMilli(), expires)
		late, _ := create()
		alice.Do("POST", "/_matrix/media/v1/create", map[string]any{}).WantError(429, "M_LIMIT_EXCEEDED")

		began := time.Now()
		wantError(t, ask(hs, bob, "GET", newMedia+"download/"+file, "", nil), 504, "M_NOT_YET_UPLOADED")
		require.Equal(t, 20*time.Second, time.Since(began).Round(time.Second))
		wantError(t, ask(hs, bob, "GET", newMedia+"download/"+file+"?timeout_ms=0", "", nil), 504, "M_NOT_YET_UPLOADED")
		wantError(t, ask(hs, bob, "GET", newMedia+"download/"+file+"?timeout_ms=x", "", nil), 400, "M_INVALID_PARAM")

		var waiting sync.WaitGroup
		for range 3 {
			waiting.Go(func() {
				w := ask(hs, bob, "GET", newMedia+"download/"+file, "", nil)
				require.Equal(t, "the file", w.Body.String())
			})
		}
		time.Sleep(time.Second)
		wantError(t, ask(hs, bob, "PUT", oldMedia+"upload/"+file, "text/plain", strings.NewReader("x")), 403, "M_FORBIDDEN")
		w := ask(hs, alice, "PUT", oldMedia+"upload/"+file+"?filename=f", "text/plain", strings.NewReader("the file"))
		require.Equal(t, 200, w.Code, "%s", w.Body)
		began = time.Now()
		waiting.Wait()
		require.Zero(t, time.Since(began))
		wantError(t, ask(hs, alice, "PUT", oldMedia+"upload/"+file, "text/plain", strings.NewReader("y")), 409, "M_CANNOT_OVERWRITE_MEDIA")
		wantError(t, ask(hs, alice, "PUT", oldMedia+"upload/hs.test/none", "text/plain", strings.NewReader("y")), 404, "M_NOT_FOUND")

		time.Sleep(24 * time.Hour)
		wantError(t, ask(hs, alice, "PUT", oldMedia+"upload/"+late, "text/plain", strings.NewReader("y")), 404, "M_NOT_FOUND")
		wantError(t, ask(hs, alice, "GET", newMedia+"download/"+late, "", nil), 404, "M_NOT_FOUND")
		create()
		require.Equal(t, "the file", ask(hs, bob, "GET", newMedia+"download/"+file, "", nil).Body.String())
	})
}

// counting is a store that tells what is in it, and fails when told to.
type counting struct {
	media.Store
	mu   sync.Mutex // guards the following
	keys map[string]bool
	fail error
}

func (c *counting) Put(ctx context.Context, key string, r io.Reader, size int64) error {
	c.mu.Lock()
	fail := c.fail
	c.mu.Unlock()
	if fail != nil {
		_, _ = io.CopyN(io.Discard, r, 3)
		return fail
	}
	err := c.Store.Put(ctx, key, r, size)
	c.mu.Lock()
	defer c.mu.Unlock()
	if err == nil {
		c.keys[key] = true
	}
	return err
}

func (c *counting) Delete(ctx context.Context, key string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.keys, key)
	return c.Store.Delete(ctx, key)
}

func (c *counting) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.keys)
}

func (c *counting) failWith(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fail = err
}

func withStore(t testing.TB, opts ...func(*homeserver.Config)) (*homeservertest.Server, *counting) {
	store := &counting{Store: media.Memory(), keys: map[string]bool{}}
	return homeservertest.New(t, append(opts, func(c *homeserver.Config) { c.Media = store })...), store
}

// TestSameBytesAreStoredOnce is M-23.
func TestSameBytesAreStoredOnce(t *testing.T) {
	hs, store := withStore(t)
	alice, bob := hs.User("alice"), hs.User("bob")
	first := upload(t, hs, alice, "a", "text/plain", []byte("same"))
	second := upload(t, hs, bob, "b", "text/html", []byte("same"))
	require.NotEqual(t, first, second)
	require.Equal(t, 1, store.count())
	admin := hs.Homeserver().Admin()
	require.NoError(t, admin.DeleteMedia(t.Context(), "mxc://"+first))
	wantError(t, ask(hs, alice, "GET", newMedia+"download/"+first, "", nil), 404, "M_NOT_FOUND")
	w := ask(hs, alice, "GET", newMedia+"download/"+second, "", nil)
	require.Equal(t, "same", w.Body.String())
	require.Equal(t, "text/html", w.Header().Get("Content-Type"))
	require.NoError(t, admin.DeleteMedia(t.Context(), "mxc://"+second))
	require.Zero(t, store.count())
	require.Error(t, admin.DeleteMedia(t.Context(), "mxc://"+second))
}

// TestQuarantine: what is quarantined is given to nobody, and kept.
func TestQuarantine(t *testing.T) {
	hs, store := withStore(t)
	alice := hs.User("alice")
	file := upload(t, hs, alice, "a", "text/plain", []byte("bad"))
	admin := hs.Homeserver().Admin()
	require.NoError(t, admin.QuarantineMedia(t.Context(), "mxc://"+file, true))
	wantError(t, ask(hs, alice, "GET", newMedia+"download/"+file, "", nil), 404, "M_NOT_FOUND")
	require.Equal(t, 1, store.count())
	require.NoError(t, admin.QuarantineMedia(t.Context(), "mxc://"+file, false))
	require.Equal(t, 200, ask(hs, alice, "GET", newMedia+"download/"+file, "", nil).Code)
}

// TestFailingStore: nothing half is given out, and nothing stays behind.
func TestFailingStore(t *testing.T) {
	hs, store := withStore(t)
	alice := hs.User("alice")
	store.failWith(errors.New("no space left on device"))
	wantError(t, ask(hs, alice, "POST", oldMedia+"upload", "", strings.NewReader("0123456789")), 500, "M_UNKNOWN")
	store.failWith(nil)
	file := upload(t, hs, alice, "", "", []byte("0123456789"))
	require.Equal(t, "0123456789", ask(hs, alice, "GET", newMedia+"download/"+file, "", nil).Body.String())
	hs.Restart()
	require.Equal(t, "0123456789", ask(hs, alice, "GET", newMedia+"download/"+file, "", nil).Body.String())
	require.Equal(t, 1, store.count())
}

// photo is a JPEG or a PNG with a red upper half.
func photo(t testing.TB, width, height int, kind string) []byte {
	t.Helper()
	m := image.NewRGBA(image.Rect(0, 0, width, height))
	for y := range height {
		for x := range width {
			m.Set(x, y, color.RGBA{B: 255, A: 255})
			if y < height/2 {
				m.Set(x, y, color.RGBA{R: 255, A: 255})
			}
		}
	}
	var out bytes.Buffer
	switch kind {
	case "image/png":
		require.NoError(t, png.Encode(&out, m))
	case "image/gif":
		require.NoError(t, gif.Encode(&out, m, nil))
	default:
		require.NoError(t, jpeg.Encode(&out, m, nil))
	}
	return out.Bytes()
}

// turnedPhoto is a JPEG whose EXIF data says how the camera was held.
func turnedPhoto(t *testing.T, width, height, orientation int) []byte {
	data := photo(t, width, height, "image/jpeg")
	exif := append([]byte("Exif\x00\x00MM\x00\x2a\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00"), byte(orientation), 0, 0, 0, 0, 0, 0)
	segment := append([]byte{0xff, 0xe1, 0, byte(len(exif) + 2)}, exif...)
	return append(append([]byte{0xff, 0xd8}, segment...), data[2:]...)
}

// TestThumbnails is MD-09 and MD-11.
func TestThumbnails(t *testing.T) {
	hs, store := withStore(t)
	alice := hs.User("alice")
	for _, tt := range []struct {
		kind          string
		width, height int
		ask           string
		wantW, wantH  int
		wantKind      string
	}{
		{"image/jpeg", 1000, 500, "width=32&height=32&method=crop", 32, 32, "image/jpeg"},
		{"image/png", 1000, 500, "width=90&height=90&method=crop", 96, 96, "image/png"},
		{"image/jpeg", 1000, 500, "width=320&height=240", 320, 160, "image/jpeg"},
		{"image/gif", 500, 1000, "width=320&height=240&method=scale", 120, 240, "image/png"},
		{"image/jpeg", 1000, 500, "width=321&height=1", 640, 320, "image/jpeg"},
		{"image/png", 20, 10, "width=640&height=480", 20, 10, "image/png"},
		{"image/jpeg", 1000, 500, "width=5000&height=5000", 1000, 500, "image/jpeg"},
		{"image/png", 2000, 1, "width=32&height=32", 32, 1, "image/png"},
		{"image/png", 40, 20, "width=96&height=96&method=crop", 20, 20, "image/png"},
	} {
		file := upload(t, hs, alice, "x", tt.kind, photo(t, tt.width, tt.height, tt.kind))
		for range 2 {
			w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?"+tt.ask, "", nil)
			require.Equal(t, 200, w.Code, "%s: %s", tt.ask, w.Body)
			require.Equal(t, tt.wantKind, w.Header().Get("Content-Type"), tt.ask)
			require.True(t, strings.HasPrefix(w.Header().Get("Content-Disposition"), "inline"))
			m, _, err := image.Decode(w.Body)
			require.NoError(t, err)
			require.Equal(t, image.Pt(tt.wantW, tt.wantH), m.Bounds().Size(), tt.ask)
		}
	}
	before := store.count()
	file := upload(t, hs, alice, "x", "image/png", photo(t, 2000, 2000, "image/png"))
	for width := 1; width < 1700; width += 7 { // M-06
		w := ask(hs, alice, "GET", fmt.Sprintf("%sthumbnail/%s?width=%d&height=%d", newMedia, file, width, 1700-width), "", nil)
		require.Equal(t, 200, w.Code)
	}
	require.LessOrEqual(t, store.count()-before, 7)
	require.NoError(t, hs.Homeserver().Admin().DeleteMedia(t.Context(), "mxc://"+file))
	require.Equal(t, before, store.count(), "thumbnails go with what they were made of")
}

// TestOrientation: a thumbnail is upright whichever way the camera was held.
func TestOrientation(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	for orientation, redAt := range map[int]image.Point{
		1: {16, 4}, 2: {16, 4}, 3: {16, 28}, 4: {16, 28}, 5: {4, 16}, 6: {28, 16}, 7: {28, 16}, 8: {4, 16},
	} {
		file := upload(t, hs, alice, "x", "image/jpeg", turnedPhoto(t, 200, 200, orientation))
		w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32&method=crop", "", nil)
		m, err := jpeg.Decode(w.Body)
		require.NoError(t, err)
		r, _, b, _ := m.At(redAt.X, redAt.Y).RGBA()
		require.Greater(t, r, b, "orientation %d", orientation)
		wide := upload(t, hs, alice, "x", "image/jpeg", turnedPhoto(t, 400, 200, orientation))
		w = ask(hs, alice, "GET", newMedia+"thumbnail/"+wide+"?width=96&height=96", "", nil)
		m, err = jpeg.Decode(w.Body)
		require.NoError(t, err)
		require.Equal(t, orientation >= 5, m.Bounds().Dy() > m.Bounds().Dx(), "orientation %d", orientation)
	}
}

// TestAnimations is MD-12.
func TestAnimations(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	moving := &gif.GIF{}
	for i := range 3 {
		frame := image.NewPaletted(image.Rect(0, 0, 200, 200), color.Palette{color.Black, color.White, color.Transparent})
		frame.SetColorIndex(i, i, 1)
		moving.Image, moving.Delay = append(moving.Image, frame), append(moving.Delay, 10)
	}
	var data bytes.Buffer
	require.NoError(t, gif.EncodeAll(&data, moving))
	file := upload(t, hs, alice, "x", "image/gif", data.Bytes())
	for _, animated := range []string{"", "&animated=false"} {
		w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32"+animated, "", nil)
		require.Equal(t, "image/png", w.Header().Get("Content-Type"))
	}
	w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32&animated=true", "", nil)
	small, err := gif.DecodeAll(w.Body)
	require.NoError(t, err)
	require.Len(t, small.Image, 3)
	require.Equal(t, 32, small.Config.Width)
}

// TestHostileImages is MD-13 and M-04, M-06.
func TestHostileImages(t *testing.T) {
	hs := homeservertest.New(t)
	alice := hs.User("alice")
	huge := photo(t, 1, 1, "image/png")
	copy(huge[16:], "\x00\x00\xc3\x50\x00\x00\xc3\x50") // 50,000 × 50,000
	jpegHuge := photo(t, 1, 1, "image/jpeg")
	at := bytes.Index(jpegHuge, []byte{0xff, 0xc0})
	copy(jpegHuge[at+5:], "\xff\xdc\xff\xdc")
	for _, tt := range []struct {
		name   string
		data   []byte
		status int
	}{
		{"not an image", []byte("<html>"), 400},
		{"nothing", nil, 400},
		{"cut off", photo(t, 100, 100, "image/png")[:60], 400},
		{"a PNG of 50,000 by 50,000", huge, 400}, // its checksum is wrong as well
		{"a JPEG of 65,500 by 65,500", jpegHuge, 413},
		{"a GIF header", []byte("GIF89a\xff\xff\xff\xff\x00\x00\x00"), 413},
		{"a WebP header", []byte("RIFF\x00\x00\x00\x00WEBPVP8 "), 400},
	} {
		file := upload(t, hs, alice, "x", "image/png", tt.data)
		began := time.Now()
		w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32&animated=true", "", nil)
		require.Equal(t, tt.status, w.Code, "%s: %s", tt.name, w.Body)
		require.Less(t, time.Since(began), time.Second)
	}
	file := upload(t, hs, alice, "x", "image/png", photo(t, 10, 10, "image/png"))
	for _, query := range []string{"", "width=1", "height=1", "width=0&height=1", "width=-1&height=1", "width=x&height=1", "width=1&height=1&method=x", "width=1&height=1&animated=x"} {
		require.Equal(t, 400, ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?"+query, "", nil).Code, query)
	}
	text := upload(t, hs, alice, "x", "text/plain", []byte("x"))
	wantError(t, ask(hs, alice, "GET", newMedia+"thumbnail/"+text+"?width=1&height=1", "", nil), 400, "M_UNKNOWN")
	wantError(t, ask(hs, alice, "GET", newMedia+"thumbnail/"+text+"?width=9999&height=9999", "", nil), 400, "M_UNKNOWN")
}

// TestRemoteMedia is MD-14: files of other servers are fetched once and kept.
func TestRemoteMedia(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	near, far := network.New("near.test"), network.New("far.test")
	alice, bob := near.User("alice"), far.User("bob")
	file := upload(t, far, bob, "pic.png", "image/png", photo(t, 200, 200, "image/png"))
	var asked sync.WaitGroup
	for range 5 {
		asked.Go(func() {
			w := ask(near, alice, "GET", newMedia+"download/"+file, "", nil)
			require.Equal(t, 200, w.Code, "%s", w.Body)
			require.Equal(t, "image/png", w.Header().Get("Content-Type"))
			require.Equal(t, `inline; filename=pic.png`, w.Header().Get("Content-Disposition"))
		})
	}
	asked.Wait()
	network.Partition("far.test")
	require.Equal(t, 200, ask(near, alice, "GET", newMedia+"download/"+file, "", nil).Code, "from here")
	w := ask(near, alice, "GET", newMedia+"thumbnail/"+file+"?width=32&height=32", "", nil)
	require.Equal(t, 200, w.Code, "%s", w.Body)
	network.Heal()
	wantError(t, ask(near, alice, "GET", newMedia+"download/far.test/none", "", nil), 404, "M_NOT_FOUND")
	other := upload(t, far, bob, "", "text/plain", []byte("other"))
	wantError(t, ask(near, alice, "GET", newMedia+"download/"+other+"?allow_remote=false", "", nil), 404, "M_NOT_FOUND")
	wantError(t, ask(near, alice, "GET", newMedia+"download/unknown.test/x", "", nil), 404, "M_NOT_FOUND")
}

// TestRemoteMediaBounds is M-13 and MD-14: too large is 502, and what is kept of others has a bound.
func TestRemoteMediaBounds(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	store := &counting{Store: media.Memory(), keys: map[string]bool{}}
	near := network.New("near.test", func(c *homeserver.Config) {
		c.Media, c.MediaLimits = store, homeserver.MediaLimits{Remote: 1000, RemoteCache: 2500}
	})
	far := network.New("far.test")
	alice, bob := near.User("alice"), far.User("bob")
	large := upload(t, far, bob, "", "", bytes.Repeat([]byte("x"), 1001))
	wantError(t, ask(near, alice, "GET", newMedia+"download/"+large, "", nil), 502, "M_TOO_LARGE")
	require.Zero(t, store.count())
	for i := range 10 {
		file := upload(t, far, bob, "", "", bytes.Repeat([]byte{byte(i)}, 1000))
		require.Equal(t, 200, ask(near, alice, "GET", newMedia+"download/"+file, "", nil).Code)
		require.LessOrEqual(t, store.count(), 2)
	}
}

// TestMediaOfOthers is M-15 and M-19: a server gives out its own files only, and to servers only.
func TestMediaOfOthers(t *testing.T) {
	network := homeservertest.NewNetwork(t)
	near, far := network.New("near.test"), network.New("far.test")
	alice, bob := near.User("alice"), far.User("bob")
	file := upload(t, far, bob, "", "image/png", photo(t, 100, 100, "image/png"))
	require.Equal(t, 200, ask(near, alice, "GET", newMedia+"download/"+file, "", nil).Code)
	rogue := network.Rogue("rogue.test")
	_, mediaID, _ := strings.Cut(file, "/")
	answer := rogue.Do(far, "GET", "/_matrix/federation/v1/media/thumbnail/"+mediaID+"?width=32&height=32", nil)
	require.Equal(t, 200, answer.Status)
	require.Contains(t, answer.Header.Get("Content-Type"), "multipart/mixed")
	require.Equal(t, 404, rogue.Do(near, "GET", "/_matrix/federation/v1/media/download/"+mediaID, nil).Status)
	require.Equal(t, 401, ask(far, nil, "GET", "/_matrix/federation/v1/media/download/"+mediaID, "", nil).Code)
}
