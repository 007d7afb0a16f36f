package httpapi_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

// FuzzRouter: any request to any path is answered with JSON and CORS, and never with a 5xx; an
// error says so in errcode and error.
func FuzzRouter(f *testing.F) {
	f.Add("GET", "/_matrix/client/versions", "", "")
	f.Add("PUT", v3+"/rooms/!a%2Fb:hs/send/m.x/1?access_token=alice", "alice", `{"body":"hi"}`)
	f.Add("GET", v3+"/rooms/!a:hs/state/m.x/%00", "alice", "")
	f.Add("POST", v3+"/form", "", `{"name":1,"inner":[[]]}`)
	f.Add("DELETE", v3+"/form", "", "\xff")
	f.Add("OPTIONS", "*", "", "")
	f.Add("GET", "//a//..//%2e%2e/%2F?%zz;&=", "guest", "")
	h := newRouter()
	f.Fuzz(func(t *testing.T, method, target, token, body string) {
		u, err := url.ParseRequestURI(target)
		if err != nil || strings.Contains(u.Path, "/fail/") || strings.Contains(u.Path, "/raw") || strings.Contains(target+token, "broken") {
			return // net/http refuses it, or the endpoint is there to fail
		}
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method, r.URL, r.RequestURI = method, u, target
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if w.Code >= 500 {
			t.Fatalf("%s %s: %d %s", method, target, w.Code, w.Body)
		}
		if w.Header().Get("Access-Control-Allow-Origin") != "*" || w.Header().Get("Content-Type") != "application/json" {
			t.Fatalf("%s %s: headers %v", method, target, w.Header())
		}
		var answer map[string]any
		if err := json.Unmarshal(w.Body.Bytes(), &answer); err != nil {
			t.Fatalf("%s %s: %v in %s", method, target, err, w.Body)
		}
		if w.Code >= http.StatusBadRequest && (answer["errcode"] == nil || answer["error"] == nil) {
			t.Fatalf("%s %s: no standard error: %s", method, target, w.Body)
		}
	})
}
