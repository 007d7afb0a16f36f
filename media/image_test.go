package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"image/color"
	"image/png"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Every pixel of a large image counts in a small one: what alternates becomes grey, however fine it is.
func TestShrunk(t *testing.T) {
	for _, size := range []image.Point{{96, 96}, {320, 240}, {100, 37}} {
		stripes := image.NewNRGBA(image.Rect(0, 0, 800, 800))
		for x := range 800 {
			for y := range 800 {
				stripes.Set(x, y, color.Gray{byte(255 * (x % 2))})
			}
		}
		small := shrunk(stripes, image.Rect(10, 0, 10+7*size.X, 7*size.Y).Intersect(stripes.Bounds()), image.Rectangle{Max: size})
		for i := 0; i < len(small.Pix); i += 4 {
			require.InDelta(t, 127, small.Pix[i], 3, "%v at %d", size, i/4)
			require.EqualValues(t, 255, small.Pix[i+3])
		}
	}
}

// Its parts stay where they were, and what is to stay as large does.
func TestShrunkStaysInPlace(t *testing.T) {
	flag := image.NewNRGBA(image.Rect(0, 0, 901, 301))
	for x := range 901 {
		for y := range 301 {
			flag.Set(x, y, []color.RGBA{{255, 0, 0, 255}, {0, 255, 0, 255}, {0, 0, 255, 255}}[min(x/300, 2)])
		}
	}
	small := shrunk(flag, flag.Bounds(), image.Rect(0, 0, 90, 30))
	require.Equal(t, color.RGBA{255, 0, 0, 255}, small.RGBAAt(5, 5))
	require.Equal(t, color.RGBA{0, 255, 0, 255}, small.RGBAAt(45, 29))
	require.Equal(t, color.RGBA{0, 0, 255, 255}, small.RGBAAt(89, 0))
	require.Equal(t, color.RGBA{0, 255, 0, 255}, shrunk(flag, image.Rect(300, 0, 600, 300), image.Rect(0, 0, 300, 300)).RGBAAt(0, 0))
	require.Equal(t, image.Rect(0, 0, 1, 1), shrunk(flag, image.Rect(0, 0, 901, 1), image.Rect(0, 0, 1, 1)).Bounds())
}

// webP is a file of one colour, whose picture is small however large the image is. What says otherwise is up to the caller.
func webP(width, height int, chunks ...string) []byte {
	if len(chunks) == 0 {
		chunks = []string{chunk("VP8L", lossless(width, height))}
	}
	all := "WEBP" + strings.Join(chunks, "")
	return []byte("RIFF" + little(len(all), 4) + all)
}

func chunk(name, body string) string {
	if len(body)%2 == 1 {
		return name + little(len(body), 4) + body + "\x00"
	}
	return name + little(len(body), 4) + body
}

func little(n, size int) string {
	return string(binary.LittleEndian.AppendUint64(nil, uint64(n))[:size])
}

// lossless is a red picture: no transform, no cache, one code of one symbol for each channel, and so no bit for a pixel.
func lossless(width, height int) string {
	var w bitWriter
	w.put(uint64(width-1)|uint64(height-1)<<14, 32)
	w.put(0, 3)
	for _, symbol := range []uint64{0, 255, 0, 255} { // green, red, blue, alpha
		w.put(1, 1) // a simple code
		w.put(0, 1) // of one symbol
		w.put(1, 1) // of eight bits
		w.put(symbol, 8)
	}
	w.put(1, 3) // distances: the symbol 0
	w.put(0, 1)
	return "\x2f" + string(append(w.bytes, byte(w.left), 0, 0))
}

// bitWriter writes the lowest bits first.
type bitWriter struct {
	bytes []byte
	left  uint64
	n     int
}

func (w *bitWriter) put(bits uint64, n int) {
	w.left |= bits << w.n
	for w.n += n; w.n >= 8; w.n -= 8 {
		w.bytes = append(w.bytes, byte(w.left))
		w.left >>= 8
	}
}

func extended(width, height int, flags byte) string {
	return chunk("VP8X", string([]byte{flags, 0, 0, 0})+little(width-1, 3)+little(height-1, 3))
}

func frame(x, y, width, height int, picture string) string {
	return chunk("ANMF", little(x/2, 3)+little(y/2, 3)+little(width-1, 3)+little(height-1, 3)+little(100, 3)+"\x00"+picture)
}

func opened(data []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }
}

