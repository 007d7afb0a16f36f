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
func (e *Event) Sticky() time.Duration {
	value := canonjson.Get(e.JSON, stickyKey)
	if value == nil {
		return 0
	}
	ms, ok := canonjson.Int(canonjson.Get(value, "duration_ms"))
	if !ok || ms <= 0 {
		return 0
	}
	return time.Duration(min(ms, MaxSticky.Milliseconds())) * time.Millisecond
}
