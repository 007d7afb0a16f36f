package syncing

import "github.com/embedmatrix/homeserver/internal/httpapi"

// Routes are the rows of the route table that sync serves.
func (s *Service) Routes() []httpapi.Route {
	const user = "/_matrix/client/v3/user/{userId}"
	const msc3391 = "/_matrix/client/unstable/org.matrix.msc3391/user/{userId}"
	return []httpapi.Route{
		// sync.go
		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v3/sync", s.sync),
		// events.go
		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v3/events", s.getEvents),
		// old_sync.go
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/initialSync", s.initialSync),
		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v3/rooms/{roomId}/initialSync", s.roomInitialSync),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/events/{eventId}", s.getOneEvent),
		// filter.go
		httpapi.Handle(httpapi.Authed, "POST "+user+"/filter", s.defineFilter, httpapi.MaxBody(maxFilter)),
		httpapi.Handle(httpapi.Authed, "GET "+user+"/filter/{filterId}", s.getFilter),
		// account_data.go
		httpapi.Handle(httpapi.Authed, "GET "+user+"/account_data/{type}", s.getAccountData),
		httpapi.Handle(httpapi.Authed, "PUT "+user+"/account_data/{type}", s.setAccountData),
		httpapi.Handle(httpapi.Authed, "GET "+user+"/rooms/{roomId}/account_data/{type}", s.getAccountData),
		httpapi.Handle(httpapi.Authed, "PUT "+user+"/rooms/{roomId}/account_data/{type}", s.setAccountData),
		httpapi.Handle(httpapi.Authed, "DELETE "+msc3391+"/account_data/{type}", s.deleteAccountData),
		httpapi.Handle(httpapi.Authed, "DELETE "+msc3391+"/rooms/{roomId}/account_data/{type}", s.deleteAccountData),
		// presence.go
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/presence/{userId}/status", s.getPresence),
		httpapi.Handle(httpapi.Authed, "PUT /_matrix/client/v3/presence/{userId}/status", s.setPresence, httpapi.RateLimited()),
		// to_device.go
		httpapi.Handle(httpapi.GuestOK, "PUT /_matrix/client/v3/sendToDevice/{eventType}/{txnId}", s.sendToDevice),
		// tags.go
		httpapi.Handle(httpapi.Authed, "GET "+user+"/rooms/{roomId}/tags", s.getRoomTags),
		httpapi.Handle(httpapi.Authed, "PUT "+user+"/rooms/{roomId}/tags/{tag}", s.setRoomTag),
		httpapi.Handle(httpapi.Authed, "DELETE "+user+"/rooms/{roomId}/tags/{tag}", s.deleteRoomTag),
	}
}
