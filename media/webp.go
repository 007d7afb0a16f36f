package media

import (
	"bytes"
	"encoding/binary"
	"errors"
	"image"
	"io"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

// "If animated is false the server MUST NOT return an animated thumbnail": so it has to be known of an image that is small
// enough whether it moves, and how what moves begins.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#get_matrixclientv1mediathumbnailservernamemediaid

// moves reports whether an image of a kind may move, by its first bytes.
func moves(kind string, head []byte) bool {
	switch kind {
	case "image/gif":
		return true
	case "image/png":
		return movesPNG(head)
	case "image/webp":
		return len(head) > 20 && string(head[12:16]) == "VP8X" && head[20]&animatedWebP != 0
	}
	return false
}

// movesPNG looks for an animation's chunk in front of the picture. What is not certain moves.
//
// Spec: https://www.w3.org/TR/png-3/#acTL-chunk
func movesPNG(head []byte) bool {
	for at := int64(8); at+8 <= int64(len(head)); {
		switch string(head[at+4 : at+8]) {
		case "acTL":
			return true
		case "IDAT":
			return false
		}
		at += 12 + int64(binary.BigEndian.Uint32(head[at:]))
	}
	return true
}

// errNoWebP is what a WebP is answered with that is none, or whose parts do not fit together.
var errNoWebP = errors.New("media: not a WebP")

// webpReader reads the chunks of a WebP.
//
// Spec: https://developers.google.com/speed/webp/docs/riff_container
type webpReader struct {
	r      io.Reader
	canvas image.Point // of the extended format, whose head comes first
	moving bool        // the picture is an animation
}

// configOfWebP tells the extent of a WebP. It has looked at the picture itself too, or at an animation's first frame: it is
// not larger than what the file says of it.
func configOfWebP(r io.Reader) (config image.Config, err error) {
	w := &webpReader{r: r}
	name, body, err := w.picture()
	if err != nil {
		return config, err
	}
	size := w.canvas
	if w.moving {
		_, _, err = w.frame(body)
	} else if size, err = pictureSize(name, body); w.canvas != (image.Point{}) && w.canvas != size {
		err = errNoWebP
	}
	return image.Config{Width: size.X, Height: size.Y}, err
}

// picture goes to the chunk with the picture, or with the first frame of an animation.
func (w *webpReader) picture() (name string, body io.Reader, err error) {
	var riff [12]byte
	if _, err := io.ReadFull(w.r, riff[:]); err != nil {
		return "", nil, err
	}
	for first := true; ; first = false {
		name, body, err := nextChunk(w.r)
		switch {
		case err != nil:
			return "", nil, err
		case w.moving && name == "ANMF", !w.moving && (name == "VP8 " || name == "VP8L"):
			return name, body, nil
		case name == "VP8X" && !first:
			return "", nil, errNoWebP
		case name == "VP8X":
			if err := w.extend(body); err != nil {
				return "", nil, err
			}
		}
		if _, err := io.Copy(io.Discard, body); err != nil {
			return "", nil, err
		}
	}
}

// extend reads the head of the extended format.
func (w *webpReader) extend(body io.Reader) error {
	var x [10]byte
	if _, err := io.ReadFull(body, x[:]); err != nil {
		return err
	}
	w.moving, w.canvas = x[0]&animatedWebP != 0, image.Pt(1+int24(x[4:]), 1+int24(x[7:]))
	return nil
}

// animatedWebP says in the head of the extended format that the file is an animation.
const animatedWebP = 2

// frame reads a frame of an animation: its place on the canvas, and the picture as a file of its own. That is as large as
// the frame says.
func (w *webpReader) frame(body io.Reader) (at image.Rectangle, file []byte, err error) {
	data, err := io.ReadAll(io.LimitReader(body, maxAnimation))
	if err != nil || len(data) < 16 {
		return at, nil, errNoWebP
	}
	at = image.Rect(0, 0, 1+int24(data[6:]), 1+int24(data[9:])).Add(image.Pt(2*int24(data), 2*int24(data[3:])))
	if !at.In(image.Rectangle{Max: w.canvas}) {
		return at, nil, errNoWebP
	}
	name, picture, alpha, err := pictureIn(data[16:])
	if err != nil {
		return at, nil, err
	}
	if size, err := pictureSize(name, picture); err != nil || size != at.Size() {
		return at, nil, errNoWebP
	}
	file = []byte("RIFF\xff\xff\xff\x7fWEBPVP8X\x0a\x00\x00\x00\x00\x00\x00\x00")
	if alpha {
		file[20] = 0x10
	}
	return at, append(append(file, data[6:12]...), data[16:]...), nil
}

// pictureIn finds the picture among the chunks of a frame, and whether another one says how transparent it is.
func pictureIn(chunks []byte) (name string, picture io.Reader, alpha bool, err error) {
	r := bytes.NewReader(chunks)
	for {
		name, picture, err = nextChunk(r)
		if err != nil || name == "VP8 " || name == "VP8L" {
			return name, picture, alpha, err
		}
		alpha = alpha || name == "ALPH"
		if _, err := io.Copy(io.Discard, picture); err != nil {
			return "", nil, false, err
		}
	}
}

// nextChunk reads the head of a chunk. Its body ends with the byte that makes its length even.
func nextChunk(r io.Reader) (name string, body io.Reader, err error) {
	var head [8]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", nil, errNoWebP
	}
	size := int64(binary.LittleEndian.Uint32(head[4:]))
	return string(head[:4]), io.LimitReader(r, size+size&1), nil
}

// pictureSize tells the extent of a picture by its own head.
//
// Spec: https://www.rfc-editor.org/rfc/rfc6386#section-9.1 and https://www.rfc-editor.org/rfc/rfc9649#section-3.4
func pictureSize(name string, body io.Reader) (size image.Point, err error) {
	var head [10]byte
	switch name {
	case "VP8 ":
		if _, err := io.ReadFull(body, head[:]); err != nil {
			return size, errNoWebP
		}
		return image.Pt(int(binary.LittleEndian.Uint16(head[6:])&0x3fff), int(binary.LittleEndian.Uint16(head[8:])&0x3fff)), nil
	case "VP8L":
		if _, err := io.ReadFull(body, head[:5]); err != nil {
			return size, errNoWebP
		}
		bits := binary.LittleEndian.Uint32(head[1:])
		return image.Pt(1+int(bits&0x3fff), 1+int(bits>>14&0x3fff)), nil
	}
	return size, errNoWebP
}

// firstOfWebP decodes the first frame of an animated WebP, on its canvas.
func firstOfWebP(r io.Reader) (image.Image, error) {
	w := &webpReader{r: r}
	_, body, err := w.picture()
	if err != nil || !w.moving {
		return nil, errNoWebP
	}
	at, file, err := w.frame(body)
	if err != nil {
		return nil, err
	}
	m, err := webp.Decode(bytes.NewReader(file))
	if err != nil || at == (image.Rectangle{Max: w.canvas}) {
		return m, err
	}
	out := image.NewRGBA(image.Rectangle{Max: w.canvas})
	draw.Draw(out, at, m, m.Bounds().Min, draw.Src)
	return out, nil
}

func int24(b []byte) int { return int(b[0]) | int(b[1])<<8 | int(b[2])<<16 }
