package rooms

import (
	"context"
	"encoding/json"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
)

// RemoteMembership is what rooms ask of other servers to get users in and out of rooms. What it returns is as the
// other server said it, of the right form and not checked any further.
type RemoteMembership interface {
	RemotePolicy  // see policy.go
	RemoteProfile // see remote_profile.go

	// MakeMember asks a server that is in a room for the template of a member event.
	MakeMember(ctx context.Context, server id.ServerName, wish Wish) (*Template, error)
	// SendJoin lets a server take in a join.
	SendJoin(ctx context.Context, server id.ServerName, join *event.Event) (*JoinAnswer, error)
	// SendLeave lets a server take in a leave.
	SendLeave(ctx context.Context, server id.ServerName, leave *event.Event) error
	// SendKnock lets a server take in a knock, and returns what it tells of the room.
	SendKnock(ctx context.Context, server id.ServerName, knock *event.Event) ([]json.RawMessage, error)
	// SendInvite brings an invite to the server of who is invited, with what is told of the room, and returns the
	// event with that server's signature.
	SendInvite(ctx context.Context, server id.ServerName, invite *event.Event, state []json.RawMessage) (json.RawMessage, error)
	// ResolveAlias asks the server of an alias for its room and for servers that are in it.
	ResolveAlias(ctx context.Context, alias id.RoomAlias) (id.RoomID, []id.ServerName, error)
	// ExchangeInvite asks a server to make an invite of a third-party invite of its user; partial is the event.
	ExchangeInvite(ctx context.Context, server id.ServerName, room id.RoomID, partial json.RawMessage) error
	// KeyValid asks at a URL of an identity server whether a public key of it is valid still.
	KeyValid(ctx context.Context, url, publicKey string) (bool, error)
}

// JoinAnswer is what a server that has taken in a join tells of the room.
type JoinAnswer struct {
	Event          json.RawMessage   // the join, if the server signed it too
	State          []json.RawMessage // the state before the join
	Auth           []json.RawMessage // its auth chain
	Servers        []id.ServerName   // that are in the room
	MembersOmitted bool              // State lacks most of the members
}
