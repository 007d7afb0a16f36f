package media

import "github.com/embedmatrix/homeserver/internal/httpapi"

// Routes are the rows of the route table that media serves.
func (s *Service) Routes() []httpapi.Route {
	const v1 = "/_matrix/client/v1/media"
	const old = "/_matrix/media/v3"
	routes := []httpapi.Route{
		// content_repo.go
		httpapi.Handle(httpapi.Authed, "GET "+v1+"/config", s.getConfig, httpapi.RateLimited(),
			httpapi.Also("GET "+old+"/config"), httpapi.Also("GET /_matrix/media/r0/config")),
		httpapi.Handle(httpapi.Authed, "POST "+old+"/upload", s.uploadContent, httpapi.RateLimited(), httpapi.Also("POST /_matrix/media/r0/upload")),
		httpapi.Handle(httpapi.Authed, "POST /_matrix/media/v1/create", s.createContent, httpapi.RateLimited()),
		httpapi.Handle(httpapi.Authed, "PUT "+old+"/upload/{serverName}/{mediaId}", s.uploadContentToMXC, httpapi.RateLimited()),
		httpapi.HandleRaw(httpapi.GuestOK, "GET "+v1+"/download/{serverName}/{mediaId}", s.getContent, httpapi.RateLimited(),
			httpapi.Also("GET "+v1+"/download/{serverName}/{mediaId}/{fileName}")),
		httpapi.HandleRaw(httpapi.Public, "GET "+old+"/download/{serverName}/{mediaId}", s.getContentWithoutToken, httpapi.RateLimited(),
			httpapi.Also("GET "+old+"/download/{serverName}/{mediaId}/{fileName}"),
			httpapi.Also("GET /_matrix/media/r0/download/{serverName}/{mediaId}"),
			httpapi.Also("GET /_matrix/media/r0/download/{serverName}/{mediaId}/{fileName}")),
		// thumbnail.go
		httpapi.HandleRaw(httpapi.GuestOK, "GET "+v1+"/thumbnail/{serverName}/{mediaId}", s.getContentThumbnail, httpapi.RateLimited()),
		httpapi.HandleRaw(httpapi.Public, "GET "+old+"/thumbnail/{serverName}/{mediaId}", s.getContentThumbnailWithoutToken, httpapi.RateLimited(),
			httpapi.Also("GET /_matrix/media/r0/thumbnail/{serverName}/{mediaId}")),
	}
	if s.Previews == nil {
		return routes
	}
	return append(routes,
		// preview.go
		httpapi.Handle(httpapi.Authed, "GET "+v1+"/preview_url", s.getURLPreview, httpapi.RateLimited(),
			httpapi.Also("GET "+old+"/preview_url"), httpapi.Also("GET /_matrix/media/r0/preview_url")))
}
