package homeservertest_test

import (
	"bytes"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// picture is a PNG of a few pixels.
func picture() []byte {
	var text bytes.Buffer
	png.Encode(&text, image.NewGray(image.Rect(0, 0, 8, 8))) //nolint:errcheck // memory can be written
	return text.Bytes()
}

// webPage is the URL of a page of the web that says what it is.
func webPage(t *testing.T) string {
	page := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		io.WriteString(w, `<html><head><meta property="og:title" content="A page"></head></html>`) //nolint:errcheck // who has asked has gone
	}))
	t.Cleanup(page.Close)
	return page.URL
}

// transfer sends or fetches bytes of a type, and returns those that come.
func (p *person) transfer(method, path, mediaType string, body []byte) []byte {
	p.t.Helper()
	r, err := http.NewRequest(method, "http://hs.test"+path, bytes.NewReader(body))
	require.NoError(p.t, err)
	r.Header.Set("Authorization", "Bearer "+p.token)
	r.Header.Set("Content-Type", mediaType)
	response, err := p.http.Do(r)
	require.NoError(p.t, err)
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	require.NoError(p.t, err)
	require.Equal(p.t, 200, response.StatusCode, "%s %s: %s", method, path, data)
	return data
}

// show has alice share pictures: one at once, one for which she has asked for a place before.
func show(alice *person) {
	const v1, old = "/_matrix/client/v1/media", "/_matrix/media/v3"
	alice.get(v1 + "/config")
	alice.get(old + "/config")
	alice.transfer("POST", old+"/upload?filename=a.png", "image/png", picture())
	promised := strings.TrimPrefix(alice.post("/_matrix/media/v1/create", object{})["content_uri"].(string), "mxc://")
	alice.transfer("PUT", old+"/upload/"+promised, "image/png", picture())
	for _, from := range []string{v1, old} {
		require.Equal(alice.t, picture(), alice.transfer("GET", from+"/download/"+promised, "", nil))
		require.Equal(alice.t, picture(), alice.transfer("GET", from+"/download/"+promised+"/b.png", "", nil))
		alice.transfer("GET", from+"/thumbnail/"+promised+"?width=32&height=32&method=crop", "", nil)
		page := alice.get(from + "/preview_url?url=" + url.QueryEscape(webPage(alice.t)))
		require.Equal(alice.t, "A page", page["og:title"])
	}
}

// fetchFiles has another server fetch a file and its thumbnail.
func fetchFiles(peer *homeservertest.Rogue, server *homeservertest.Server, carol *homeservertest.User) {
	r := httptest.NewRequest("POST", "/_matrix/media/v3/upload", bytes.NewReader(picture()))
	r.Header.Set("Authorization", "Bearer "+carol.Token)
	r.Header.Set("Content-Type", "image/png")
	w := httptest.NewRecorder()
	server.ServeHTTP(w, r)
	file := w.Body.String()[strings.LastIndex(w.Body.String(), "/")+1 : strings.LastIndex(w.Body.String(), `"`)]
	peer.Do(server, "GET", "/_matrix/federation/v1/media/download/"+file, nil).WantOK()
	peer.Do(server, "GET", "/_matrix/federation/v1/media/thumbnail/"+file+"?width=32&height=32", nil).WantOK()
}
