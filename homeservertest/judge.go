package homeservertest

import (
	"net/http"
	"testing"

	"github.com/embedmatrix/homeserver/homeservertest/openapi"
)

// specification is what answers are judged by: nil when the environment names none, and for benchmarks.
func specification(t testing.TB) *openapi.Specification {
	t.Helper()
	if _, ok := t.(*testing.B); ok {
		return nil
	}
	spec, err := openapi.Shared()
	if err != nil {
		t.Fatalf("%s: %v", openapi.Variable, err)
	}
	return spec
}

// judged serves a request and fails the test if the answer is none that the specification knows.
func (s *Server) judged(handler http.Handler, w http.ResponseWriter, r *http.Request) {
	if s.spec == nil {
		handler.ServeHTTP(w, r)
		return
	}
	h := &heard{ResponseWriter: w, status: http.StatusOK}
	handler.ServeHTTP(h, r)
	if err := s.spec.Judge(r.Method, r.URL, h.status, w.Header(), h.body); err != nil {
		s.t.Errorf("the answer does not fit the specification: %v", err)
	}
}

// heard is an answer of which the beginning is kept.
type heard struct {
	http.ResponseWriter
	status int
	body   []byte // up to a little more than openapi.MaxBody
}

func (h *heard) WriteHeader(status int) {
	h.status = status
	h.ResponseWriter.WriteHeader(status)
}

func (h *heard) Write(p []byte) (int, error) {
	if len(h.body) <= openapi.MaxBody {
		h.body = append(h.body, p...)
	}
	return h.ResponseWriter.Write(p)
}

// Unwrap is for http.ResponseController.
func (h *heard) Unwrap() http.ResponseWriter { return h.ResponseWriter }
