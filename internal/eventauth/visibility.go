package eventauth

import (
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
)

// The values of m.room.history_visibility.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#room-history-visibility
const (
	WorldReadable = "world_readable"
	Shared        = "shared"
	Invited       = "invited"
	Joined        = "joined"
)

// Viewing is what counts of the room's state before an event, for one viewer of it. The zero value
// is somebody who was never in a room whose history is shared.
type Viewing struct {
	Visibility string // of m.room.history_visibility; what is not known means Shared
	Membership string // the viewer's; "" means "leave"
}

// VisibilityOf is the value of an m.room.history_visibility event: "By default if no
// `history_visibility` is set, or if the value is not understood, the visibility is assumed to be
// `shared`." The event may be nil.
func VisibilityOf(visibility *event.Event) string {
	if visibility == nil {
		return Shared
	}
	s, _ := canonjson.String(canonjson.Get(visibility.Content(), "history_visibility"))
	switch s {
	case WorldReadable, Invited, Joined:
		return s
	}
	return Shared
}

// MayRead reports whether viewer may read e. before is taken from the state before e; joinedLater
// says that viewer was in the room at any time after e, even if no longer.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#server-behaviour-5
func MayRead(e *event.Event, before Viewing, joinedLater bool, viewer id.UserID) bool {
	if before.allows(joinedLater) {
		return true
	}
	// "For `m.room.history_visibility` events themselves, the user should be allowed to see the event
	// if the `history_visibility` before *or* after the event would allow them to see it."
	if e.Is("m.room.history_visibility", "") {
		return Viewing{VisibilityOf(e), before.Membership}.allows(joinedLater)
	}
	// "Likewise, for the user's own `m.room.member` events, the user should be allowed to see the event
	// if their `membership` before *or* after the event would allow them to see it."
	if !e.Is("m.room.member", string(viewer)) {
		return false
	}
	after := Viewing{before.Visibility, e.Membership()}
	return endsInvitation(before.Membership, after.Membership) || after.allows(joinedLater)
}

// allows applies the rules in their order.
func (v Viewing) allows(joinedLater bool) bool {
	switch {
	// "1. If the `history_visibility` was set to `world_readable`, allow."
	case v.Visibility == WorldReadable:
		return true
	// "2. If the user's `membership` was `join`, allow."
	case v.Membership == "join":
		return true
	// "3. If `history_visibility` was set to `shared`, and the user joined the room at any point after
	// the event was sent, allow."
	case v.Visibility != Invited && v.Visibility != Joined:
		return joinedLater
	// "4. If the user's `membership` was `invite`, and the `history_visibility` was set to `invited`,
	// allow."
	case v.Visibility == Invited:
		return v.Membership == "invite"
	}
	// "5. Otherwise, deny."
	return false
}

// endsInvitation adds to the specification's rules what other servers do too: whoever was invited
// or knocked sees how that ended, or a room whose invite is turned down would never leave the list.
func endsInvitation(before, after string) bool {
	return (before == "invite" || before == "knock") && (after == "leave" || after == "ban")
}

// MayReadState reports whether somebody may read the current state of a room, and who its members
// are: those in it, and of a world-readable room everybody with an account, guests too.
func MayReadState(now Viewing) bool {
	return now.Membership == "join" || now.Visibility == WorldReadable
}

// MembershipAt is viewer's membership at e, changes by e included, as in unsigned.membership.
func MembershipAt(e *event.Event, before Viewing, viewer id.UserID) string {
	membership := before.Membership
	if e.Is("m.room.member", string(viewer)) {
		membership = e.Membership()
	}
	if membership == "" {
		return "leave"
	}
	return membership
}

// ServerViewing is Viewing for all users of a server together.
type ServerViewing struct {
	Visibility string
	// AnyUser reports whether any user of the server had this membership before the event. It is
	// only called when the answer hangs on it.
	AnyUser func(membership string) bool
}

// MayServerRead reports whether server may be given e, because one of its users could read it.
// joinedLater says that one of them was in the room at any time after e.
func MayServerRead(e *event.Event, before ServerViewing, joinedLater bool, server id.ServerName) bool {
	if before.allows(joinedLater) {
		return true
	}
	if e.Is("m.room.history_visibility", "") {
		return ServerViewing{VisibilityOf(e), before.AnyUser}.allows(joinedLater)
	}
	own := e.Type == "m.room.member" && e.StateKey != nil && id.UserID(*e.StateKey).Server() == server
	return own && Viewing{before.Visibility, e.Membership()}.allows(joinedLater)
}

func (v ServerViewing) allows(joinedLater bool) bool {
	if (Viewing{v.Visibility, ""}).allows(joinedLater) || v.AnyUser("join") {
		return true
	}
	return v.Visibility == Invited && v.AnyUser("invite")
}
