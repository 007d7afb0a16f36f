package federation

import (
	"slices"

	"github.com/embedmatrix/homeserver/internal/httpapi"
)

// Routes returns the rows of the route table that other servers call; of a server that does not federate those that
// need no peer.
func (s *Service) Routes() []httpapi.Route {
	if s.cfg.Ring == nil {
		return s.published()
	}
	return slices.Concat(s.published(), s.asked(), s.files())
}

// files are what those who federate ask of the content repository, if there is one.
func (s *Service) files() []httpapi.Route {
	if s.cfg.Media == nil {
		return nil
	}
	return []httpapi.Route{
		// media.go
		httpapi.HandleRaw(httpapi.Server, "GET /_matrix/federation/v1/media/download/{mediaId}", s.getContent, httpapi.RateLimited()),
		httpapi.HandleRaw(httpapi.Server, "GET /_matrix/federation/v1/media/thumbnail/{mediaId}", s.getContentThumbnail, httpapi.RateLimited()),
	}
}

// published is what anybody may ask.
func (s *Service) published() []httpapi.Route {
	return []httpapi.Route{
		httpapi.Handle(httpapi.Public, "GET /_matrix/federation/v1/version", s.getVersion),
		httpapi.Handle(httpapi.Public, "GET /_matrix/key/v2/server/{$}", s.getServerKey,
			httpapi.Also("GET /_matrix/key/v2/server/{keyId}")),
		httpapi.Handle(httpapi.Public, "POST /_matrix/key/v2/query", s.queryKeys, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Public, "GET /_matrix/key/v2/query/{serverName}", s.queryServerKeys, httpapi.RateLimited(),
			httpapi.Also("GET /_matrix/key/v2/query/{serverName}/{keyId}")),
		// openid.go
		httpapi.Handle(httpapi.Public, "GET /_matrix/federation/v1/openid/userinfo", s.exchangeOpenIDToken, httpapi.RateLimited()),
	}
}

// asked is what those who federate ask each other.
func (s *Service) asked() []httpapi.Route {
	return []httpapi.Route{
		// backfill.go, events.go, event_auth.go
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/backfill/{roomId}", s.backfillRoom),
		httpapi.Handle(httpapi.Server, "POST /_matrix/federation/v1/get_missing_events/{roomId}", s.getMissingPreviousEvents),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/event/{eventId}", s.getEvent),
		httpapi.HandleRaw(httpapi.Server, "GET /_matrix/federation/v1/state/{roomId}", s.getRoomState),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/state_ids/{roomId}", s.getRoomStateIDs),
		httpapi.HandleRaw(httpapi.Server, "GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}", s.getEventAuth),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/timestamp_to_event/{roomId}", s.getEventByTimestamp),
		// joins.go, leaving.go, knocks.go, invites.go
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/make_join/{roomId}/{userId}", s.makeJoin),
		httpapi.Handle(httpapi.Server, "PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}", s.sendJoinV2, httpapi.AnyEventID()),
		httpapi.Handle(httpapi.Server, "PUT /_matrix/federation/v1/send_join/{roomId}/{eventId}", s.sendJoinV1, httpapi.AnyEventID()),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/make_leave/{roomId}/{userId}", s.makeLeave),
		httpapi.Handle(httpapi.Server, "PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}", s.sendLeaveV2, httpapi.AnyEventID()),
		httpapi.Handle(httpapi.Server, "PUT /_matrix/federation/v1/send_leave/{roomId}/{eventId}", s.sendLeaveV1, httpapi.AnyEventID()),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/make_knock/{roomId}/{userId}", s.makeKnock),
		httpapi.Handle(httpapi.Server, "PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}", s.sendKnock, httpapi.AnyEventID()),
		httpapi.Handle(httpapi.Server, "PUT /_matrix/federation/v2/invite/{roomId}/{eventId}", s.sendInviteV2, httpapi.MaxBody(maxInvite)),
		httpapi.Handle(httpapi.Server, "PUT /_matrix/federation/v1/invite/{roomId}/{eventId}", s.sendInviteV1, httpapi.MaxBody(maxInvite)),
		// third_party_invite.go
		httpapi.Handle(httpapi.Server, "PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}", s.exchangeThirdPartyInvite),
		httpapi.Handle(httpapi.Public, "PUT /_matrix/federation/v1/3pid/onbind", s.onBindThirdPartyIdentifier, httpapi.RateLimited()),
		// user_devices.go
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/user/devices/{userId}", s.getUserDevices),
		// query.go, public_rooms.go, spaces.go
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/query/directory", s.queryRoomDirectory),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/query/profile", s.queryProfile),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/query/{queryType}", s.queryInfo),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/publicRooms", s.getPublicRooms),
		httpapi.Handle(httpapi.Server, "POST /_matrix/federation/v1/publicRooms", s.queryPublicRooms),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/hierarchy/{roomId}", s.getSpaceHierarchy,
			httpapi.Also("GET /_matrix/federation/unstable/org.matrix.msc2946/hierarchy/{roomId}")), // old servers ask so
		// user_keys.go
		httpapi.Handle(httpapi.Server, "POST /_matrix/federation/v1/user/keys/query", s.queryUserEncryptionKeys, httpapi.MaxBody(maxKeysBody)),
		httpapi.Handle(httpapi.Server, "POST /_matrix/federation/v1/user/keys/claim", s.claimUserEncryptionKeys, httpapi.MaxBody(maxKeysBody)),
		httpapi.HandleRaw(httpapi.Server, "PUT /_matrix/federation/v1/send/{txnId}", s.sendTransaction, httpapi.MaxBody(maxTransaction)),
	}
}
