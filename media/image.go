package media

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"io"
	"mime"
	"slices"

	"golang.org/x/image/draw"
	"golang.org/x/image/webp"
)

var (
	errNoPicture     = errors.New("media: not an image of a kind that is known here, or damaged")
	errTooManyPixels = errors.New("media: the image has too many pixels")
)

// baseType is a content type without its parameters, "" for what is none.
func baseType(kind string) string {
	base, _, err := mime.ParseMediaType(kind)
	if err != nil {
		return ""
	}
	return base
}

// canThumbnail reports whether thumbnails are made of files of a type.
func canThumbnail(kind string) bool {
	return slices.Contains([]string{"image/jpeg", "image/jpg", "image/png", "image/gif", "image/webp"}, baseType(kind))
}

// extension is how the name of a thumbnail ends.
func extension(kind string) string {
	return map[string]string{"image/jpeg": ".jpg", "image/png": ".png", "image/gif": ".gif", "image/webp": ".webp"}[baseType(kind)]
}

// picture is an encoded image.
type picture struct {
	data []byte // nil: the file itself will do
	kind string
}

// format is a kind of image that can be read.
type format struct {
	magic  string // '?' is any byte
	config func(io.Reader) (image.Config, error)
	decode func(io.Reader) (image.Image, error)
	kind   string
}

var formats = []format{
	{"\xff\xd8\xff", jpeg.DecodeConfig, jpeg.Decode, "image/jpeg"},
	{"\x89PNG\r\n\x1a\n", png.DecodeConfig, png.Decode, "image/png"},
	{"GIF8?a", gif.DecodeConfig, gif.Decode, "image/gif"},
	{"RIFF????WEBP", configOfWebP, webp.Decode, "image/webp"},
}

// formatOf tells a file's format by its first bytes, whatever its sender called it.
func formatOf(head []byte) (format, bool) {
	for _, f := range formats {
		if len(head) >= len(f.magic) && matches(f.magic, head) {
			return f, true
		}
	}
	return format{}, false
}

func matches(magic string, head []byte) bool {
	for i := range len(magic) {
		if magic[i] != '?' && magic[i] != head[i] {
			return false
		}
	}
	return true
}

// drawn makes a thumbnail of the image that open reads. It is read twice: nothing is decoded before it is known to have
// no more than maxPixels.
func drawn(open func() (io.ReadCloser, error), size ThumbnailSize, maxPixels int64) (picture, error) {
	f, config, err := measured(open)
	if err != nil {
		return picture{}, err
	}
	if int64(config.Width)*int64(config.Height) > maxPixels {
		return picture{}, errTooManyPixels
	}
	if f.kind == "image/gif" && size.Animated {
		p, err := drawnMoving(open, config, size, maxPixels)
		if !errors.Is(err, errTooManyPixels) {
			return p, err
		}
	}
	return drawnStill(open, f, config, size)
}

// measured tells the format and the extent of an image.
func measured(open func() (io.ReadCloser, error)) (f format, config image.Config, err error) {
	body, err := open()
	if err != nil {
		return f, config, err
	}
	defer body.Close()
	r := bufio.NewReader(body)
	head, _ := r.Peek(16)
	f, ok := formatOf(head)
	if !ok {
		return f, config, errNoPicture
	}
	config, err = f.config(r)
	if err != nil || config.Width <= 0 || config.Height <= 0 {
		return f, config, errNoPicture
	}
	return f, config, nil
}

// maxHeader is how many bytes of a JPEG are looked at for the camera's orientation.
const maxHeader = 256 << 10

// drawnStill makes a thumbnail that does not move.
func drawnStill(open func() (io.ReadCloser, error), f format, config image.Config, size ThumbnailSize) (picture, error) {
	body, err := open()
	if err != nil {
		return picture{}, err
	}
	defer body.Close()
	r := bufio.NewReaderSize(body, maxHeader)
	head, _ := r.Peek(maxHeader)
	turned := 1
	if f.kind == "image/jpeg" {
		turned = orientation(head)
	}
	if turned >= 5 { // lies on its side
		size.Width, size.Height = size.Height, size.Width
	}
	bounds := image.Rect(0, 0, config.Width, config.Height)
	if from, to := plan(bounds, size); from == bounds && to == bounds && turned == 1 && !moves(f.kind, head) {
		return picture{kind: f.kind}, nil
	}
	full, err := decoded(f, head, r)
	if err != nil {
		return picture{}, fmt.Errorf("%w: %v", errNoPicture, err)
	}
	from, to := plan(full.Bounds(), size)
	return encoded(turn(shrunk(full, from, to), turned), f.kind)
}

