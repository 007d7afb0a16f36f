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
		httpapi.HandleRaw(httpapi.Server, "PUT /_matrix/federation/v1/send/{txnId}", s.sendTransaction, httpapi.MaxBody(maxTransaction)),
	}
}
