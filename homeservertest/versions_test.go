package homeservertest_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

// unstableRoutes are what the unstable features that are told are served by: a part of a route's path, or "" for those
// that are no endpoint of their own, of which the note says where they are proved.
var unstableRoutes = map[string]string{
	"org.matrix.msc2285.stable":                      "/receipt/{receiptType}",
	"org.matrix.msc3391":                             "/unstable/org.matrix.msc3391/",
	"org.matrix.msc3440.stable":                      "/threads",
	"org.matrix.msc3771":                             "/receipt/{receiptType}",
	"org.matrix.msc3773":                             "/sync", // unread notifications of threads
	"org.matrix.msc3814":                             "/unstable/org.matrix.msc3814.v1/",
	"org.matrix.msc3827.stable":                      "/publicRooms", // rooms by their types: rooms.TestPublicRoomsFilter
	"org.matrix.msc3874":                             "/messages",    // filters by rel_type
	"org.matrix.msc3912":                             "/redact/",
	"org.matrix.msc3981":                             "/relations/{eventId}",
	"org.matrix.msc4140":                             "/unstable/org.matrix.msc4140/",
	"org.matrix.msc4143":                             "/unstable/org.matrix.msc4143/",
	"org.matrix.msc4155":                             "/invite", // rooms.TestInviteFilter
	"org.matrix.msc4293":                             "/ban",    // rooms.TestBanWithEverything
	"org.matrix.msc4306":                             "/unstable/io.element.msc4306/",
	"org.matrix.msc4354":                             "/send/{eventType}", // events that stick
	"uk.half-shot.msc2666.query_mutual_rooms":        "/unstable/uk.half-shot.msc2666/",
	"uk.half-shot.msc2666.query_mutual_rooms.stable": "/v1/mutual_rooms",
	"uk.tcpip.msc4133":                               "/unstable/uk.tcpip.msc4133/",
	"uk.tcpip.msc4133.stable":                        "/v3/profile/{userId}/{keyName}",
}

// SB-25, SB-26: what /versions tells is served.
func TestWhatIsToldIsServed(t *testing.T) {
	hs := homeservertest.New(t)
	told := hs.Client("").Do("GET", "/_matrix/client/versions", nil).WantOK()
	all := rows(t, packages(t))
	for feature, on := range told.Get("unstable_features").Map() {
		if !on.Bool() {
			continue
		}
		part, known := unstableRoutes[feature]
		if !known && strings.HasPrefix(feature, "org.matrix.msc") {
			part = "/unstable/" + feature + "/"
		}
		served := slices.ContainsFunc(all, func(r *row) bool {
			return slices.ContainsFunc(r.patterns(), func(p string) bool { return strings.Contains(p, part) })
		})
		require.True(t, served && part != "", "%s is told, and nothing serves it", feature)
	}
	versions := told.Get("versions").Array()
	require.Equal(t, "v1.19", versions[len(versions)-1].String())
}
