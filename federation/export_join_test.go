package federation

import (
	"bytes"
	"testing/iotest"

	"github.com/embedmatrix/homeserver/rooms"
)

// ReadJoinAnswer is readJoinAnswer.
func ReadJoinAnswer(raw []byte) (*rooms.JoinAnswer, error) {
	return readJoinAnswer(bytes.NewReader(raw))
}

// ReadSlowJoinAnswer is readJoinAnswer of what comes byte by byte.
func ReadSlowJoinAnswer(raw []byte) (*rooms.JoinAnswer, error) {
	return readJoinAnswer(iotest.OneByteReader(bytes.NewReader(raw)))
}

// JoinAnswer is an answer to /send_join.
func JoinAnswer(entered *rooms.Entered) []byte { return (&joined{Entered: entered}).AppendJSON(nil) }