// decoded decodes an image: of one that moves, how it begins.
func decoded(f format, head []byte, r io.Reader) (image.Image, error) {
	if f.kind == "image/webp" && moves(f.kind, head) {
		return firstOfWebP(r)
	}
	return f.decode(r)
}

// shrunk makes a part of an image smaller. It is halved, by the mean of four pixels each, until less than half of that is
// left to do: so every pixel counts, and no more memory is taken than a quarter of the image.
func shrunk(full image.Image, from, to image.Rectangle) *image.RGBA {
	for from.Dx() >= 2*to.Dx() && from.Dy() >= 2*to.Dy() && !to.Empty() {
		half := image.NewRGBA(image.Rect(0, 0, from.Dx()/2, from.Dy()/2))
		draw.ApproxBiLinear.Scale(half, half.Bounds(), full, from, draw.Src, nil)
		full, from = half, half.Bounds()
	}
	small := image.NewRGBA(to)
	draw.ApproxBiLinear.Scale(small, to, full, from, draw.Src, nil)
	return small
}

// plan says which part of an image becomes an image of which extent. It is never larger than that part.
func plan(full image.Rectangle, size ThumbnailSize) (from, to image.Rectangle) {
	width, height := full.Dx(), full.Dy()
	if !size.Crop {
		w, h := within(width, height, size.Width, size.Height)
		return full, image.Rect(0, 0, w, h)
	}
	// The largest part in the middle that has the shape of what is asked for.
	w, h := width, max(1, width*size.Height/size.Width)
	if h > height {
		w, h = max(1, height*size.Width/size.Height), height
	}
	corner := full.Min.Add(image.Pt((width-w)/2, (height-h)/2))
	from = image.Rectangle{corner, corner.Add(image.Pt(w, h))}
	return from, image.Rect(0, 0, min(w, size.Width), min(h, size.Height))
}

// within is the largest extent of the same shape that fits in a box, and never a larger one.
func within(width, height, maxWidth, maxHeight int) (int, int) {
	if width <= maxWidth && height <= maxHeight {
		return width, height
	}
	if int64(width)*int64(maxHeight) > int64(height)*int64(maxWidth) {
		return maxWidth, max(1, int(int64(height)*int64(maxWidth)/int64(width)))
	}
	return max(1, int(int64(width)*int64(maxHeight)/int64(height))), maxHeight
}

// encoded encodes a thumbnail: photographs as JPEG, what has transparent parts, or was drawn, as PNG.
func encoded(m *image.RGBA, from string) (picture, error) {
	var out bytes.Buffer
	if m.Opaque() && (from == "image/jpeg" || from == "image/webp") {
		err := jpeg.Encode(&out, m, &jpeg.Options{Quality: 82})
		return picture{out.Bytes(), "image/jpeg"}, err
	}
	err := png.Encode(&out, m)
	return picture{out.Bytes(), "image/png"}, err
}

// drawnMoving makes a thumbnail of an animation that moves; errTooManyPixels if its frames together have too many.
func drawnMoving(open func() (io.ReadCloser, error), config image.Config, size ThumbnailSize, maxPixels int64) (picture, error) {
	body, err := open()
	if err != nil {
		return picture{}, err
	}
	defer body.Close()
	var whole bytes.Buffer
	frames, err := gifFrames(io.TeeReader(body, &whole), maxAnimation)
	if err != nil {
		return picture{}, err
	}
	if frames*int64(config.Width)*int64(config.Height) > maxPixels {
		return picture{}, errTooManyPixels
	}
	full, err := gif.DecodeAll(&whole)
	if err != nil {
		return picture{}, fmt.Errorf("%w: %v", errNoPicture, err)
	}
	return scaledGIF(full, size)
}

// maxAnimation is how many bytes an animation may have of which a moving thumbnail is made.
const maxAnimation = 32 << 20

