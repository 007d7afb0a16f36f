package media

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// Previews tell what web pages say of themselves.
type Previews struct {
	// Client gets pages. It decides which addresses may be reached: whoever may ask for a preview lets this server
	// connect to where they want. It follows redirects within the same bounds.
	Client *http.Client

	// May returns nil for URLs that may be asked for.
	May func(*url.URL) error
}

// The bounds of a preview.
const (
	maxPage      = 1 << 20 // bytes of a page that are looked at
	maxURL       = 4096
	previewTime  = 8 * time.Second // for a page, and as much again for what it refers to
	previewFresh = time.Hour
	previewAgent = "embedmatrix (preview bot)"
)

// getURLPreview implements GET /_matrix/client/v1/media/preview_url.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediapreview_url
func (s *Service) getURLPreview(ctx context.Context, c *httpapi.Call, _ *httpapi.None) (*json.RawMessage, error) {
	if _, err := c.Int64("ts", 0); err != nil {
		return nil, err
	}
	page, err := s.pageWanted(c)
	if err != nil {
		return nil, err
	}
	c.ExtendDeadline(2 * previewTime)
	answer, err := s.preview(ctx, page)
	return (*json.RawMessage)(&answer), err
}

func (s *Service) pageWanted(c *httpapi.Call) (*url.URL, error) {
	if !c.HasQuery("url") {
		return nil, mxerr.MissingParam.With("url is missing")
	}
	text := c.Query("url")
	page, err := url.Parse(text)
	if err != nil || len(text) > maxURL || s.Previews.May(page) != nil {
		return nil, mxerr.InvalidParam.With("url is not one of which previews are made")
	}
	page.Fragment, page.RawFragment = "", ""
	return page, nil
}

// preview returns what is known of a page, as it was at most an hour ago. It is made once for all who ask at the same
// time.
func (s *Service) preview(ctx context.Context, page *url.URL) ([]byte, error) {
	hash := sha256.Sum256([]byte(page.String()))
	p, err := s.storedPreview(ctx, hash[:])
	if err == nil && s.Now().UnixMilli()-p.MadeMS < previewFresh.Milliseconds() {
		return told(p)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return nil, err
	}
	f, err := s.previewing.join(page.String(), func(f *flight[storage.Preview]) {
		s.running.Go(func() {
			s.previewing.land(f, func() (storage.Preview, error) { return s.look(s.closing, page, hash[:]) })
		})
	})
	if err != nil {
		return nil, err
	}
	if p, err = f.wait(ctx); err != nil {
		return nil, err
	}
	return told(p)
}

// told is the answer; a page that could not be read is an error, for the next hour too.
func told(p storage.Preview) ([]byte, error) {
	if len(p.Answer) == 0 {
		return nil, mxerr.Unknown.WithStatus(http.StatusBadGateway).With("the page could not be read")
	}
	return p.Answer, nil
}

func (s *Service) storedPreview(ctx context.Context, hash []byte) (p storage.Preview, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		p, err = tx.Preview(hash)
		return err
	})
	return p, err
}

// look reads a page and keeps what it tells, or that it cannot be read.
func (s *Service) look(ctx context.Context, page *url.URL, hash []byte) (p storage.Preview, err error) {
	card, err := s.read(ctx, page)
	if err != nil && ctx.Err() == nil {
		s.Log.DebugContext(ctx, "no preview", slog.String("host", page.Host), slog.Any("reason", err))
	}
	p.Answer, p.MadeMS = []byte{}, s.Now().UnixMilli()
	if err == nil {
		if p.Answer, err = json.Marshal(card); err != nil {
			return p, err
		}
	}
	old := p.MadeMS - previewFresh.Milliseconds()
	return p, s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error { return tx.PutPreview(hash, p, old) })
}

// card is what a preview says, by the names of OpenGraph.
//
// Spec: https://ogp.me/
type card map[string]any

// read reads a page: what it says of itself, or the image that it is.
func (s *Service) read(outer context.Context, page *url.URL) (card, error) {
	ctx, cancel := context.WithTimeout(outer, previewTime)
	defer cancel()
	resp, err := s.browse(ctx, page)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	switch {
	case strings.HasPrefix(kind, "image/"):
		c := card{}
		return c, s.addImage(ctx, c, resp)
	case kind == "text/html" || kind == "application/xhtml+xml":
		c, from := pageCard(resp.Request.URL, resp.Header.Get("Content-Type"), io.LimitReader(resp.Body, maxPage))
		s.complete(outer, c, from)
		return c, nil
	}
	return card{}, nil
}

// browse asks for a page or an image; an answer other than 2xx is an error.
func (s *Service) browse(ctx context.Context, u *url.URL) (*http.Response, error) {
	if err := s.Previews.May(u); err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", previewAgent)
	req.Header.Set("Accept-Language", "en, *;q=0.5")
	resp, err := s.Previews.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 != 2 {
		return nil, errors.Join(fmt.Errorf("%s answered %s", u.Host, resp.Status), resp.Body.Close())
	}
	return resp, nil
}

// complete adds what is elsewhere: the title by oEmbed if the page itself says too little, and the image.
func (s *Service) complete(ctx context.Context, c card, from references) {
	ctx, cancel := context.WithTimeout(ctx, previewTime)
	defer cancel()
	if from.oEmbed != nil && (c["og:title"] == nil || from.image == nil) {
		if err := s.addEmbed(ctx, c, &from); err != nil {
			s.Log.DebugContext(ctx, "no oEmbed", slog.Any("reason", err))
		}
	}
	if from.image == nil {
		return
	}
	resp, err := s.browse(ctx, from.image)
	if err == nil {
		defer resp.Body.Close()
		err = s.addImage(ctx, c, resp)
	}
	if err != nil {
		s.Log.DebugContext(ctx, "no image for a preview", slog.Any("reason", err))
	}
}

// addImage keeps an image, like a file of another server, and adds where it is.
func (s *Service) addImage(ctx context.Context, c card, resp *http.Response) error {
	kind := resp.Header.Get("Content-Type")
	if !canThumbnail(kind) {
		return fmt.Errorf("%q is no image that is shown", kind)
	}
	m, err := s.upload(ctx, Upload{Type: kind, Size: resp.ContentLength, Body: resp.Body}, s.Limits.Remote)
	if err != nil {
		return err
	}
	s.cache(ctx, m.Size)
	_, config, err := measured(func() (io.ReadCloser, error) { return s.open(ctx, m.File, 0) })
	if err != nil {
		return errors.Join(err, s.Delete(ctx, m.Server, m.ID))
	}
	c["og:image"], c["og:image:type"], c["matrix:image:size"] = s.uri(m.ID), kind, m.Size
	c["og:image:width"], c["og:image:height"] = config.Width, config.Height
	return nil
}

// addEmbed asks what a page tells by oEmbed.
//
// Spec: https://oembed.com/
func (s *Service) addEmbed(ctx context.Context, c card, from *references) error {
	resp, err := s.browse(ctx, from.oEmbed)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var e struct {
		Title     string `json:"title"`
		Author    string `json:"author_name"`
		Provider  string `json:"provider_name"`
		Thumbnail string `json:"thumbnail_url"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxPage)).Decode(&e); err != nil {
		return err
	}
	c.offer("og:title", e.Title)
	c.offer("og:title", e.Author)
	c.offer("og:site_name", e.Provider)
	if from.image == nil {
		from.image = reference(resp.Request.URL, e.Thumbnail)
	}
	return nil
}
