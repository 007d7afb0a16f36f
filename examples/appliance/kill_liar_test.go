package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"
)

// liar passes requests on to the appliance, but for writes of one kind, which it acknowledges and drops.
type liar struct {
	url   string
	about atomic.Value // kind
	lies  atomic.Int64
	proxy http.Handler
	claimed
}

func newLiar(t *testing.T, target string) *liar {
	t.Helper()
	to, err := url.Parse(target)
	require.NoError(t, err)
	proxy := httputil.NewSingleHostReverseProxy(to)
	proxy.ErrorLog = log.New(io.Discard, "", 0) // requests are broken off when a load stops
	l := &liar{proxy: proxy}
	proxy.ModifyResponse = l.note
	l.lieAbout("")
	server := httptest.NewServer(l)
	t.Cleanup(server.Close)
	l.url = server.URL
	return l
}

func (l *liar) lieAbout(k kind) { l.about.Store(k) }

func (l *liar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k := kind(r.Header.Get(kindHeader))
	if k == "" || k != l.about.Load() {
		l.proxy.ServeHTTP(w, r)
		return
	}
	if k == keyClaims {
		l.repeat(w)
		return
	}
	n := l.lies.Add(1)
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(map[string]string{
		"event_id":     fmt.Sprintf("$lie%d", n),
		"room_id":      fmt.Sprintf("!lie%d:localhost", n),
		"filter_id":    fmt.Sprintf("lie%d", n),
		"access_token": fmt.Sprintf("lie%d", n),
		"device_id":    fmt.Sprintf("LIE%d", n),
	})
}
