package media

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// ThumbnailSize says which image is to be made of another.
type ThumbnailSize struct {
	Width, Height  int
	Crop, Animated bool
}

// sizes are the thumbnails that are made: whoever asks for something between gets the next larger one, so that nobody
// fills the store with a thousand sizes of one image.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#thumbnails
var sizes = []struct{ width, height, square int }{
	{32, 32, 32}, {96, 96, 96}, {320, 240, 320}, {640, 480, 640}, {800, 600, 800}, {1600, 1200, 1600},
}

// whole is a thumbnail as large as the image: for what moves and is asked for still, in a size beyond all that are made.
var whole = ThumbnailSize{Width: 1 << 20, Height: 1 << 20}

// fitting is the smallest size that is made and not smaller than what is asked for; ok is false when there is none.
func fitting(asked ThumbnailSize) (made ThumbnailSize, ok bool) {
	for _, size := range sizes {
		made = ThumbnailSize{size.width, size.height, asked.Crop, asked.Animated}
		if asked.Crop {
			made.Width, made.Height = size.square, size.square
		}
		if asked.Width <= made.Width && asked.Height <= made.Height {
			return made, true
		}
	}
	return asked, false
}

// getContentThumbnail implements GET /_matrix/client/v1/media/thumbnail/{serverName}/{mediaId}.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid
func (s *Service) getContentThumbnail(w http.ResponseWriter, c *httpapi.Call) error {
	return s.downloadThumbnail(w, c, false)
}

// getContentThumbnailWithoutToken implements GET /_matrix/media/v3/thumbnail/{serverName}/{mediaId}.
//
// It is deprecated; see getContentWithoutToken.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixmediav3thumbnailservernamemediaid
func (s *Service) getContentThumbnailWithoutToken(w http.ResponseWriter, c *httpapi.Call) error {
	return s.downloadThumbnail(w, c, true)
}

func (s *Service) downloadThumbnail(w http.ResponseWriter, c *httpapi.Call, old bool) error {
	q, err := s.wanted(c, old)
	if err != nil {
		return err
	}
	size, err := sizeWanted(c)
	if err != nil {
		return err
	}
	c.ExtendDeadline(transferTime)
	out, err := s.thumbnail(c.Request.Context(), q, size)
	if err != nil {
		return err
	}
	out.public = old
	return s.serve(w, c.Request, out)
}

// sizeWanted reads which size is asked for.
func sizeWanted(c *httpapi.Call) (size ThumbnailSize, err error) {
	for _, p := range []struct {
		name string
		to   *int
	}{{"width", &size.Width}, {"height", &size.Height}} {
		if !c.HasQuery(p.name) {
			return size, mxerr.MissingParam.With("%s is missing", p.name)
		}
		if *p.to, err = c.Int(p.name, 0); err != nil {
			return size, err
		}
		if *p.to <= 0 {
			return size, mxerr.InvalidParam.With("%s is not positive", p.name)
		}
	}
	switch c.Query("method") {
	case "crop":
		size.Crop = true
	case "", "scale":
	default:
		return size, mxerr.InvalidParam.With("method is crop or scale")
	}
	size.Animated, err = c.Bool("animated", false)
	return size, err
}

// thumbnail returns an image that is made of a file, or the file itself when it is an image that is small enough.
func (s *Service) thumbnail(ctx context.Context, q Wanted, asked ThumbnailSize) (content, error) {
	m, err := s.find(ctx, q)
	if err != nil {
		return content{}, err
	}
	asked.Animated = asked.Animated && baseType(m.Type) == "image/gif" // whatever else does not move is made once
	size, ok := fitting(asked)
	switch {
	case !ok && (asked.Animated || baseType(m.Type) == "image/jpeg"):
		return original(m)
	case !ok:
		size = whole
	}
	t, err := s.made(ctx, m, size)
	if err != nil {
		return content{}, err
	}
	if t.File == "" {
		return original(m)
	}
	out := contentOf(m, "")
	out.key, out.size, out.kind, out.etag, out.disposition = t.File, t.Size, t.Type, t.File, disposition(t.Type, "thumbnail"+extension(t.Type))
	return out, nil
}

// original gives an image out as its own thumbnail: "the server MUST NOT upscale".
func original(m storage.Media) (content, error) {
	if !canThumbnail(m.Type) {
		return content{}, noThumbnail()
	}
	out := contentOf(m, "")
	out.disposition = disposition(m.Type, "thumbnail"+extension(m.Type))
	return out, nil
}