// MD-12: what moves and is asked for still is shown as it begins, also where it is small enough to be its own thumbnail.
func TestStills(t *testing.T) {
	still := encodedPNG(t, 20, 10)
	with := func(name, body string) []byte { // a chunk behind the first
		sum := crc32.ChecksumIEEE([]byte(name + body))
		one := binary.BigEndian.AppendUint32(append(binary.BigEndian.AppendUint32(nil, uint32(len(body))), name+body...), sum)
		return slices.Concat(still[:33], one, still[33:])
	}
	movingPNG, late := with("acTL", "\x00\x00\x00\x02\x00\x00\x00\x00"), with("aaAa", strings.Repeat("x", maxHeader))
	movingWebP := webP(0, 0, extended(20, 10, 2), chunk("ANIM", "\x00\x00\x00\x00\x00\x00"), frame(4, 2, 16, 8, chunk("VP8L", lossless(16, 8))), "junk")
	for _, tt := range []struct {
		name string
		data []byte
		size ThumbnailSize
		same bool
		want image.Point
	}{
		{"a picture", still, whole, true, image.Point{}},
		{"a still WebP", webP(20, 10), whole, true, image.Point{}},
		{"an extended still WebP", webP(0, 0, extended(20, 10, 0), chunk("VP8L", lossless(20, 10))), whole, true, image.Point{}},
		{"a large WebP", webP(2000, 1000), ThumbnailSize{Width: 320, Height: 240}, false, image.Pt(320, 160)},
		{"a moving PNG", movingPNG, whole, false, image.Pt(20, 10)},
		{"a PNG of which too little is known", late, whole, false, image.Pt(20, 10)},
		{"a moving WebP", movingWebP, whole, false, image.Pt(20, 10)},
		{"a moving WebP, smaller", movingWebP, ThumbnailSize{Width: 10, Height: 10}, false, image.Pt(10, 5)},
	} {
		p, err := drawn(opened(tt.data), tt.size, 64e6)
		require.NoError(t, err, tt.name)
		require.Equal(t, tt.same, p.data == nil, tt.name)
		if tt.same {
			continue
		}
		m, _, err := image.Decode(bytes.NewReader(p.data))
		require.NoError(t, err)
		require.Equal(t, tt.want, m.Bounds().Size(), tt.name)
		require.False(t, bytes.Contains(p.data, []byte("acTL")), tt.name)
	}
	p, err := drawn(opened(movingWebP), whole, 64e6)
	require.NoError(t, err)
	m, _, err := image.Decode(bytes.NewReader(p.data))
	require.NoError(t, err)
	require.Equal(t, color.NRGBA{}, m.At(0, 0), "the frame lies elsewhere")
	require.Equal(t, color.NRGBA{255, 0, 0, 255}, color.NRGBAModel.Convert(m.At(5, 5)))
}

// M-04: lengths that lead nowhere do no harm.
func TestMovesPNG(t *testing.T) {
	for _, length := range []string{"\x7f\xff\xff\xff", "\xff\xff\xff\xff", "\x80\x00\x00\x00", "\x00\x00\x00\x00"} {
		require.True(t, movesPNG([]byte("\x89PNG\r\n\x1a\n"+length+"aaAa"+"\x00\x00\x00\x00")))
	}
	require.True(t, movesPNG(nil))
	require.False(t, movesPNG(encodedPNG(t, 1, 1)))
}

// M-04: the picture in a WebP is not larger than what is said of it outside.
func TestWebPBombs(t *testing.T) {
	const large = 16384
	bomb := chunk("VP8L", lossless(large, large))
	for name, data := range map[string][]byte{
		"said":                       webP(large, large),
		"hidden":                     webP(0, 0, extended(10, 10, 0), bomb),
		"in a frame":                 webP(0, 0, extended(10, 10, 2), frame(0, 0, 10, 10, bomb)),
		"a frame beyond the canvas":  webP(0, 0, extended(10, 10, 2), frame(0, 0, large, large, bomb)),
		"a frame outside":            webP(0, 0, extended(10, 10, 2), frame(20, 0, 10, 10, chunk("VP8L", lossless(10, 10)))),
		"a frame without a canvas":   webP(0, 0, frame(0, 0, 10, 10, chunk("VP8L", lossless(10, 10)))),
		"behind a frame":             webP(0, 0, extended(10, 10, 0), frame(0, 0, 10, 10, chunk("VP8L", lossless(10, 10))), bomb),
		"beside an animation":        webP(0, 0, extended(10, 10, 2), bomb),
		"a late head":                webP(0, 0, chunk("XXXX", ""), extended(10, 10, 2), frame(0, 0, 10, 10, chunk("VP8L", lossless(10, 10))), bomb),
		"two heads":                  webP(0, 0, extended(10, 10, 0), extended(10, 10, 2), frame(0, 0, 10, 10, chunk("VP8L", lossless(10, 10))), bomb),
		"a transparent one":          webP(0, 0, extended(large*8, large*8, 16), chunk("ALPH", "\x00")),
		"transparency larger":        webP(0, 0, extended(large*8, large*8, 16), chunk("ALPH", "\x00"), chunk("VP8L", lossless(10, 10))),
		"nothing":                    webP(0, 0, extended(10, 10, 2)),
		"no end":                     webP(0, 0, extended(10, 10, 2), "ANMF\xff\xff\xff\xff"),
		"a frame with nothing in it": webP(0, 0, extended(10, 10, 2), frame(0, 0, 10, 10, "")),
		"an empty picture":           webP(0, 0, chunk("VP8 ", "")),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := drawn(opened(data), whole, 64e6)
		runtime.ReadMemStats(&after)
		require.True(t, errors.Is(err, errTooManyPixels) || errors.Is(err, errNoPicture), "%s: %v", name, err)
		require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(4<<20), name)
	}
}

func encodedPNG(t *testing.T, width, height int) []byte {
	var out bytes.Buffer
	require.NoError(t, png.Encode(&out, image.NewRGBA(image.Rect(0, 0, width, height))))
	return out.Bytes()
}
