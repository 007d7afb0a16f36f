package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
)

// webTimeout is for an answer of a server that is no homeserver.
const webTimeout = 10 * time.Second

var errNotHTTPS = errors.New("wire: not an HTTPS URL")

// Web gets a URL of something that is no homeserver, such as an identity server, without saying who asks. It must be
// HTTPS, and leads to networks that are allowed only, redirects too. The answer is JSON of at most maxAnswer bytes, as
// for Do, with the status 200; any other is an error.
//
// With Config.Transport the request goes through that, and redirects are not followed.
func (c *Client) Web(ctx context.Context, address string, maxAnswer int64) (Answer, error) {
	resp, end, err := c.askWeb(ctx, address, "application/json", webTimeout)
	if err != nil {
		return Answer{}, err
	}
	defer end()
	return webAnswer(resp, maxAnswer)
}

// askWeb begins what Web and WebStream do. end closes the answer, which takes at most d.
func (c *Client) askWeb(ctx context.Context, address, accept string, d time.Duration) (_ *http.Response, end func(), err error) {
	target, err := url.Parse(address)
	if err != nil || target.Scheme != "https" || target.Host == "" || target.User != nil {
		return nil, nil, errNotHTTPS
	}
	if c.closing.Err() != nil {
		return nil, nil, ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, d)
	stop := context.AfterFunc(c.closing, cancel)
	end = func() { stop(); cancel() }
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target.String(), nil)
	if err != nil {
		end()
		return nil, nil, err
	}
	req.Header.Set("User-Agent", c.cfg.UserAgent)
	req.Header.Set("Accept", accept)
	resp, err := c.web().Do(req)
	if err != nil {
		end()
		return nil, nil, err
	}
	end = func() { stop(); resp.Body.Close(); cancel() }
	if resp.StatusCode != http.StatusOK {
		defer end()
		return nil, nil, fmt.Errorf("wire: %s answered %s", resp.Request.URL.Host, resp.Status)
	}
	return resp, end, nil
}

func (c *Client) web() *http.Client {
	if c.resolver != nil {
		return c.resolver.web
	}
	return &http.Client{
		Transport:     c.transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func webAnswer(resp *http.Response, maxAnswer int64) (Answer, error) {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err != nil:
		return Answer{}, err
	case int64(len(body)) > maxAnswer:
		return Answer{}, ErrTooLarge
	}
	return Answer{Status: resp.StatusCode, Header: resp.Header, Body: body}, canonjson.CheckLenient(body)
}

// WebStream gets a file of something that is no homeserver, under the same rules as Web. It returns the body, of at most
// maxAnswer bytes, which must be closed, and its Content-Type.
func (c *Client) WebStream(ctx context.Context, address string, maxAnswer int64) (io.ReadCloser, string, error) {
	resp, end, err := c.askWeb(ctx, address, "*/*", streamTimeout)
	if err != nil {
		return nil, "", err
	}
	return &webBody{resp.Body, maxAnswer, end}, resp.Header.Get("Content-Type"), nil
}

// webBody is a body that is bounded.
type webBody struct {
	of   io.Reader
	left int64
	end  func()
}

func (b *webBody) Read(p []byte) (int, error) {
	n, err := b.of.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, ErrTooLarge
	}
	return n, err
}

func (b *webBody) Close() error {
	b.end()
	return nil
}
