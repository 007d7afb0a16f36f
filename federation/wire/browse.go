package wire

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
)

// Browser returns an HTTP client for pages of the web, such as users name in messages: HTTP and HTTPS, on the ports
// 80, 443 and those from 1024 on, to addresses that cfg.Networks allows, redirects too. Each address is checked when it
// is dialled. close closes all its connections; requests have to be bounded by their contexts.
//
// Of cfg only Roots, DNS, Dial, Networks and Now are used.
func Browser(cfg Config) (client *http.Client, close func()) {
	n := newNetwork(cfg.withDefaults())
	client = n.webClient()
	client.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return fmt.Errorf("more than %d redirects", maxRedirects)
		}
		return MayBrowse(req.URL)
	}
	return client, n.close
}

var errNotBrowsable = errors.New("wire: not a page of the web")

// MayBrowse returns nil for a URL that Browser may be asked for.
func MayBrowse(u *url.URL) error {
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Opaque != "" {
		return errNotBrowsable
	}
	if text := u.Port(); text != "" && text != "80" && text != "443" {
		if port, err := strconv.ParseUint(text, 10, 16); err != nil || port < 1024 {
			return errNotBrowsable
		}
	}
	return nil
}
