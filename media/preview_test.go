package media_test

import (
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
)

func previewing(c *homeserver.Config) {
	c.Previews = homeserver.Previews{Enabled: true, AllowPrivate: true}
}

func preview(hs http.Handler, u *homeservertest.User, page string) *httptest.ResponseRecorder {
	return ask(hs, u, "GET", newMedia+"preview_url?url="+url.QueryEscape(page), "", nil)
}

// web serves pages by their path.
func web(t *testing.T, pages map[string]func(http.ResponseWriter)) (string, *atomic.Int32) {
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if page := pages[r.URL.Path]; page != nil {
			page(w)
			return
		}
		http.NotFound(w, r)
	}))
	t.Cleanup(server.Close)
	return server.URL, &asked
}

func page(contentType, text string) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("Content-Type", contentType)
		fmt.Fprint(w, text)
	}
}

// Pages whose certificates are of an authority that only the host trusts.
func TestPreviewsOfExtraRoots(t *testing.T) {
	site := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page("text/html", `<title>within</title>`)(w)
	}))
	site.Config.ErrorLog = log.New(io.Discard, "", 0) // of refused certificates
	t.Cleanup(site.Close)
	for title, roots := range map[string][]*x509.Certificate{"": nil, "within": {site.Certificate()}} {
		hs := homeservertest.New(t, previewing, func(c *homeserver.Config) { c.Previews.ExtraRoots = roots })
		w := preview(hs, hs.User("alice"), site.URL)
		require.Equal(t, title, gjson.Get(w.Body.String(), "og:title").Str, "%d %s", w.Code, w.Body)
	}
}

// TestPreviews is MD-16.
func TestPreviews(t *testing.T) {
	hs := homeservertest.New(t, previewing)
	alice := hs.User("alice")
	picture := string(photo(t, 30, 20, "image/png"))
	site, asked := web(t, map[string]func(http.ResponseWriter){
		"/og": page("text/html", `<html><head><title>no</title><meta property="og:title" content="The &amp; Rock"><meta property="og:type" content="video">
			<meta property="og:image" content="pic.png"><meta property="og:image:width" content="9999"><meta property='og:title' content='second'></head>`),
		"/twitter":    page("text/html; charset=utf-8", `<meta name="twitter:title" content="T"><meta name="twitter:image" content="/pic.png">`),
		"/ld":         page("text/html", `<script type="application/ld+json">{"headline":"L","description":"D","image":[{"url":"pic.png"}]}</script>`),
		"/plain":      page("text/html", "<title>\n A  title </title><body><p>First <b>bold</b></p>"),
		"/latin":      page("text/html; charset=iso-8859-1", "<title>caf\xe9</title>"),
		"/declared":   page("text/html", "<meta charset=windows-1251><title>\xcf\xf0\xe8\xe2\xe5\xf2</title>"),
		"/embed":      page("text/html", `<link rel="alternate" type="application/json+oembed" href="/embed.json">`),
		"/embed.json": page("application/json", `{"title":"E","provider_name":"P","thumbnail_url":"/pic.png"}`),
		"/pic.png":    page("image/png", picture),
		"/pdf":        page("application/pdf", "%PDF"),
		"/svg":        page("text/html", `<meta property="og:image" content="/evil.svg"><title>x</title>`),
		"/evil.svg":   page("image/svg+xml", `<svg/>`),
	})
	for path, want := range map[string]map[string]any{
		"/og": {"og:title": "The & Rock", "og:type": "video", "og:image:width": 30.0, "og:image:height": 20.0, "og:image:type": "image/png",
			"matrix:image:size": float64(len(picture))},
		"/twitter":  {"og:title": "T", "og:image:width": 30.0},
		"/ld":       {"og:title": "L", "og:description": "D", "og:image:height": 20.0},
		"/plain":    {"og:title": "A title", "og:description": "First"},
		"/latin":    {"og:title": "café"},
		"/declared": {"og:title": "Привет"},
		"/embed":    {"og:title": "E", "og:site_name": "P", "og:image:width": 30.0},
		"/pic.png":  {"og:image:width": 30.0},
		"/pdf":      {"og:title": nil},
		"/svg":      {"og:title": "x", "og:image": nil},
	} {
		w := preview(hs, alice, site+path)
		require.Equal(t, 200, w.Code, "%s: %s", path, w.Body)
		for name, value := range want {
			require.Equal(t, value, gjson.GetBytes(w.Body.Bytes(), gjson.Escape(name)).Value(), "%s: %s", path, w.Body)
		}
		if want["og:image:width"] != nil {
			uri := gjson.GetBytes(w.Body.Bytes(), "og:image").String()
			require.Equal(t, 200, ask(hs, alice, "GET", newMedia+"download/"+strings.TrimPrefix(uri, "mxc://"), "", nil).Code)
		}
	}
	before := asked.Load()
	preview(hs, alice, site+"/og#part")
	require.Equal(t, before, asked.Load(), "kept for an hour")
	require.Equal(t, 502, preview(hs, alice, site+"/none").Code)
	before = asked.Load()
	require.Equal(t, 502, preview(hs, alice, site+"/none").Code)
	require.Equal(t, before, asked.Load(), "that there is nothing is kept too")
	wantError(t, preview(hs, nil, site+"/og"), 401, "M_MISSING_TOKEN")
	wantError(t, ask(hs, alice, "GET", newMedia+"preview_url", "", nil), 400, "M_MISSING_PARAM")
}

