package event

import (
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
)

// MaxSticky is how long an event may be sticky.
//
// Spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
const MaxSticky = time.Hour

// stickyKey is the member of an event that says that it is sticky, while that is in no specification.
const stickyKey = "msc4354_sticky"

// Sticky returns for how long an event is to reach everybody in its room from when it was sent; 0 for one that says
// nothing of it, or not as it should be said. What is longer than MaxSticky counts as that.
func (e *Event) Sticky() time.Duration { return time.Duration(e.stickyMS) * time.Millisecond }

// readSticky reads the member that says so, nil when there is none.
func readSticky(value []byte) (ms int32) {
	if value == nil {
		return 0
	}
	n, ok := canonjson.Int(canonjson.Get(value, "duration_ms"))
	if !ok || n <= 0 {
		return 0
	}
	return int32(min(n, MaxSticky.Milliseconds()))
}

// appendSticky appends for clients for how long the event is sticky, if it is.
func (e *Event) appendSticky(dst []byte) []byte {
	if e.stickyMS == 0 {
		return dst
	}
	return append(appendInt(append(dst, `,"`+stickyKey+`":{"duration_ms":`...), int64(e.stickyMS)), '}')
}
