package sqlite

import (
	"bytes"
	_ "embed" // for the image
	"encoding/binary"

	"github.com/embedmatrix/homeserver/storage"
)

//go:generate go test -run TestImage -update .

// image is a new, migrated database, so that one in memory starts without running the migrations. It
// begins with the sum of the migrations that made it; see packed for the rest.
//
//go:embed image.bin
var image []byte

// pageSize is that of the image, in bytes.
const pageSize = 4096

// emptyImage is a new, migrated database; nil when the image is not of the migrations as they are.
func emptyImage() []byte {
	if len(image) < 4 || binary.BigEndian.Uint32(image) != storage.MigrationsSum() {
		return nil
	}
	return unpacked(image[4:])
}

// packed shortens a database: of each page it keeps what stands before and after the longest run of zeros,
// each behind its length in two bytes.
func packed(db []byte) []byte {
	var out []byte
	for len(db) >= pageSize {
		head, tail := aroundZeros(db[:pageSize])
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(head))), head...)
		out = append(binary.BigEndian.AppendUint16(out, uint16(len(tail))), tail...)
		db = db[pageSize:]
	}
	return out
}

// aroundZeros cuts the longest run of zeros out of a page.
func aroundZeros(page []byte) (head, tail []byte) {
	start, length := 0, 0
	for i := 0; i < len(page); i++ {
		n := len(page[i:]) - len(bytes.TrimLeft(page[i:], "\x00"))
		if n > length {
			start, length = i, n
		}
		i += n
	}
	return page[:start], page[start+length:]
}

// unpacked undoes packed.
func unpacked(in []byte) []byte {
	out := make([]byte, 0, pages(in)*pageSize)
	next := func() []byte {
		n := binary.BigEndian.Uint16(in)
		part := in[2 : 2+n]
		in = in[2+n:]
		return part
	}
	for len(in) > 0 {
		head, tail := next(), next()
		out = append(out, head...)
		out = out[:len(out)+pageSize-len(head)-len(tail)] // new memory is zero
		out = append(out, tail...)
	}
	return out
}

// pages counts the pages of a packed database.
func pages(in []byte) int {
	n := 0
	for ; len(in) > 0; n++ {
		in = in[2+binary.BigEndian.Uint16(in):]
		in = in[2+binary.BigEndian.Uint16(in):]
	}
	return n
}
