package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"
)

// kind is a kind of write that the appliance promises to keep. Requests carry it in a header, for the liar.
type kind string

const kindHeader = "X-Write-Kind"

// client speaks as one device.
type client struct {
	base  string
	token string
	http  *http.Client
}

func newClient(base string) *client {
	return &client{base: base, http: &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{MaxIdleConnsPerHost: 4},
	}}
}

// as is the same server seen with another token.
func (c *client) as(token string) *client {
	other := *c
	other.token = token
	return &other
}

// refused is an answer that is no 2xx.
type refused struct {
	Kind    kind `json:"-"`
	Status  int
	Errcode string `json:"errcode"`
	Message string `json:"error"`
	Session string `json:"session"` // of user-interactive authentication
}

func (r *refused) Error() string {
	return fmt.Sprintf("[%s] refused: %d %s %s", r.Kind, r.Status, r.Errcode, r.Message)
}

func (c *client) read(ctx context.Context, path string, answer any) error {
	return c.do(ctx, "", "GET", path, nil, answer)
}

// do sends a request; k is empty if it is no covered write. A nil error means that the server acknowledged it, *refused
// that it did nothing, and any other error that nobody knows what it did.
func (c *client) do(ctx context.Context, k kind, method, path string, body, answer any) error {
	request, err := c.request(ctx, k, method, path, body)
	if err != nil {
		return err
	}
	response, err := c.http.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode >= 300 {
		return newRefused(k, response.StatusCode, data)
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(data, answer)
}

func newRefused(k kind, status int, body []byte) error {
	r := &refused{Kind: k, Status: status}
	if err := json.Unmarshal(body, r); err != nil {
		r.Message = fmt.Sprintf("%v: %s", err, body)
	}
	return r
}

func (c *client) request(ctx context.Context, k kind, method, path string, body any) (*http.Request, error) {
	var data io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		data = bytes.NewReader(text)
	}
	request, err := http.NewRequestWithContext(ctx, method, c.base+"/_matrix/client/v3"+path, data)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		request.Header.Set("Authorization", "Bearer "+c.token)
	}
	if k != "" {
		request.Header.Set(kindHeader, string(k))
	}
	return request, nil
}

// isRefused tells an answer of the server from a broken connection.
func isRefused(err error) (*refused, bool) {
	var refusal *refused
	ok := errors.As(err, &refusal)
	return refusal, ok
}

// pathf is Sprintf with its arguments escaped as path segments.
func pathf(format string, segments ...string) string {
	escaped := make([]any, len(segments))
	for i, segment := range segments {
		escaped[i] = url.PathEscape(segment)
	}
	return fmt.Sprintf(format, escaped...)
}
