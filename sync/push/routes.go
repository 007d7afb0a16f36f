package push

import "github.com/embedmatrix/homeserver/internal/httpapi"

// Routes returns the rows of the route table.
func (s *Service) Routes() []httpapi.Route {
	return []httpapi.Route{
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/pushrules/{$}", s.getPushRules,
			httpapi.Also("GET /_matrix/client/v3/pushrules")),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/pushrules/global/{$}", s.getPushRulesGlobal,
			httpapi.Also("GET /_matrix/client/v3/pushrules/global")),
	}
}
