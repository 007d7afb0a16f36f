package federation

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

type nobody struct{}

func (nobody) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, errors.New("nobody answers")
}

// FuzzMediaAnswer: whatever another server answers, a file of it has no more bytes than are wanted, and a name without a
// path.
func FuzzMediaAnswer(f *testing.F) {
	const kind = "multipart/mixed; boundary=b"
	file := func(header string) []byte {
		return []byte("--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n" + header + "\r\nthe file\r\n--b--")
	}
	f.Add(kind, file("Content-Type: text/plain\r\nContent-Disposition: inline; filename=\"../x\"\r\n"))
	f.Add(kind, file("Location: https://name.example/x\r\n"))
	f.Add(kind, []byte("--b\r\n\r\n{}\r\n--b--"))
	f.Add("multipart/mixed", []byte("--\r\n"))
	f.Add("text/plain", []byte("x"))
	client := &Client{Wire: wire.NewClient(wire.Config{Origin: "hs.test", Transport: nobody{}})}
	f.Fuzz(func(t *testing.T, kind string, answer []byte) {
		const limit = 5
		body := io.NopCloser(bytes.NewReader(answer))
		got, err := client.multipart(t.Context(), &wire.Stream{Header: http.Header{"Content-Type": {kind}}, Body: body}, limit)
		if err != nil {
			return
		}
		data, err := io.ReadAll(got.Body)
		if len(data) > limit || err == nil && len(data) > len(answer) {
			t.Fatalf("%d bytes, %v", len(data), err)
		}
		if len(data) == limit && err != nil && !errors.Is(err, mxerr.TooLarge) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
		if strings.ContainsAny(got.Name, `/\`) {
			t.Fatalf("%q", got.Name)
		}
		if err := got.Body.Close(); err != nil {
			t.Fatal(err)
		}
	})
}
