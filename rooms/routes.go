package rooms

import (
	"slices"

	"github.com/embedmatrix/homeserver/internal/httpapi"
)

const v3 = "/_matrix/client/v3"

// Routes are the rows of the route table that rooms serves.
func (s *Service) Routes() []httpapi.Route {
	return slices.Concat(
		s.roomRoutes(), s.sendingRoutes(), s.readingRoutes(), s.findingRoutes(), s.peopleRoutes(), s.outsideRoutes(),
		s.reportingRoutes(), s.adminRoutes(), s.noticeRoutes(),
	)
}

// roomRoutes are about rooms as a whole and who is in them.
func (s *Service) roomRoutes() []httpapi.Route {
	return []httpapi.Route{
		// create.go
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/createRoom", s.createRoom, httpapi.RateLimited(httpapi.Rooms)),
		// upgrade.go
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/upgrade", s.upgradeRoom, httpapi.RateLimited(httpapi.Rooms)),
		// membership.go
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/joined_rooms", s.getJoinedRooms),
		httpapi.Handle(httpapi.GuestOK, "POST "+v3+"/join/{roomIdOrAlias}", s.joinRoom, httpapi.RateLimited(httpapi.Joins), httpapi.OptionalBody()),
		httpapi.Handle(httpapi.GuestOK, "POST "+v3+"/rooms/{roomId}/join", s.joinRoomByID, httpapi.RateLimited(httpapi.Joins), httpapi.OptionalBody()),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/knock/{roomIdOrAlias}", s.knockRoom, httpapi.RateLimited(httpapi.Joins), httpapi.OptionalBody()),
		httpapi.Handle(httpapi.GuestOK, "POST "+v3+"/rooms/{roomId}/leave", s.leaveRoom, httpapi.RateLimited(), httpapi.OptionalBody()),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/forget", s.forgetRoom, httpapi.RateLimited(), httpapi.OptionalBody()),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/invite", s.inviteUser, httpapi.RateLimited(httpapi.Invites)),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/kick", s.kick, httpapi.RateLimited(httpapi.Messages)),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/ban", s.ban, httpapi.RateLimited(httpapi.Messages)),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/unban", s.unban, httpapi.RateLimited(httpapi.Messages)),
	}
}

// sendingRoutes bring events into rooms, at once or later.
func (s *Service) sendingRoutes() []httpapi.Route {
	const delayed = "/_matrix/client/unstable/org.matrix.msc4140/delayed_events"
	return []httpapi.Route{
		// send.go
		httpapi.Handle(httpapi.GuestOK, "PUT "+v3+"/rooms/{roomId}/send/{eventType}/{txnId}", s.sendEvent, httpapi.RateLimited(httpapi.Messages), httpapi.OptionalBodyWith(delayParameter),
			httpapi.Also("POST "+v3+"/rooms/{roomId}/send/{eventType}")), // of old: conformance suites still ask for it
		httpapi.Handle(httpapi.Authed, "PUT "+v3+"/rooms/{roomId}/redact/{eventId}/{txnId}", s.redactEvent, httpapi.RateLimited(httpapi.Messages),
			httpapi.Also("POST "+v3+"/rooms/{roomId}/redact/{eventId}")), // as old
		httpapi.Handle(httpapi.GuestOK, "PUT "+v3+"/rooms/{roomId}/state/{eventType}/{stateKey}", s.setRoomStateWithKey, httpapi.RateLimited(httpapi.Messages),
			httpapi.Also("PUT "+v3+"/rooms/{roomId}/state/{eventType}/{$}")),
		// delayed.go
		httpapi.Handle(httpapi.GuestOK, "GET "+delayed, s.getDelayedEvents, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Public, "POST "+delayed+"/{delayId}", s.updateDelayedEvent, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Public, "POST "+delayed+"/{delayId}/cancel", s.cancelDelayedEvent, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Public, "POST "+delayed+"/{delayId}/restart", s.restartDelayedEvent, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Public, "POST "+delayed+"/{delayId}/send", s.sendDelayedEvent, httpapi.RateLimited()),
	}
}