func noThumbnail() error { return mxerr.BadRequest.With("no thumbnail can be made of this file") }

// made returns a thumbnail that was made before, or makes it: once for all who ask at the same time.
func (s *Service) made(ctx context.Context, m storage.Media, size ThumbnailSize) (storage.Thumbnail, error) {
	t, err := s.knownThumbnail(ctx, m.File, size)
	if !errors.Is(err, storage.ErrNotFound) {
		return t, err
	}
	f, err := s.making.join(fmt.Sprint(m.File, size), func(f *flight[storage.Thumbnail]) {
		s.running.Go(func() { s.making.land(f, func() (storage.Thumbnail, error) { return s.make(s.closing, m, size) }) })
	})
	if err != nil {
		return t, err
	}
	return f.wait(ctx)
}

func (s *Service) knownThumbnail(ctx context.Context, of string, size ThumbnailSize) (t storage.Thumbnail, err error) {
	err = s.DB.Read(ctx, func(tx *storage.Tx) (err error) {
		t, err = tx.Thumbnail(of, size.Width, size.Height, size.Crop, size.Animated)
		return err
	})
	return t, err
}

// makeTime bounds how long a thumbnail may take, the waiting for its turn included.
const makeTime = time.Minute

// make makes a thumbnail and keeps it.
func (s *Service) make(ctx context.Context, m storage.Media, size ThumbnailSize) (t storage.Thumbnail, err error) {
	ctx, cancel := context.WithTimeout(ctx, makeTime)
	defer cancel()
	if t, err = s.knownThumbnail(ctx, m.File, size); !errors.Is(err, storage.ErrNotFound) {
		return t, err // it was made meanwhile
	}
	picture, err := s.draw(ctx, m, size)
	if err != nil {
		return t, s.undrawn(m, err)
	}
	t = storage.Thumbnail{Of: m.File, Width: size.Width, Height: size.Height, Crop: size.Crop, Animated: size.Animated, Type: picture.kind}
	if picture.data == nil {
		return t, s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error { return gone(tx.PutThumbnail(t)) })
	}
	u := Upload{Type: picture.kind, Size: int64(len(picture.data)), Body: bytes.NewReader(picture.data)}
	err = s.keep(ctx, u, -1, func(tx *storage.Tx, kept storage.Media) error {
		t.File, t.Size = kept.File, kept.Size
		return gone(tx.PutThumbnail(t))
	})
	return t, err
}

// gone: a file that was deleted while its thumbnail was made is not there.
func gone(err error) error {
	if errors.Is(err, storage.ErrNotFound) {
		return unknownFile()
	}
	return err
}

// draw makes a thumbnail, when it is its turn: pictures take much memory.
func (s *Service) draw(ctx context.Context, m storage.Media, size ThumbnailSize) (picture, error) {
	if !canThumbnail(m.Type) {
		return picture{}, errNoPicture
	}
	done, err := s.drawers.take(ctx, turnOf{most: maxDrawing})
	if err != nil {
		return picture{}, err
	}
	defer done()
	var broken error
	p, err := drawn(func() (io.ReadCloser, error) {
		body, err := s.open(ctx, m.File, 0)
		return noting{body, &broken}, err
	}, size, s.Limits.Pixels)
	if broken != nil { // the store is, not the picture
		err = fmt.Errorf("read file %s: %w", m.File, broken)
	}
	return p, err
}

// noting notes why a file could not be read to its end.
type noting struct {
	io.ReadCloser
	err *error
}

func (n noting) Read(p []byte) (int, error) {
	read, err := n.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		*n.err = err
	}
	return read, err
}

// undrawn is what is said when no thumbnail could be made.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid
func (s *Service) undrawn(m storage.Media, err error) error {
	switch {
	case errors.Is(err, errTooManyPixels) && m.Server == s.ServerName:
		return mxerr.TooLarge.With("the image is too large to make a thumbnail of it")
	case errors.Is(err, errTooManyPixels):
		return mxerr.TooLarge.WithStatus(http.StatusBadGateway).With("the image is too large to make a thumbnail of it")
	case errors.Is(err, errNoPicture):
		return noThumbnail()
	}
	return err
}
