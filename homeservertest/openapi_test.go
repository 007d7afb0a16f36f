package homeservertest_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest/openapi"
)

// TestMain has every server of these tests judged by the specification's descriptions, if they are where they use to be.
func TestMain(m *testing.M) {
	if _, err := os.Stat(specificationFolder()); err == nil {
		os.Setenv(openapi.Variable, specificationFolder()) //nolint:errcheck // the name is one
	}
	os.Exit(m.Run())
}

// specificationFolder is where the descriptions are. They are not part of this repository.
func specificationFolder() string {
	if folder := os.Getenv(openapi.Variable); folder != "" {
		return folder
	}
	return filepath.Join("..", "..", "shared", "spec", "openapi")
}

// loadSpecification returns nil when the descriptions are not there, and says so: a plain `go test` does not
// need them, CI does.
func loadSpecification(t *testing.T) *openapi.Specification {
	t.Helper()
	if _, err := os.Stat(specificationFolder()); err != nil {
		require.Empty(t, os.Getenv("CI"), "CI checks answers against the specification: %v", err)
		t.Logf("answers are not checked against the specification: set %s to its OpenAPI folder (%v)", openapi.Variable, err)
		return nil
	}
	spec, err := openapi.Load(specificationFolder())
	require.NoError(t, err)
	return spec
}

// watched is a client's transport that has every answer judged. A nil specification judges nothing.
type watched struct {
	t    *testing.T
	spec *openapi.Specification
	to   http.Handler
}

// RoundTrip asks the handler in process. An answer that does not fit fails the test.
func (w *watched) RoundTrip(r *http.Request) (*http.Response, error) {
	recorder := httptest.NewRecorder()
	served := r.Clone(r.Context())
	served.RequestURI, served.RemoteAddr, served.Host = r.URL.RequestURI(), "203.0.113.1:5000", r.URL.Host
	if served.Body == nil {
		served.Body = http.NoBody
	}
	w.to.ServeHTTP(recorder, served)
	beyond := strings.Contains(r.URL.RawQuery, "org.matrix.msc") // a parameter that may make it another answer
	if w.spec != nil && !beyond {
		err := w.spec.Judge(r.Method, r.URL, recorder.Code, recorder.Header(), recorder.Body.Bytes())
		if err != nil {
			w.t.Errorf("answer does not fit the specification: %v", err)
		}
	}
	response := recorder.Result()
	response.Request = r
	return response, nil
}

func TestWatchedPassesAnswersOn(t *testing.T) {
	server := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, r.Method+" "+r.RequestURI)
	})
	client := http.Client{Transport: &watched{t: t, to: server}}
	response, err := client.Get("http://hs/a%2Fb?c=d")
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusTeapot, response.StatusCode)
	require.Equal(t, "GET /a%2Fb?c=d", string(body))
}