// readingRoutes tell what is in a room.
func (s *Service) readingRoutes() []httpapi.Route {
	const msc4306 = "/_matrix/client/unstable/io.element.msc4306/rooms/{roomId}/thread/{eventId}/subscription"
	return []httpapi.Route{
		// history.go
		httpapi.Handle(httpapi.GuestOK, "GET "+v3+"/rooms/{roomId}/state", s.getRoomState),
		httpapi.Handle(httpapi.GuestOK, "GET "+v3+"/rooms/{roomId}/state/{eventType}/{stateKey}", s.getRoomStateWithKey,
			httpapi.Also("GET "+v3+"/rooms/{roomId}/state/{eventType}/{$}")),
		httpapi.Handle(httpapi.GuestOK, "GET "+v3+"/rooms/{roomId}/members", s.getMembersByRoom),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/rooms/{roomId}/joined_members", s.getJoinedMembersByRoom),
		httpapi.Handle(httpapi.GuestOK, "GET "+v3+"/rooms/{roomId}/messages", s.getRoomEvents),
		httpapi.Handle(httpapi.GuestOK, "GET "+v3+"/rooms/{roomId}/context/{eventId}", s.getEventContext),
		httpapi.Handle(httpapi.GuestOK, "GET "+v3+"/rooms/{roomId}/event/{eventId}", s.getOneRoomEvent),
		// relations.go, threads.go
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}", s.getRelatingEvents,
			httpapi.Also("GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}"),
			httpapi.Also("GET /_matrix/client/v1/rooms/{roomId}/relations/{eventId}/{relType}/{eventType}")),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v1/rooms/{roomId}/threads", s.getThreadRoots, httpapi.RateLimited()),
		// thread_subscriptions.go
		httpapi.Handle(httpapi.Authed, "GET "+msc4306, s.getThreadSubscription),
		httpapi.Handle(httpapi.Authed, "PUT "+msc4306, s.subscribeToThread),
		httpapi.Handle(httpapi.Authed, "DELETE "+msc4306, s.unsubscribeFromThread),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/unstable/io.element.msc4308/thread_subscriptions", s.listThreadSubscriptions),
		// moment.go
		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v1/rooms/{roomId}/timestamp_to_event", s.getEventByTimestamp, httpapi.RateLimited()),
	}
}

// findingRoutes find rooms, events and people.
func (s *Service) findingRoutes() []httpapi.Route {
	return []httpapi.Route{
		// directory.go
		httpapi.Handle(httpapi.Public, "GET "+v3+"/directory/room/{roomAlias}", s.getRoomIDByAlias),
		httpapi.Handle(httpapi.Authed, "PUT "+v3+"/directory/room/{roomAlias}", s.setRoomAlias, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "DELETE "+v3+"/directory/room/{roomAlias}", s.deleteRoomAlias, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/rooms/{roomId}/aliases", s.getLocalAliases, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/directory/list/room/{roomId}", s.getRoomVisibilityOnDirectory),
		httpapi.Handle(httpapi.Authed, "PUT "+v3+"/directory/list/room/{roomId}", s.setRoomVisibilityOnDirectory),
		// public_rooms.go
		httpapi.Handle(httpapi.OptionalToken, "GET "+v3+"/publicRooms", s.getPublicRooms),
		httpapi.Handle(httpapi.GuestOK, "POST "+v3+"/publicRooms", s.queryPublicRooms),
		// spaces.go, summary.go
		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v1/rooms/{roomId}/hierarchy", s.getSpaceHierarchy, httpapi.RateLimited()),
		httpapi.Handle(httpapi.OptionalToken, "GET /_matrix/client/v1/room_summary/{roomIdOrAlias}", s.getRoomSummary, httpapi.RateLimited(),
			httpapi.Also("GET /_matrix/client/unstable/im.nheko.summary/summary/{roomIdOrAlias}"),
			httpapi.Also("GET /_matrix/client/unstable/im.nheko.summary/rooms/{roomIdOrAlias}/summary")),
		// search.go, user_directory.go, mutual.go
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/search", s.search, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/user_directory/search", s.searchUserDirectory, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v1/mutual_rooms", s.getMutualRooms, httpapi.RateLimited(),
			httpapi.Also("GET /_matrix/client/unstable/uk.half-shot.msc2666/user/mutual_rooms")),
	}
}

