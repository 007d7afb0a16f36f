package federation

import "github.com/embedmatrix/homeserver/internal/httpapi"

// Routes returns the rows of the route table that other servers call.
func (s *Service) Routes() []httpapi.Route {
	return []httpapi.Route{
		httpapi.Handle(httpapi.Public, "GET /_matrix/federation/v1/version", s.getVersion),
		httpapi.Handle(httpapi.Public, "GET /_matrix/key/v2/server/{$}", s.getServerKey,
			httpapi.Also("GET /_matrix/key/v2/server/{keyId}")),
		httpapi.Handle(httpapi.Public, "POST /_matrix/key/v2/query", s.queryKeys, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Public, "GET /_matrix/key/v2/query/{serverName}", s.queryServerKeys, httpapi.RateLimited()),
		// backfill.go, events.go, event_auth.go
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/backfill/{roomId}", s.backfillRoom),
		httpapi.Handle(httpapi.Server, "POST /_matrix/federation/v1/get_missing_events/{roomId}", s.getMissingPreviousEvents),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/event/{eventId}", s.getEvent),
		httpapi.HandleRaw(httpapi.Server, "GET /_matrix/federation/v1/state/{roomId}", s.getRoomState),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/state_ids/{roomId}", s.getRoomStateIDs),
		httpapi.HandleRaw(httpapi.Server, "GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}", s.getEventAuth),
		httpapi.Handle(httpapi.Server, "GET /_matrix/federation/v1/timestamp_to_event/{roomId}", s.getEventByTimestamp),
		httpapi.HandleRaw(httpapi.Server, "PUT /_matrix/federation/v1/send/{txnId}", s.sendTransaction, httpapi.MaxBody(maxTransaction)),
	}
}
