// Package inprocess hands HTTP requests to a handler of the same process, with no socket between.
package inprocess

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"sync"
)

// Transport is an http.RoundTripper that hands requests to a handler. The answer begins when the handler has written
// its header or ended, and its body streams. Both end with the request's context.
type Transport struct{ Handler http.Handler }

// RoundTrip serves one request in a goroutine that ends with the handler, whom the Handler's owner awaits.
func (t Transport) RoundTrip(r *http.Request) (*http.Response, error) {
	reader, writer := io.Pipe()
	a := &answer{header: http.Header{}, body: bufio.NewWriter(writer), begun: make(chan struct{})}
	in := r.Clone(r.Context())
	in.RequestURI = r.URL.RequestURI()
	in.RemoteAddr = "127.0.0.1:0"
	if in.Body == nil {
		in.Body = http.NoBody
	}
	stop := context.AfterFunc(r.Context(), func() { writer.CloseWithError(r.Context().Err()) }) //nolint:errcheck // it never fails
	go func() {
		defer in.Body.Close()
		writer.CloseWithError(t.serve(a, in)) //nolint:errcheck // it never fails
		stop()
	}()
	select {
	case <-a.begun:
	case <-r.Context().Done():
		return nil, r.Context().Err()
	}
	return &http.Response{
		Status: http.StatusText(a.status), StatusCode: a.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: a.sent, Body: reader, ContentLength: -1, Request: r,
	}, nil
}

// serve serves one request and returns what broke the answer off, nil when it is whole. As with net/http a handler
// that panics, be it with http.ErrAbortHandler, costs this answer and no more.
func (t Transport) serve(a *answer, r *http.Request) (broken error) {
	defer func() {
		if p := recover(); p != nil {
			broken = io.ErrUnexpectedEOF
			a.begin(http.StatusInternalServerError)
		}
	}()
	t.Handler.ServeHTTP(a, r)
	a.begin(http.StatusOK)
	a.body.Flush() //nolint:errcheck // the reader has gone, which is its right
	return nil
}

// answer is the ResponseWriter of one request.
type answer struct {
	header http.Header
	body   *bufio.Writer
	once   sync.Once
	begun  chan struct{} // closed when status and sent are set
	status int
	sent   http.Header
}

func (a *answer) Header() http.Header { return a.header }

func (a *answer) begin(status int) {
	a.once.Do(func() {
		a.status, a.sent = status, a.header.Clone()
		close(a.begun)
	})
}

func (a *answer) WriteHeader(status int) { a.begin(status) }

func (a *answer) Write(b []byte) (int, error) {
	a.begin(http.StatusOK)
	return a.body.Write(b)
}

// Flush sends what was written so far.
func (a *answer) Flush() {
	a.begin(http.StatusOK)
	a.body.Flush() //nolint:errcheck // the reader has gone, which is its right
}
