package httpapi_test

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/embedmatrix/homeserver/internal/httpapi"
)

// discard is a ResponseWriter that costs nothing, so that the door alone is measured.
type discard struct{ header http.Header }

func (d *discard) Header() http.Header         { return d.header }
func (d *discard) Write(p []byte) (int, error) { return len(p), nil }
func (d *discard) WriteHeader(int)             {}

type reusable struct{ strings.Reader }

func (*reusable) Close() error { return nil }

type sent struct {
	EventID string `json:"event_id"`
}

// BenchmarkSend: what the door costs a message: route, token, path values, body, answer.
func BenchmarkSend(b *testing.B) {
	routes := append(testRoutes(), httpapi.Handle(httpapi.Authed, "PUT "+v3+"/bench/{roomId}/send/{eventType}/{txnId}",
		func(_ context.Context, c *httpapi.Call, _ *json.RawMessage) (*sent, error) {
			return &sent{c.PathValue("txnId")}, nil
		}, httpapi.RateLimited()))
	h := httpapi.NewRouter(httpapi.Config{Sessions: &sessions{}, AllowQueryToken: true,
		Limits: httpapi.Limits{User: httpapi.Rate{PerSecond: 1e9, Burst: 1e6}}}, routes)
	const body = `{"msgtype":"m.text","body":"a message of about a hundred bytes, as people write them to each other"}`
	r, err := http.NewRequest("PUT", "http://hs"+v3+"/bench/%21abcdefghijklmnop%3Aexample.org/send/m.room.message/m1700000000.1", nil)
	if err != nil {
		b.Fatal(err)
	}
	r.RemoteAddr = "203.0.113.7:5000"
	r.Header.Set("Authorization", "Bearer alice")
	in, w := &reusable{}, &discard{http.Header{}}
	r.Body, r.ContentLength = in, int64(len(body))
	b.ReportAllocs()
	for b.Loop() {
		in.Reset(body)
		h.ServeHTTP(w, r)
	}
}

// BenchmarkNotFound: the cheapest answer there is.
func BenchmarkNotFound(b *testing.B) {
	h := newRouter()
	r, err := http.NewRequest("GET", "http://hs"+v3+"/rooms/!abc:example.org/nothing/here", nil)
	if err != nil {
		b.Fatal(err)
	}
	w := &discard{http.Header{}}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(w, r)
	}
}
