package e2ee

import "github.com/embedmatrix/homeserver/internal/httpapi"

// Routes returns the rows of this package.
func (s *Service) Routes() []httpapi.Route {
	const dehydratedPath = "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device"
	return []httpapi.Route{
		// keys.go, query.go, claim.go, changes.go
		httpapi.Handle(httpapi.GuestOK, "POST /_matrix/client/v3/keys/upload", s.uploadKeys),
		httpapi.Handle(httpapi.GuestOK, "POST /_matrix/client/v3/keys/query", s.queryKeys),
		httpapi.Handle(httpapi.GuestOK, "POST /_matrix/client/v3/keys/claim", s.claimKeys),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/keys/changes", s.getKeysChanges),

		// cross_signing.go, signatures.go
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/keys/device_signing/upload", s.uploadCrossSigningKeys,
			httpapi.MaxBody(maxCrossSigningBody), httpapi.Also("POST /_matrix/client/unstable/keys/device_signing/upload")),
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/keys/signatures/upload", s.uploadCrossSigningSignatures,
			httpapi.Also("POST /_matrix/client/unstable/keys/signatures/upload")),

		// dehydrated.go
		httpapi.Handle(httpapi.Authed, "PUT "+dehydratedPath, s.putDehydratedDevice, httpapi.MaxBody(maxDehydratedBody)),
		httpapi.Handle(httpapi.Authed, "GET "+dehydratedPath, s.getDehydratedDevice),
		httpapi.Handle(httpapi.Authed, "DELETE "+dehydratedPath, s.deleteDehydratedDevice),
		httpapi.Handle(httpapi.Authed, "POST "+dehydratedPath+"/{deviceId}/events", s.getDehydratedEvents),

		// key_backup.go
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/room_keys/version", s.postRoomKeysVersion, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/room_keys/version", s.getRoomKeysVersionCurrent, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/room_keys/version/{version}", s.getRoomKeysVersion, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "PUT /_matrix/client/v3/room_keys/version/{version}", s.putRoomKeysVersion, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "DELETE /_matrix/client/v3/room_keys/version/{version}", s.deleteRoomKeysVersion, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "PUT /_matrix/client/v3/room_keys/keys", s.putRoomKeys, httpapi.RateLimited(), httpapi.MaxBody(maxBackupBody)),
		httpapi.HandleRaw(httpapi.Authed, "GET /_matrix/client/v3/room_keys/keys", s.getRoomKeys, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "DELETE /_matrix/client/v3/room_keys/keys", s.deleteRoomKeys, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "PUT /_matrix/client/v3/room_keys/keys/{roomId}", s.putRoomKeysByRoomId, httpapi.RateLimited(), httpapi.MaxBody(maxBackupBody)),
		httpapi.HandleRaw(httpapi.Authed, "GET /_matrix/client/v3/room_keys/keys/{roomId}", s.getRoomKeysByRoomId, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "DELETE /_matrix/client/v3/room_keys/keys/{roomId}", s.deleteRoomKeysByRoomId, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "PUT /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}", s.putRoomKeyBySessionId, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}", s.getRoomKeyBySessionId, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "DELETE /_matrix/client/v3/room_keys/keys/{roomId}/{sessionId}", s.deleteRoomKeyBySessionId, httpapi.RateLimited()),
	}
}
