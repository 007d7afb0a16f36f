package rooms

import (
	"time"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// stickyParameter is for how many milliseconds an event is to be sticky.
const stickyParameter = "org.matrix.msc4354.sticky_duration_ms"

// stickiness reads for how long the event of a request is to be sticky; 0 is not at all. What is longer than an event may
// be sticky counts as that.
//
// Spec: https://github.com/matrix-org/matrix-spec-proposals/pull/4354
func stickiness(c *httpapi.Call) (time.Duration, error) {
	ms, err := c.Int64(stickyParameter, 0)
	if err == nil && ms < 0 {
		err = mxerr.InvalidParam.With("%s is negative", stickyParameter)
	}
	return time.Duration(min(ms, event.MaxSticky.Milliseconds())) * time.Millisecond, err
}
