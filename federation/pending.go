package federation

import (
	"slices"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/id"
)

// Pending is a server to which something is to be sent, or is being sent.
type Pending struct {
	Server  id.ServerName
	RetryAt time.Time // of the next attempt, if the last one has failed; otherwise zero
}

// Pending returns the servers that have not got everything, by name.
func (s *Sender) Pending() []Pending {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []Pending
	for name, d := range s.destinations {
		switch d.phase {
		case idle:
		case pausing:
			list = append(list, Pending{Server: name, RetryAt: d.retryAt})
		default:
			list = append(list, Pending{Server: name})
		}
	}
	slices.SortFunc(list, func(a, b Pending) int { return strings.Compare(string(a.Server), string(b.Server)) })
	return list
}
