package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net/http"
	"slices"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// page is an HTML page for people whose client cannot show a login or a stage itself.
type page struct {
	Nonce    string // of the one script
	Title    string
	Message  string // what went wrong; may be empty
	Session  string
	Stage    string
	Policies []PolicyText
}

const pageText = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}}</title>
<style>body{font:16px/1.5 sans-serif;max-width:24em;margin:3em auto;padding:0 1em}input,button{display:block;font:inherit;width:100%;
box-sizing:border-box;margin:.3em 0 1em;padding:.4em}#message{color:#b00}</style></head>
<body><h1>{{.Title}}</h1><p id="message" role="alert">{{.Message}}</p>
{{define "user"}}<label>User name<input name="user" autocomplete="username" required></label>
<label>Password<input name="password" type="password" autocomplete="current-password" required></label>{{end}}`

// stagePage asks for one stage of an interactive authentication.
const stagePage = pageText + `<form method="post"><input type="hidden" name="session" value="{{.Session}}">
{{if eq .Stage "m.login.password"}}{{template "user"}}{{end}}
{{if eq .Stage "m.login.registration_token"}}<label>Registration token<input name="token" maxlength="64" required></label>{{end}}
{{if eq .Stage "m.login.terms"}}<p>Please read and agree to:</p><ul>{{range .Policies}}<li><a href="{{.URL}}" target="_blank" rel="noopener">{{.Name}}</a></li>{{end}}</ul>{{end}}
<button>{{if eq .Stage "m.login.terms"}}I agree{{else}}Continue{{end}}</button></form></body></html>`

// donePage tells the client that a stage is done, in the words of the specification.
const donePage = pageText + `<p>You can close this page.</p><script nonce="{{.Nonce}}">
if (window.onAuthDone) {
    window.onAuthDone();
} else if (window.opener && window.opener.postMessage) {
    window.opener.postMessage("authDone", "*");
}
</script></body></html>`

// errorPage says why there is nothing to do.
const errorPage = pageText + `</body></html>`

// loginPage logs in and hands the answer to the client that shows the page.
const loginPage = pageText + `<form id="form">{{template "user"}}<button>Log in</button></form><script nonce="{{.Nonce}}">
document.getElementById("form").addEventListener("submit", async (event) => {
    event.preventDefault();
    const form = new FormData(event.target), message = document.getElementById("message");
    const query = new URLSearchParams(location.search), request = {};
    for (const name of ["device_id", "initial_device_display_name"]) {
        if (query.has(name)) {
            request[name] = query.get(name);
        }
    }
    request.refresh_token = query.get("refresh_token") === "true";
    request.type = "m.login.password";
    request.identifier = {type: "m.id.user", user: form.get("user")};
    request.password = form.get("password");
    try {
        const answer = await fetch("../../../client/v3/login", {method: "POST", body: JSON.stringify(request)});
        const body = await answer.json();
        if (!answer.ok) {
            message.textContent = body.error || "That did not work.";
        } else if (window.matrixLogin && window.matrixLogin.onLogin) {
            window.matrixLogin.onLogin(body);
        } else if (window.onLogin) {
            window.onLogin(body.user_id, body.access_token, body.home_server);
        } else {
            message.textContent = "You are logged in, but the client that opened this page is gone.";
        }
    } catch (error) {
        message.textContent = "The server cannot be reached.";
    }
});
</script></body></html>`

// writePage sends a page that no other site may frame and in which no script runs but its own.
func (s *Service) writePage(w http.ResponseWriter, status int, text string, p page) error {
	nonce, err := s.newToken("")
	if err != nil {
		return err
	}
	p.Nonce = nonce
	tmpl, err := template.New("page").Parse(text)
	if err != nil {
		return fmt.Errorf("parse a page: %w", err)
	}
	var body bytes.Buffer
	if err := tmpl.Execute(&body, p); err != nil {
		return fmt.Errorf("write a page: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; connect-src 'self'; form-action 'self'; "+
		"frame-ancestors 'none'; base-uri 'none'; script-src 'nonce-"+nonce+"'")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // whether the client got it cannot be known
	return nil
}

// loginFallback implements GET /_matrix/static/client/login/.
//
// https://spec.matrix.org/latest/client-server-api/#login-fallback
func (s *Service) loginFallback(w http.ResponseWriter, _ *httpapi.Call) error {
	if !slices.Contains(s.loginTypes(), TypePassword) {
		return mxerr.Unrecognized
	}
	return s.writePage(w, http.StatusOK, loginPage, page{Title: "Log in to " + string(s.cfg.ServerName)})
}

// stageFallback implements GET /_matrix/client/v3/auth/{authType}/fallback/web.
//
// https://spec.matrix.org/latest/client-server-api/#fallback
func (s *Service) stageFallback(w http.ResponseWriter, c *httpapi.Call) error {
	return s.showStage(w, c, c.Query("session"), nil)
}

// submitStage implements POST /_matrix/client/v3/auth/{authType}/fallback/web.
//
// The form of the page that the GET of this path shows.
// https://spec.matrix.org/latest/client-server-api/#fallback
func (s *Service) submitStage(w http.ResponseWriter, c *httpapi.Call) error {
	c.Request.Body = http.MaxBytesReader(w, c.Request.Body, maxInteractiveBody)
	if err := c.Request.ParseForm(); err != nil {
		return mxerr.BadRequest.With("the form cannot be read")
	}
	form := c.Request.PostForm
	auth, err := json.Marshal(map[string]string{
		"user": form.Get("user"), "password": form.Get("password"), "token": form.Get("token"),
	})
	if err != nil {
		return err
	}
	return s.showStage(w, c, form.Get("session"), auth)
}

// showStage tries the stage of a session when auth is not nil, and then shows how it stands.
func (s *Service) showStage(w http.ResponseWriter, c *httpapi.Call, session string, auth json.RawMessage) error {
	ctx, stage := c.Request.Context(), c.PathValue("authType")
	p := s.proofs.find(session, s.cfg.Now())
	if p == nil {
		return s.writePage(w, http.StatusNotFound, errorPage, page{Title: "This has ended", Message: "Please begin again in your client."})
	}
	done, err := s.passStage(ctx, p, stage, auth)
	var failed *mxerr.Error
	switch {
	case done:
		return s.writePage(w, http.StatusOK, donePage, page{Title: "Thank you"})
	case errors.As(err, &failed):
		return s.writePage(w, failed.Status, stagePage, s.stagePage(p, stage, failed.Message))
	case err != nil:
		return err
	}
	return s.writePage(w, http.StatusOK, stagePage, s.stagePage(p, stage, ""))
}

func (s *Service) stagePage(p *proof, stage, message string) page {
	out := page{Title: string(s.cfg.ServerName), Session: p.session, Stage: stage, Message: message}
	for _, policy := range s.cfg.Registration.Terms {
		for _, text := range policy.Texts {
			out.Policies = append(out.Policies, text)
		}
	}
	return out
}

// passStage tries a stage outside the client and reports whether it is passed, now or before. Without auth it only looks.
func (s *Service) passStage(ctx context.Context, p *proof, stage string, auth json.RawMessage) (bool, error) {
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return false, ctx.Err()
	}
	defer p.release()
	if p.spent || slices.Contains(p.completed, stage) {
		return true, nil
	}
	if !p.isNext(stage) {
		return false, mxerr.NotFound.With("this step is not the next one")
	}
	if auth == nil {
		return false, nil
	}
	err := s.stage(ctx, &attempt{proof: p, auth: auth}, stage)
	var again retry
	if errors.As(err, &again) {
		return false, again.why.WithStatus(http.StatusForbidden)
	}
	if err == nil {
		p.completed = append(p.completed, stage)
	}
	return err == nil, err
}
