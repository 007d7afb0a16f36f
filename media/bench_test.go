package media_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/media"
)

// large is how many bytes a large file has, and maxHeap how many the server may take more for it.
const maxHeap = 64 << 20

func large() int64 {
	if testing.Short() {
		return 64 << 20
	}
	return 1 << 30
}

// zeros are the bytes of a file without an end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// sink is an answer of which the bytes are only counted.
type sink struct {
	header http.Header
	status int
	n      int64
}

func (s *sink) Header() http.Header    { return s.header }
func (s *sink) WriteHeader(status int) { s.status = status }
func (s *sink) Write(p []byte) (int, error) {
	s.n += int64(len(p))
	return len(p), nil
}

// inFolder is a server whose files are in a folder, with a user.
func inFolder(b *testing.B) (*homeservertest.Server, *homeservertest.User) {
	hs := homeservertest.New(b, func(c *homeserver.Config) {
		c.Media, c.MediaLimits.Upload = media.Dir(b.TempDir()), -1
	})
	return hs, hs.User("alice")
}

func uploadLarge(b *testing.B, hs http.Handler, u *homeservertest.User, size int64) string {
	w := ask(hs, u, "POST", oldMedia+"upload", "video/mp4", io.LimitReader(zeros{}, size))
	require.Equal(b, 200, w.Code, "%s", w.Body)
	return strings.TrimPrefix(gjson.GetBytes(w.Body.Bytes(), "content_uri").String(), "mxc://")
}

func download(b *testing.B, hs http.Handler, u *homeservertest.User, file string, size int64) {
	r := httptest.NewRequest("GET", newMedia+"download/"+file, nil)
	r.Header.Set("Authorization", "Bearer "+u.Token)
	w := &sink{header: http.Header{}, status: 200}
	hs.ServeHTTP(w, r)
	require.Equal(b, 200, w.status)
	require.Equal(b, size, w.n)
}

// withinHeap fails when the heap grows by more than maxHeap meanwhile.
func withinHeap(b *testing.B, do func()) {
	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	before, over := heap(), make(chan struct{})
	var most atomic.Uint64
	var watching sync.WaitGroup
	watching.Go(func() {
		for ticks := time.Tick(10 * time.Millisecond); ; {
			most.Store(max(most.Load(), heap()))
			select {
			case <-over:
				return
			case <-ticks:
			}
		}
	})
	do()
	close(over)
	watching.Wait()
	more := max(most.Load(), before) - before
	b.ReportMetric(float64(more)/(1<<20), "MiB-heap")
	require.Less(b, more, uint64(maxHeap))
}

// BenchmarkUpload uploads a file of 1 GiB, and of 64 MiB with -short.
func BenchmarkUpload(b *testing.B) {
	hs, alice := inFolder(b)
	b.SetBytes(large())
	withinHeap(b, func() {
		for b.Loop() {
			file := uploadLarge(b, hs, alice, large())
			require.NoError(b, hs.Homeserver().Admin().DeleteMedia(b.Context(), "mxc://"+file))
		}
	})
}

// BenchmarkDownload downloads a file of 1 GiB, and of 64 MiB with -short.
func BenchmarkDownload(b *testing.B) {
	hs, alice := inFolder(b)
	file := uploadLarge(b, hs, alice, large())
	b.SetBytes(large())
	withinHeap(b, func() {
		for b.Loop() {
			download(b, hs, alice, file, large())
		}
	})
}

// BenchmarkDownloads downloads a file of 4 MiB a hundred times at once.
func BenchmarkDownloads(b *testing.B) {
	const size = 4 << 20
	hs, alice := inFolder(b)
	file := uploadLarge(b, hs, alice, size)
	b.SetBytes(100 * size)
	withinHeap(b, func() {
		for b.Loop() {
			var all sync.WaitGroup
			for range 100 {
				all.Go(func() { download(b, hs, alice, file, size) })
			}
			all.Wait()
		}
	})
}

// BenchmarkThumbnail makes thumbnails of a photo of 12 megapixels, or gives out one that is there.
func BenchmarkThumbnail(b *testing.B) {
	hs, alice := inFolder(b)
	data := photo(b, 4000, 3000, "image/jpeg")
	file := upload(b, hs, alice, "", "image/jpeg", data)
	get := func(b *testing.B, file string) {
		w := ask(hs, alice, "GET", fmt.Sprintf("%sthumbnail/%s?width=800&height=600", newMedia, file), "", nil)
		require.Equal(b, 200, w.Code, "%s", w.Body)
	}
	b.Run("first", func(b *testing.B) {
		b.ReportAllocs()
		for n := 0; b.Loop(); n++ {
			b.StopTimer()
			other := upload(b, hs, alice, "", "image/jpeg", fmt.Append(data, n)) // what follows an image is none of it
			b.StartTimer()
			get(b, other)
		}
	})
	b.Run("cached", func(b *testing.B) {
		get(b, file)
		b.ReportAllocs()
		for b.Loop() {
			get(b, file)
		}
	})
}

// BenchmarkMovingThumbnail makes a moving thumbnail of an animation of 12 megapixels.
func BenchmarkMovingThumbnail(b *testing.B) {
	hs, alice := inFolder(b)
	data := animation(b, 900, 700, 20)
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		b.StopTimer()
		file := upload(b, hs, alice, "", "image/gif", fmt.Append(data, n))
		b.StartTimer()
		w := ask(hs, alice, "GET", newMedia+"thumbnail/"+file+"?width=800&height=600&animated=true", "", nil)
		require.Equal(b, 200, w.Code, "%s", w.Body)
		require.Equal(b, "image/gif", w.Header().Get("Content-Type"))
	}
}