// nowhere finds 127.0.0.1 for every name.
type nowhere struct{}

func (nowhere) LookupNetIP(context.Context, string, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("127.0.0.1")}, nil
}

func (nowhere) LookupSRV(context.Context, string, string, string) (string, []*net.SRV, error) {
	return "", nil, nil
}

// TestPreviewsReachNothingInside is M-08.
func TestPreviewsReachNothingInside(t *testing.T) {
	trap, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var caught atomic.Int32
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { caught.Add(1) })}
	go server.Serve(trap)
	defer server.Close()
	_, port, err := net.SplitHostPort(trap.Addr().String())
	require.NoError(t, err)
	hs := homeservertest.New(t, func(c *homeserver.Config) { c.Previews = homeserver.Previews{Enabled: true, Resolver: nowhere{}} })
	alice := hs.User("alice")
	for _, host := range []string{
		"127.0.0.1", "[::]", "[::1]", "0", "0.0.0.0", "0x7f.1", "127.1", "2130706433", "[::ffff:127.0.0.1]", "169.254.169.254", "localhost", "name.example",
		"[fe80::1]", "10.0.0.1", "user:pass@name.example",
	} {
		for _, scheme := range []string{"http", "https"} {
			w := preview(hs, alice, scheme+"://"+host+":"+port+"/")
			require.Contains(t, []int{400, 502}, w.Code, "%s: %s", host, w.Body)
		}
	}
	for _, page := range []string{"file:///etc/passwd", "ftp://name.example/", "gopher://name.example", "http://name.example:22/", "//name.example", "", "http://", "http:name", "%"} {
		require.Equal(t, 400, preview(hs, alice, page).Code, page)
	}
	require.Zero(t, caught.Load())
}

