package homeservertest_test

import (
	"cmp"
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/homeservertest"
)

var update = flag.Bool("update", false, "write ENDPOINTS.md anew")

// endpoints writes ENDPOINTS.md: from the specification's list, the routes, what is listed as absent, and /versions.
func endpoints(t *testing.T) string {
	t.Helper()
	all := rows(t, packages(t))
	var text strings.Builder
	text.WriteString(endpointsHead)
	for _, part := range []struct{ api, title string }{
		{"well-known", "Well-known files"}, {"client-server", "Client-server API"}, {"server-server", "Server-server API"},
	} {
		fmt.Fprintf(&text, "\n## %s\n\n%s", part.title, endpointRows(t, all, part.api))
	}
	text.WriteString(unstableRows(t, all))
	return text.String()
}

const endpointsHead = `# Endpoints

Every endpoint of the specification that a homeserver serves, the version that brought it, and whether this server serves it.
Of what is served, ` + "`homeservertest.TestEveryAnswerFitsTheSpecification`" + ` has seen a good answer that fits its schema, and
` + "`homeservertest.TestBadInput`" + ` that requests which break a constraint are refused. What each must do is in
[COMPLIANCE.md](COMPLIANCE.md).

This file is written by ` + "`go test ./homeservertest -run TestEndpoints -update`" + `; a test compares it.
`

// endpointRows is the table of an API.
func endpointRows(t *testing.T, all []*row, api string) string {
	t.Helper()
	absent := map[string]string{}
	for _, e := range table(t, "absent.tsv") {
		absent[e["method"]+" "+e["path"]] = e["reason"]
	}
	var lines []string
	served := 0
	for _, e := range table(t, "endpoints.tsv") {
		if e["api"] != api || !strings.HasPrefix(e["direction"], "serve") || e["method"] == "OPTIONS" {
			continue
		}
		o := operation{method: e["method"], path: e["path"]}
		state := "absent: " + absent[o.String()]
		if r := serving(all, o); r != nil {
			state, served = "served: `"+r.pkg.name()+"."+r.handler+"`", served+1
		}
		since := e["added_in"]
		if end := e["deprecated_or_removed"]; end != "" {
			since += ", " + end
		}
		lines = append(lines, fmt.Sprintf("| %s | `%s` | %s | %s |\n", e["method"], e["path"], strings.ReplaceAll(since, "<=v1.1", "v1.1 or before"), state))
	}
	slices.SortStableFunc(lines, func(a, b string) int { return cmp.Compare(strings.Split(a, "|")[2], strings.Split(b, "|")[2]) })
	return fmt.Sprintf("%d of %d are served.\n\n| Method | Path | Since | State |\n|---|---|---|---|\n%s", served, len(lines), strings.Join(lines, ""))
}

// unstableRows are the features that /versions tells, and the paths that are not stable.
func unstableRows(t *testing.T, all []*row) string {
	t.Helper()
	told := homeservertest.New(t).User("alice").Do("GET", "/_matrix/client/versions", nil).WantOK()
	var text strings.Builder
	fmt.Fprintf(&text, "\n## Unstable features\n\nThe versions that `/versions` tells are %s.\n\n| Feature | Told |\n|---|---|\n", list(told.Get("versions").Array()))
	features := told.Get("unstable_features").Map()
	for _, name := range slices.Sorted(maps.Keys(features)) {
		fmt.Fprintf(&text, "| `%s` | %s |\n", name, features[name].Raw)
	}
	text.WriteString("\n| Method | Path that is not stable | Stable path | Handler |\n|---|---|---|---|\n")
	var lines []string
	for _, r := range all {
		for _, pattern := range r.patterns() {
			if method, path, _ := strings.Cut(pattern, " "); strings.Contains(path, "/unstable/") {
				lines = append(lines, fmt.Sprintf("| %s | `%s` | %s | `%s.%s` |\n", method, path, stable(r), r.pkg.name(), r.handler))
			}
		}
	}
	slices.Sort(lines)
	text.WriteString(strings.Join(lines, ""))
	return text.String()
}

// stable is the path of the specification that a route serves too.
func stable(r *row) string {
	for _, pattern := range r.patterns() {
		if !strings.Contains(pattern, "/unstable/") {
			_, path, _ := strings.Cut(pattern, " ")
			return "`" + path + "`"
		}
	}
	return ""
}

func list[T fmt.Stringer](all []T) string {
	var texts []string
	for _, one := range all {
		texts = append(texts, one.String())
	}
	return strings.Join(texts, ", ")
}

// TestEndpoints: ENDPOINTS.md says what is true.
func TestEndpoints(t *testing.T) {
	want := endpoints(t)
	if *update {
		require.NoError(t, os.WriteFile("../ENDPOINTS.md", []byte(want), 0o644))
	}
	got, err := os.ReadFile("../ENDPOINTS.md")
	require.NoError(t, err)
	require.Equal(t, want, string(got), "write it anew: go test ./homeservertest -run TestEndpoints -update")
	require.NotContains(t, want, "absent:  |", "what is absent has a reason")
}
