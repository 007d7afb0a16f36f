package federation

import (
	"bytes"

	"github.com/embedmatrix/homeserver/rooms"
)

// ReadJoinAnswer is readJoinAnswer.
func ReadJoinAnswer(raw []byte) (*rooms.JoinAnswer, error) {
	return readJoinAnswer(bytes.NewReader(raw))
}