// peopleRoutes are about what people say of themselves and do in a room beside its events.
func (s *Service) peopleRoutes() []httpapi.Route {
	const msc4133 = "/_matrix/client/unstable/uk.tcpip.msc4133/profile/{userId}"
	return []httpapi.Route{
		// profile.go
		httpapi.Handle(httpapi.Public, "GET "+v3+"/profile/{userId}", s.getUserProfile, httpapi.Also("GET "+msc4133)),
		httpapi.Handle(httpapi.Public, "GET "+v3+"/profile/{userId}/{keyName}", s.getProfileField, httpapi.Also("GET "+msc4133+"/{keyName}")),
		httpapi.Handle(httpapi.GuestOK, "PUT "+v3+"/profile/{userId}/{keyName}", s.setProfileField, httpapi.RateLimited(), httpapi.Also("PUT "+msc4133+"/{keyName}")),
		httpapi.Handle(httpapi.GuestOK, "DELETE "+v3+"/profile/{userId}/{keyName}", s.deleteProfileField, httpapi.RateLimited(), httpapi.Also("DELETE "+msc4133+"/{keyName}")),
		// typing.go, receipts.go
		httpapi.Handle(httpapi.Authed, "PUT "+v3+"/rooms/{roomId}/typing/{userId}", s.setTyping, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/receipt/{receiptType}/{eventId}", s.postReceipt, httpapi.RateLimited(), httpapi.OptionalBody()),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/read_markers", s.setReadMarker, httpapi.RateLimited()),
	}
}

// outsideRoutes lead to other networks and to calls.
func (s *Service) outsideRoutes() []httpapi.Route {
	return []httpapi.Route{
		// third_party_networks.go
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/thirdparty/protocols", s.getProtocols),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/thirdparty/protocol/{protocol}", s.getProtocolMetadata),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/thirdparty/location/{protocol}", s.queryLocationByProtocol),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/thirdparty/location", s.queryLocationByAlias),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/thirdparty/user/{protocol}", s.queryUserByProtocol),
		httpapi.Handle(httpapi.Authed, "GET "+v3+"/thirdparty/user", s.queryUserByID),
		// voip.go, rtc.go
		httpapi.Handle(httpapi.GuestOK, "GET "+v3+"/voip/turnServer", s.getTurnServer, httpapi.RateLimited()),
		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/unstable/org.matrix.msc4143/rtc/transports", s.getTransports, httpapi.RateLimited()),
	}
}

// reportingRoutes tell administrators something.
func (s *Service) reportingRoutes() []httpapi.Route {
	return []httpapi.Route{
		// report.go
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/report", s.reportRoom, httpapi.RateLimited(httpapi.Reports), httpapi.MaxBody(maxReportBody)),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/rooms/{roomId}/report/{eventId}", s.reportEvent, httpapi.RateLimited(httpapi.Reports), httpapi.MaxBody(maxReportBody)),
		httpapi.Handle(httpapi.Authed, "POST "+v3+"/users/{userId}/report", s.reportUser, httpapi.RateLimited(httpapi.Reports), httpapi.MaxBody(maxReportBody)),
	}
}

// adminRoutes are what administrators do.
func (s *Service) adminRoutes() []httpapi.Route {
	return []httpapi.Route{
		// admin.go
		httpapi.Handle(httpapi.Authed, "DELETE /_synapse/admin/v1/rooms/{roomId}", s.deleteRoom, httpapi.AdminOnly()),
	}
}

// noticeRoutes are what administrators tell users, on a server that has notices.
func (s *Service) noticeRoutes() []httpapi.Route {
	if s.Notices.User == "" {
		return nil
	}
	return []httpapi.Route{
		// notices.go
		httpapi.Handle(httpapi.Authed, "POST /_synapse/admin/v1/send_server_notice", s.sendServerNotice, httpapi.AdminOnly()),
		httpapi.Handle(httpapi.Authed, "PUT /_synapse/admin/v1/send_server_notice/{txnId}", s.sendServerNoticeOnce, httpapi.AdminOnly()),
	}
}
