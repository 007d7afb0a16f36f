package wire_test

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/wire"
)

type answerer func(*http.Request) *http.Response

func (f answerer) RoundTrip(r *http.Request) (*http.Response, error) {
	response := f(r)
	response.Request = r
	return response, nil
}

func said(status int, body string) *http.Response {
	return &http.Response{StatusCode: status, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}
}

func TestWeb(t *testing.T) {
	var seen *http.Request
	status, body := 200, `{"valid":true}`
	c := wire.NewClient(wire.Config{Origin: "own", Transport: answerer(func(r *http.Request) *http.Response {
		seen = r
		response := said(status, body)
		response.Header.Set("Location", "https://elsewhere/")
		return response
	})})
	answer, err := c.Web(t.Context(), "https://identity.test:8090/a%2Fb?c=d", 20)
	require.NoError(t, err)
	require.Equal(t, `{"valid":true}`, string(answer.Body))
	require.Equal(t, "https://identity.test:8090/a%2Fb?c=d", seen.URL.String())
	require.Empty(t, seen.Header.Get("Authorization"))
	for _, address := range []string{"", "%", "http://identity.test/", "identity.test", "//identity.test/", "file:///etc/passwd", "https:///x", "https://u:p@identity.test/"} {
		_, err := c.Web(t.Context(), address, 20)
		require.Error(t, err, address)
	}
	for _, wrong := range []struct {
		status int
		body   string
	}{{302, `{}`}, {404, `{}`}, {500, `{}`}, {200, `{`}, {200, ``}, {200, `{"a":1,"a":1}`}, {200, strings.Repeat(" ", 21)}} {
		status, body = wrong.status, wrong.body
		_, err := c.Web(t.Context(), "https://identity.test/", 20)
		require.Error(t, err, "%v", wrong)
	}
	c.Close()
	status, body = 200, `{}`
	_, err = c.Web(t.Context(), "https://identity.test/", 20)
	require.ErrorIs(t, err, wire.ErrClosed)
}

func TestWebToDeniedNetworks(t *testing.T) {
	c := wire.NewClient(wire.Config{Origin: "own"})
	defer c.Close()
	for _, address := range []string{"https://127.0.0.1/", "https://[::1]:22/", "https://169.254.169.254/latest/meta-data", "https://10.0.0.1/"} {
		_, err := c.Web(t.Context(), address, 20)
		require.ErrorIs(t, err, wire.ErrDenied, address)
	}
}
