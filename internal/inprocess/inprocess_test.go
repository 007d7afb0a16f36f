package inprocess_test

import (
	"context"
	"io"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/inprocess"
)

// A handler that breaks its answer off costs the client the answer, and not the host its process.
func TestPanic(t *testing.T) {
	for _, half := range []string{"", "half"} {
		client := &http.Client{Transport: inprocess.Transport{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if half != "" {
				io.WriteString(w, half) //nolint:errcheck // a test reads it
				w.(http.Flusher).Flush()
			}
			panic(http.ErrAbortHandler)
		})}}
		r, err := client.Get("http://x/")
		require.NoError(t, err)
		got, err := io.ReadAll(r.Body)
		require.ErrorIs(t, err, io.ErrUnexpectedEOF)
		require.Equal(t, half, string(got))
		require.NoError(t, r.Body.Close())
	}
}

// What is still to be read of an answer ends with the request, though the handler goes on.
func TestEnd(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	defer close(ended)
	r, err := http.NewRequestWithContext(ctx, "GET", "http://x/", nil)
	require.NoError(t, err)
	answer, err := inprocess.Transport{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, "half") //nolint:errcheck // a test reads it
		w.(http.Flusher).Flush()
		<-ended
	})}.RoundTrip(r)
	require.NoError(t, err)
	half := make([]byte, 4)
	_, err = io.ReadFull(answer.Body, half)
	require.NoError(t, err)
	cancel()
	_, err = answer.Body.Read(half)
	require.ErrorIs(t, err, context.Canceled)
}
