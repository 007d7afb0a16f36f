package rooms

import (
	"fmt"
	"io"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

const (
	letters      = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	roomIDLength = 18 // letters: 102 bits
)

// newRoomID makes the id of a room, or "" where it follows from the create event.
//
// Spec: https://spec.matrix.org/latest/appendices/#room-ids
func (s *Service) newRoomID(rules *roomversion.Rules) (id.RoomID, error) {
	if rules.RoomIDIsCreateHash {
		return "", nil
	}
	name, err := randomLetters(s.Rand, roomIDLength)
	if err != nil {
		return "", fmt.Errorf("make a room id: %w", err)
	}
	return id.ParseRoomID("!" + name + ":" + string(s.ServerName))
}

// randomLetters draws letters without a bias: bytes beyond the last whole alphabet are thrown away.
func randomLetters(rand io.Reader, n int) (string, error) {
	const whole = 256 / len(letters) * len(letters)
	text := make([]byte, 0, n)
	var buf [32]byte
	for {
		if _, err := io.ReadFull(rand, buf[:]); err != nil {
			return "", err
		}
		for _, b := range buf {
			if int(b) < whole && len(text) < n {
				text = append(text, letters[int(b)%len(letters)])
			}
		}
		if len(text) == n {
			return string(text), nil
		}
	}
}

// buildCreate makes the m.room.create event, which in version 12 makes the room's id.
func (s *Service) buildCreate(room id.RoomID, b *blueprint) (*event.Event, error) {
	key := ""
	return event.Build(event.Draft{
		Room: room, Sender: b.creator, Type: "m.room.create", StateKey: &key, Content: b.creation,
		Depth: 1, OriginServerTS: s.ownMillisecond(), Rules: b.rules,
	}, s.ServerName, s.Key)
}

// ownMillisecond returns the time, and never the same twice: in version 12 two rooms that a user wishes for in
// the same words at the same moment would otherwise be one.
func (s *Service) ownMillisecond() int64 {
	now := s.Now().UnixMilli()
	for {
		last := s.lastCreated.Load()
		if next := max(now, last+1); s.lastCreated.CompareAndSwap(last, next) {
			return next
		}
	}
}
