package auth

import "github.com/embedmatrix/homeserver/internal/httpapi"

// Routes returns the rows of this package.
func (s *Service) Routes() []httpapi.Route {
	routes := []httpapi.Route{
		httpapi.Handle(httpapi.OptionalToken, "GET /_matrix/client/versions", s.getVersions),
		httpapi.Handle(httpapi.Public, "GET /.well-known/matrix/client", s.wellKnownClient),
		httpapi.Handle(httpapi.Public, "GET /.well-known/matrix/server", s.wellKnownServer),
		httpapi.Handle(httpapi.Public, "GET /.well-known/matrix/support", s.wellKnownSupport),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/capabilities", s.getCapabilities, httpapi.RateLimited()),

		httpapi.Handle(httpapi.Public, "GET /_matrix/client/v3/login", s.getLoginFlows, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Public, "POST /_matrix/client/v3/login", s.login, httpapi.RateLimited(httpapi.Logins), httpapi.MaxBody(maxInteractiveBody)),
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v1/login/get_token", s.generateLoginToken, httpapi.RateLimited(httpapi.LoginTokens), httpapi.MaxBody(maxInteractiveBody)),
		httpapi.HandleRaw(httpapi.Public, "GET /_matrix/static/client/login/{$}", s.loginFallback),
		httpapi.HandleRaw(httpapi.Public, "GET /_matrix/client/v3/auth/{authType}/fallback/web", s.stageFallback, httpapi.RateLimited()),
		httpapi.HandleRaw(httpapi.Public, "POST /_matrix/client/v3/auth/{authType}/fallback/web", s.submitStage, httpapi.RateLimited(httpapi.Logins)),
		httpapi.Handle(httpapi.Public, "POST /_matrix/client/v3/refresh", s.refresh, httpapi.RateLimited(), httpapi.MaxBody(maxInteractiveBody)),
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/logout", s.logout, httpapi.EvenLocked()),
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/logout/all", s.logoutAll, httpapi.EvenLocked()),

		httpapi.Handle(httpapi.Public, "POST /_matrix/client/v3/register", s.register, httpapi.RateLimited(httpapi.Registrations), httpapi.MaxBody(maxInteractiveBody)),
		httpapi.Handle(httpapi.Public, "GET /_matrix/client/v3/register/available", s.usernameAvailable, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Public, "GET /_matrix/client/v1/register/m.login.registration_token/validity", s.registrationTokenValidity, httpapi.RateLimited()),

		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/user/{userId}/openid/request_token", s.requestOpenIDToken, httpapi.RateLimited()),

		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v3/account/whoami", s.whoami, httpapi.RateLimited()),
		httpapi.Handle(httpapi.OptionalToken, "POST /_matrix/client/v3/account/password", s.changePassword, httpapi.RateLimited(httpapi.Logins), httpapi.MaxBody(maxInteractiveBody)),
		httpapi.Handle(httpapi.OptionalToken, "POST /_matrix/client/v3/account/deactivate", s.deactivate, httpapi.RateLimited(httpapi.Logins), httpapi.MaxBody(maxInteractiveBody)),

		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v3/devices", s.getDevices),
		httpapi.Handle(httpapi.GuestOK, "GET /_matrix/client/v3/devices/{deviceId}", s.getDevice),
		httpapi.Handle(httpapi.GuestOK, "PUT /_matrix/client/v3/devices/{deviceId}", s.updateDevice, httpapi.MaxBody(maxInteractiveBody)),
		httpapi.Handle(httpapi.Authed, "DELETE /_matrix/client/v3/devices/{deviceId}", s.deleteDevice, httpapi.RateLimited(httpapi.Logins), httpapi.MaxBody(maxInteractiveBody)),
		httpapi.Handle(httpapi.Authed, "POST /_matrix/client/v3/delete_devices", s.deleteSeveral, httpapi.RateLimited(httpapi.Logins), httpapi.MaxBody(maxInteractiveBody)),

		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v3/admin/whois/{userId}", s.getWhoIs),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v1/admin/suspend/{userId}", s.getAdminSuspendUser, httpapi.AdminOnly()),
		httpapi.Handle(httpapi.Authed, "PUT /_matrix/client/v1/admin/suspend/{userId}", s.setAdminSuspendUser, httpapi.AdminOnly()),
		httpapi.Handle(httpapi.Authed, "GET /_matrix/client/v1/admin/lock/{userId}", s.getAdminLockUser, httpapi.AdminOnly()),
		httpapi.Handle(httpapi.Authed, "PUT /_matrix/client/v1/admin/lock/{userId}", s.setAdminLockUser, httpapi.AdminOnly()),
	}
	if s.cfg.Registration.SharedSecret != "" {
		routes = append(routes,
			httpapi.Handle(httpapi.Public, "GET /_synapse/admin/v1/register", s.registerNonce),
			httpapi.Handle(httpapi.Public, "POST /_synapse/admin/v1/register", s.registerBySecret, httpapi.MaxBody(maxInteractiveBody)),
		)
	}
	return routes
}
