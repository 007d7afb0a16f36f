package auth

import "github.com/embedmatrix/homeserver/internal/httpapi"

// Routes returns the rows of this package.
func (s *Service) Routes() []httpapi.Route {
	limited, small := httpapi.RateLimited(), httpapi.MaxBody(maxInteractiveBody)
	routes := []httpapi.Route{
		httpapi.Handle(httpapi.Public, "GET /_matrix/client/versions", s.getVersions),
		httpapi.Handle(httpapi.Public, "GET /.well-known/matrix/client", s.wellKnownClient),
		httpapi.Handle(httpapi.Public, "GET /.well-known/matrix/server", s.wellKnownServer),
		httpapi.Handle(httpapi.Public, "GET /.well-known/matrix/support", s.wellKnownSupport),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/capabilities", s.getCapabilities, limited),

		httpapi.Handle(httpapi.Public, "GET /_matrix/client/v3/login", s.getLoginFlows, limited),
		httpapi.Handle(httpapi.Public, "POST /_matrix/client/v3/login", s.login, limited, small),
		httpapi.Handle(httpapi.Public, "POST /_matrix/client/v3/refresh", s.refresh, limited, small),
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/logout", s.logout, httpapi.EvenLocked()),
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/logout/all", s.logoutAll, httpapi.EvenLocked()),

		httpapi.Handle(httpapi.Public, "POST /_matrix/client/v3/register", s.register, limited, small),
		httpapi.Handle(httpapi.Public, "GET /_matrix/client/v3/register/available", s.usernameAvailable, limited),
		httpapi.Handle(httpapi.Public, "GET /_matrix/client/v1/register/m.login.registration_token/validity", s.registrationTokenValidity, limited),

		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v3/account/whoami", s.whoami, limited),
		httpapi.Handle(httpapi.OptionalToken, "POST /_matrix/client/v3/account/password", s.changePassword, limited, small),
		httpapi.Handle(httpapi.OptionalToken, "POST /_matrix/client/v3/account/deactivate", s.deactivate, limited, small),

		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v3/devices", s.getDevices),
		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v3/devices/{deviceId}", s.getDevice),
		httpapi.Handle(httpapi.GuestOK, "PUT /_matrix/client/v3/devices/{deviceId}", s.updateDevice, small),
		httpapi.Handle(httpapi.Authed, "DELETE /_matrix/client/v3/devices/{deviceId}", s.deleteDevice, limited, small),
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/delete_devices", s.deleteSeveral, limited, small),
	}
	if s.cfg.Registration.SharedSecret != "" {
		routes = append(routes,
			httpapi.Handle(httpapi.Public, "GET /_synapse/admin/v1/register", s.registerNonce),
			httpapi.Handle(httpapi.Public, "POST /_synapse/admin/v1/register", s.registerBySecret, small),
		)
	}
	return routes
}
