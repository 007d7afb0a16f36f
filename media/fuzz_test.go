package media

import (
	"bytes"
	"io"
	"mime"
	"net/url"
	"strings"
	"testing"
)

func FuzzImages(f *testing.F) {
	for _, format := range formats {
		f.Add([]byte(strings.ReplaceAll(format.magic, "?", "9")), 32, 32, true, true)
	}
	f.Add(webP(40, 20), 32, 32, false, false)
	f.Add(webP(0, 0, extended(20, 10, 2), frame(4, 2, 16, 8, chunk("VP8L", lossless(16, 8)))), 32, 32, false, false)
	f.Fuzz(func(t *testing.T, data []byte, width, height int, crop, animated bool) {
		size, ok := fitting(ThumbnailSize{width, height, crop, animated})
		if !ok || width <= 0 || height <= 0 {
			return
		}
		p, err := drawn(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil }, size, 1<<16)
		if err != nil || p.data == nil {
			return
		}
		_, config, err := measured(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(p.data)), nil })
		if err != nil || config.Width > size.Width && config.Height > size.Height {
			t.Fatalf("a thumbnail of %v: %v, %v", size, config, err)
		}
	})
}

func FuzzDisposition(f *testing.F) {
	f.Add("image/png", "name.png")
	f.Add("text/html", "a\"b\r\nX: y")
	f.Fuzz(func(t *testing.T, kind, name string) {
		text := disposition(kind, name)
		if strings.ContainsAny(text, "\r\n\x00") {
			t.Fatalf("%q", text)
		}
		how, _, err := mime.ParseMediaType(text)
		if err != nil || how != "inline" && how != "attachment" {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

func FuzzPages(f *testing.F) {
	f.Add("text/html", []byte(`<title>x</title><meta property="og:title" content="y"><script type="application/ld+json">{}</script>`))
	base := &url.URL{Scheme: "https", Host: "name.example"}
	f.Fuzz(func(t *testing.T, kind string, data []byte) {
		c, _ := pageCard(base, kind, bytes.NewReader(data))
		if len(c) > maxFields {
			t.Fatalf("%d fields", len(c))
		}
		for name, value := range c {
			if text, ok := value.(string); !ok || len(text) > maxField {
				t.Fatalf("%s: %v", name, value)
			}
		}
	})
}
