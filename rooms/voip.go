package rooms

import (
	"context"
	"crypto/hmac"
	"crypto/sha1" // what the TURN REST API is made of
	"encoding/base64"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// Calls says by which servers of the host the clients in a call reach each other.
type Calls struct {
	// TURN are the URIs of TURN servers for calls between two, such as "turn:turn.example.org?transport=udp". None: clients
	// are told of none.
	TURN []string

	// Secret is shared with those servers (static-auth-secret in coturn): each user gets credentials of their own, which
	// are good for TTL.
	Secret string

	// Username and Password are what everybody uses instead when there is no Secret.
	Username, Password string

	// TTL is for how long a client uses credentials. Zero means a day.
	TTL time.Duration

	// Guests lets guests have credentials too.
	Guests bool

	// LiveKit are the URLs of services that let users into rooms of a LiveKit server, for calls of many (MatrixRTC). Clients
	// prefer the first.
	LiveKit []string
}

// Validate reports every fault.
func (c Calls) Validate() error {
	var errs []error
	for _, uri := range c.TURN {
		if !strings.HasPrefix(uri, "turn:") && !strings.HasPrefix(uri, "turns:") {
			errs = append(errs, fmt.Errorf("Calls.TURN: %q has neither the scheme turn nor turns", uri))
		}
	}
	if len(c.TURN) > 0 && c.Secret == "" && (c.Username == "" || c.Password == "") {
		errs = append(errs, errors.New("Calls.TURN needs a Secret, or a Username and a Password"))
	}
	if c.TTL < 0 {
		errs = append(errs, errors.New("Calls.TTL is negative"))
	}
	for _, text := range c.LiveKit {
		if u, err := url.Parse(text); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			errs = append(errs, fmt.Errorf("Calls.LiveKit: %q is no http(s) URL", text))
		}
	}
	return errors.Join(errs...)
}

func (c Calls) ttl() time.Duration {
	if c.TTL == 0 {
		return 24 * time.Hour
	}
	return c.TTL
}

// turnServer is {} where there is none.
type turnServer struct {
	Username string   `json:"username,omitempty"`
	Password string   `json:"password,omitempty"`
	URIs     []string `json:"uris,omitempty"`
	TTL      int64    `json:"ttl,omitempty"` // seconds
}

// getTurnServer implements GET /_matrix/client/v3/voip/turnServer.
//
// https://spec.matrix.org/latest/client-server-api/#get_matrixclientv3voipturnserver
func (s *Service) getTurnServer(_ context.Context, c *httpapi.Call, _ *httpapi.None) (*turnServer, error) {
	if c.Guest && !s.Calls.Guests {
		return nil, mxerr.GuestAccessForbidden
	}
	if len(s.Calls.TURN) == 0 {
		return &turnServer{}, nil
	}
	out := s.Calls.credentials(c.User, s.Now())
	return &out, nil
}

// credentials are those of a user from now on. With a shared secret the name is the time at which they end and the user,
// and the password proves that this server has made it.
func (c Calls) credentials(user id.UserID, now time.Time) turnServer {
	out := turnServer{Username: c.Username, Password: c.Password, URIs: c.TURN, TTL: int64(c.ttl() / time.Second)}
	if c.Secret == "" {
		return out
	}
	out.Username = strconv.FormatInt(now.Add(c.ttl()).Unix(), 10) + ":" + string(user)
	mac := hmac.New(sha1.New, []byte(c.Secret))
	mac.Write([]byte(out.Username))
	out.Password = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return out
}