// TestPreviewsOfRedirects: a redirect leads nowhere where the page itself may not be.
func TestPreviewsOfRedirects(t *testing.T) {
	inside, asked := web(t, map[string]func(http.ResponseWriter){"/": page("text/html", "<title>secret</title>")})
	hs := homeservertest.New(t, func(c *homeserver.Config) {
		c.Previews = homeserver.Previews{Enabled: true, AllowNets: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	})
	alice := hs.User("alice")
	to := strings.Replace(inside, "127.0.0.1", "127.0.0.2", 1)
	outside, _ := web(t, map[string]func(http.ResponseWriter){
		"/":     func(w http.ResponseWriter) { w.Header().Set("Location", to); w.WriteHeader(302) },
		"/file": func(w http.ResponseWriter) { w.Header().Set("Location", "file:///etc/passwd"); w.WriteHeader(302) },
		"/loop": func(w http.ResponseWriter) { w.Header().Set("Location", "/loop"); w.WriteHeader(302) },
		"/img":  page("text/html", `<title>x</title><meta property="og:image" content="`+to+`">`),
	})
	for _, path := range []string{"/", "/file", "/loop"} {
		require.Equal(t, 502, preview(hs, alice, outside+path).Code, path)
	}
	require.Equal(t, `{"og:title":"x"}`, strings.TrimSpace(preview(hs, alice, outside+"/img").Body.String()))
	require.Zero(t, asked.Load())
}

// TestPreviewsOfHostilePages is M-10.
func TestPreviewsOfHostilePages(t *testing.T) {
	hs := homeservertest.New(t, previewing)
	alice := hs.User("alice")
	site, _ := web(t, map[string]func(http.ResponseWriter){
		"/nested": page("text/html", strings.Repeat("<div>", 100_000)),
		"/meta":   page("text/html", `<meta property="og:title" content="`+strings.Repeat("x", 10<<20)),
		"/utf7":   page("text/html; charset=utf-7", "<title>+ADw-script+AD4-</title>"),
		"/empty":  page("text/html", ""),
		"/many":   page("text/html", strings.Repeat(`<meta property="og:a" content="b">`, 50_000)),
		"/names": func(w http.ResponseWriter) {
			for i := range 5000 {
				fmt.Fprintf(w, `<meta property="og:%d" content="b">`, i)
			}
		},
		"/gzip": func(w http.ResponseWriter) {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Type", "text/html")
			w.Write([]byte("\x1f\x8b\x08"))
		},
		"/bytes": page("text/html", "<title>\x00\xff\xfe</title>"),
	})
	for _, path := range []string{"/nested", "/meta", "/utf7", "/empty", "/many", "/names", "/gzip", "/bytes"} {
		began := time.Now()
		w := preview(hs, alice, site+path)
		require.Equal(t, 200, w.Code, "%s: %s", path, w.Body)
		require.True(t, gjson.ValidBytes(w.Body.Bytes()))
		require.Less(t, w.Body.Len(), 200<<10)
		require.Less(t, time.Since(began), 5*time.Second, path)
	}
}

// TestPreviewsFillNoDisk: images of pages are kept like files of other servers, within the same bound.
func TestPreviewsFillNoDisk(t *testing.T) {
	image := photo(t, 50, 50, "image/png")
	pages := map[string]func(http.ResponseWriter){}
	for i := range 10 {
		pages[fmt.Sprintf("/%d", i)] = page("text/html", fmt.Sprintf(`<p><img src="/%d.png">`, i))
		pages[fmt.Sprintf("/%d.png", i)] = page("image/png", string(image)+fmt.Sprint(i))
	}
	address, _ := web(t, pages)
	hs, store := withStore(t, previewing, func(c *homeserver.Config) { c.MediaLimits.RemoteCache = int64(len(image)) * 3 })
	alice := hs.User("alice")
	own := upload(t, hs, alice, "", "", image)
	for i := range 10 {
		w := preview(hs, alice, fmt.Sprintf("%s/%d", address, i))
		uri := gjson.GetBytes(w.Body.Bytes(), "og:image").String()
		require.True(t, strings.HasPrefix(uri, "mxc://"), "%s", w.Body)
		require.Equal(t, 200, ask(hs, alice, "GET", newMedia+"download/"+strings.TrimPrefix(uri, "mxc://"), "", nil).Code)
		require.LessOrEqual(t, store.count(), 1+2)
	}
	require.Equal(t, 200, ask(hs, alice, "GET", newMedia+"download/"+own, "", nil).Code, "what somebody has uploaded stays")
}