// scaledGIF makes every frame smaller, as it is seen: drawn over those before it.
func scaledGIF(full *gif.GIF, size ThumbnailSize) (picture, error) {
	bounds := image.Rect(0, 0, full.Config.Width, full.Config.Height)
	from, to := plan(bounds, size)
	if from == bounds && to.Size() == from.Size() {
		return picture{kind: "image/gif"}, nil
	}
	small := &gif.GIF{LoopCount: full.LoopCount, Delay: full.Delay}
	canvas := image.NewRGBA(bounds)
	for i, frame := range full.Image {
		var before []byte
		if disposalOf(full, i) == gif.DisposalPrevious {
			before = slices.Clone(canvas.Pix)
		}
		draw.Draw(canvas, frame.Bounds(), frame, frame.Bounds().Min, draw.Over)
		small.Image = append(small.Image, paletted(shrunk(canvas, from, to), withTransparent(frame.Palette)))
		small.Disposal = append(small.Disposal, gif.DisposalBackground)
		switch disposalOf(full, i) {
		case gif.DisposalBackground:
			draw.Draw(canvas, frame.Bounds(), image.Transparent, image.Point{}, draw.Src)
		case gif.DisposalPrevious:
			copy(canvas.Pix, before)
		}
	}
	var out bytes.Buffer
	err := gif.EncodeAll(&out, small)
	return picture{out.Bytes(), "image/gif"}, err
}

func disposalOf(g *gif.GIF, i int) byte {
	if i < len(g.Disposal) {
		return g.Disposal[i]
	}
	return gif.DisposalNone
}

// paletted draws an image in the colours of a palette. Colours that are alike but for their lowest bits become one, so
// that each is looked for once, not in every pixel.
func paletted(m *image.RGBA, p color.Palette) *image.Paletted {
	out := image.NewPaletted(m.Bounds(), p)
	var known [1 << 16]uint16 // one more than the index; 0: not looked for yet
	for at := range out.Pix {
		c := color.RGBA{m.Pix[4*at], m.Pix[4*at+1], m.Pix[4*at+2], m.Pix[4*at+3]}
		if c.A < 0x80 {
			c = color.RGBA{}
		}
		key := uint16(c.R>>3)<<11 | uint16(c.G>>3)<<6 | uint16(c.B>>3)<<1 | uint16(c.A>>7)
		if known[key] == 0 {
			known[key] = 1 + uint16(p.Index(c))
		}
		out.Pix[at] = byte(known[key] - 1)
	}
	return out
}

// withTransparent is a palette in which there is something transparent.
func withTransparent(p color.Palette) color.Palette {
	for _, c := range p {
		if _, _, _, a := c.RGBA(); a == 0 {
			return p
		}
	}
	p = slices.Clone(p)
	if len(p) == 256 {
		p = p[:255]
	}
	return append(p, color.Transparent)
}

// gifFrames counts the frames of a GIF without decoding them; errTooManyPixels if it has more than limit bytes.
//
// Spec: https://www.w3.org/Graphics/GIF/spec-gif89a.txt
func gifFrames(r io.Reader, limit int64) (frames int64, err error) {
	limited := &io.LimitedReader{R: r, N: limit}
	g := &gifReader{r: bufio.NewReader(limited)}
	g.skip(6 + 4)
	flags := g.byte()
	g.skip(2)
	g.palette(flags)
	for g.err == nil {
		switch g.byte() {
		case 0x21: // extension
			g.skip(1)
			g.blocks()
		case 0x2c: // image descriptor
			frames++
			g.skip(8)
			g.palette(g.byte())
			g.skip(1)
			g.blocks()
		case 0x3b: // trailer
			_, err := io.Copy(io.Discard, g.r)
			return frames, err
		default:
			return frames, errNoPicture
		}
	}
	switch {
	case errors.Is(g.err, io.EOF) && limited.N == 0:
		return frames, errTooManyPixels
	case errors.Is(g.err, io.EOF):
		return frames, errNoPicture
	}
	return frames, g.err
}

// gifReader reads over what does not matter. Its first error stays.
type gifReader struct {
	r   *bufio.Reader
	err error
}

func (g *gifReader) skip(n int) {
	if g.err == nil {
		_, g.err = g.r.Discard(n)
	}
}

func (g *gifReader) byte() byte {
	if g.err != nil {
		return 0
	}
	var b byte
	b, g.err = g.r.ReadByte()
	return b
}

// palette reads over the colours that flags announce.
func (g *gifReader) palette(flags byte) {
	if flags&0x80 != 0 {
		g.skip(3 << (flags&7 + 1))
	}
}

// blocks reads over blocks, up to an empty one.
func (g *gifReader) blocks() {
	for n := g.byte(); g.err == nil && n > 0; n = g.byte() {
		g.skip(int(n))
	}
}
