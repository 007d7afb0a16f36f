package media

import (
	"bytes"
	"encoding/binary"
	"image"
)

// orientation is how a camera was held, by the EXIF data at the beginning of a JPEG: 1 is upright, and what is not known
// is taken for that.
//
// Spec: https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf, 4.6.4 A
func orientation(head []byte) int {
	for head = head[min(2, len(head)):]; len(head) >= 4 && head[0] == 0xff; {
		marker, size := head[1], int(binary.BigEndian.Uint16(head[2:]))
		if marker == 0xda || size < 2 || len(head) < 2+size {
			return 1
		}
		if body, is := bytes.CutPrefix(head[4:2+size], []byte("Exif\x00\x00")); marker == 0xe1 && is {
			return tiffOrientation(body)
		}
		head = head[2+size:]
	}
	return 1
}

// tiffOrientation finds the tag 0x0112 in the first directory.
func tiffOrientation(tiff []byte) int {
	var order binary.ByteOrder = binary.BigEndian
	if bytes.HasPrefix(tiff, []byte("II")) {
		order = binary.LittleEndian
	}
	if len(tiff) < 8 {
		return 1
	}
	at := order.Uint32(tiff[4:])
	if uint64(at)+2 > uint64(len(tiff)) {
		return 1
	}
	entries := tiff[at+2:]
	for range order.Uint16(tiff[at:]) {
		if len(entries) < 12 {
			return 1
		}
		if order.Uint16(entries) == 0x0112 {
			if value := int(order.Uint16(entries[8:])); value >= 1 && value <= 8 {
				return value
			}
			return 1
		}
		entries = entries[12:]
	}
	return 1
}

// turn puts an image upright.
func turn(m *image.RGBA, orientation int) *image.RGBA {
	if orientation <= 1 {
		return m
	}
	w, h := m.Bounds().Dx(), m.Bounds().Dy()
	out := image.NewRGBA(image.Rect(0, 0, w, h))
	if orientation >= 5 {
		out = image.NewRGBA(image.Rect(0, 0, h, w))
	}
	for y := range h {
		for x := range w {
			to := turned(x, y, w, h, orientation)
			copy(out.Pix[out.PixOffset(to.X, to.Y):][:4], m.Pix[m.PixOffset(x, y):][:4])
		}
	}
	return out
}

// turned is where a pixel belongs.
func turned(x, y, w, h, orientation int) image.Point {
	switch orientation {
	case 2: // mirrored
		return image.Pt(w-1-x, y)
	case 3: // upside down
		return image.Pt(w-1-x, h-1-y)
	case 4:
		return image.Pt(x, h-1-y)
	case 5:
		return image.Pt(y, x)
	case 6: // its top is on the right
		return image.Pt(h-1-y, x)
	case 7:
		return image.Pt(h-1-y, w-1-x)
	case 8:
		return image.Pt(y, w-1-x)
	}
	return image.Pt(x, y)
}
