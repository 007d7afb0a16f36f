package homeservertest_test

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// These are the tests of the house: they guard the layout that ARCHITECTURE.md describes, not what the
// server does.

const module = "github.com/embedmatrix/homeserver"

// pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath string
	Dir        string
	Doc        string
	Export     string
	Standard   bool
	GoFiles    []string
	Imports    []string
	Deps       []string
}

// name is the path of the package inside the module; "." is the root.
func (p *pkg) name() string {
	if p.ImportPath == module {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, module+"/")
}

// files parses the package's files without its tests.
func (p *pkg) files(t *testing.T, fset *token.FileSet) []*ast.File {
	t.Helper()
	var files []*ast.File
	for _, name := range p.GoFiles {
		f, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.ParseComments)
		require.NoError(t, err)
		files = append(files, f)
	}
	return files
}

func golist(t *testing.T, args ...string) []*pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Doc,Export,Standard,GoFiles,Imports,Deps"}, args...)...)
	cmd.Dir = ".."
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	require.NoError(t, err, "go list %v", args)
	var all []*pkg
	for d := json.NewDecoder(strings.NewReader(string(out))); d.More(); {
		p := &pkg{}
		require.NoError(t, d.Decode(p))
		all = append(all, p)
	}
	return all
}

// packages are those of the module that have code beside tests.
func packages(t *testing.T) []*pkg {
	t.Helper()
	return slices.DeleteFunc(golist(t, "./..."), func(p *pkg) bool { return len(p.GoFiles) == 0 })
}

func TestEveryPackageHasAComment(t *testing.T) {
	for _, p := range packages(t) {
		require.NotEmpty(t, p.Doc, "%s has no package comment", p.name())
	}
}

// TestImports: who may import whom. The table stands in house.md and ARCHITECTURE.md; a package that is
// in no row is a fault too.
func TestImports(t *testing.T) {
	const (
		leaves = "internal/id internal/mxerr internal/canonjson "
		core   = leaves + "internal/signing internal/roomversion internal/notify "
		domain = core + "internal/* storage "
	)
	table := []struct{ packages, may string }{
		{"internal/id internal/mxerr internal/canonjson internal/roomversion internal/notify internal/inprocess", "internal/id internal/mxerr"},
		{"internal/signing internal/httpapi internal/token internal/filter", leaves},
		{"internal/event", core},
		{"internal/eventauth", core + "internal/event"},
		{"internal/stateres", core + "internal/event internal/eventauth"},
		{"internal/pushrules", core + "internal/event internal/eventauth internal/stateres"},
		{"internal/ephemeral", core + "internal/event internal/eventauth"},
		{"internal/roomstate", core + "internal/event internal/eventauth internal/stateres storage"}, // what is cold is read from storage
		{"storage", "internal/id internal/event internal/roomversion"},
		{"auth rooms sync media sync/push", domain},
		{"auth/e2ee federation/appservice", domain + "auth"},
		{"federation", domain + "rooms auth/e2ee federation/wire federation/keyring"},
		{"federation/keyring", domain + "federation/wire"},
		{"federation/wire", leaves + "internal/signing"},
		{"storage/sqlite storage/postgres", "storage"},
		{"storage/storagetest", domain},
		{"storage/postgres/postgrestest", "storage storage/postgres"},
		{"media/s3 media/mediatest", "media"},
		{"auth/oidc auth/authtest", "auth"},
		{"metrics/prom", "."},
		{".", domain + "auth auth/e2ee rooms sync sync/push media federation federation/wire federation/keyring federation/appservice"},
		{"homeservertest/naive", core + "internal/event internal/eventauth"}, // what tests compare stateres with
		{"homeservertest/openapi", "internal/id"},
		{"homeservertest", ". auth media storage storage/sqlite internal/inprocess federation/wire homeservertest/openapi " + core + "internal/event internal/eventauth"},
		{"examples/*", ". storage/sqlite storage/postgres media media/s3 auth auth/oidc metrics/prom"},
	}
	for _, p := range packages(t) {
		row := slices.IndexFunc(table, func(r struct{ packages, may string }) bool { return listed(r.packages, p.name()) })
		require.GreaterOrEqual(t, row, 0, "%s has no row in the table of imports", p.name())
		for _, imported := range p.Imports {
			if imported != module && !strings.HasPrefix(imported, module+"/") {
				continue
			}
			name := (&pkg{ImportPath: imported}).name()
			require.True(t, listed(table[row].may, name), "%s may not import %s", p.name(), name)
		}
	}
}

// listed reports whether name matches one of the patterns in a list; * is any one element.
func listed(list, name string) bool {
	return slices.ContainsFunc(strings.Fields(list), func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return err == nil && ok
	})
}

// TestPureCore: what decides about events does no I/O.
func TestPureCore(t *testing.T) {
	pure := "internal/id internal/mxerr internal/canonjson internal/signing internal/roomversion internal/event internal/eventauth internal/stateres internal/pushrules"
	for _, p := range packages(t) {
		if !listed(pure, p.name()) {
			continue
		}
		for _, io := range []string{"os", "net", "net/http", "database/sql", "log/slog", "os/exec", "io/fs"} {
			require.NotContains(t, p.Imports, io, "%s is pure", p.name())
		}
	}
}

// TestRootLinksNoDriver: a host that brings its own database links only that.
func TestRootLinksNoDriver(t *testing.T) {
	for _, p := range golist(t, ".", "./storage") {
		for _, dep := range p.Deps {
			driver := strings.HasPrefix(dep, "modernc.org/") || strings.HasPrefix(dep, "github.com/jackc/") ||
				dep == module+"/storage/sqlite" || dep == module+"/storage/postgres" || dep == "testing"
			require.False(t, driver, "%s links %s", p.name(), dep)
		}
	}
}

// row is one row of a route table as it stands in the source.
type row struct {
	pkg     *pkg
	where   string
	access  string // Public, OptionalToken, Authed, GuestOK, Server
	method  string
	path    string
	also    []string // "METHOD /path"
	handler string
	options []string // RateLimited, …
}

func (r *row) patterns() []string { return append([]string{r.method + " " + r.path}, r.also...) }

// rows reads every call of httpapi.Handle and HandleRaw in the module.
func rows(t *testing.T, packages []*pkg) []*row {
	t.Helper()
	var all []*row
	for _, p := range packages {
		if !slices.Contains(p.Imports, module+"/internal/httpapi") {
			continue
		}
		fset := token.NewFileSet()
		for _, f := range p.files(t, fset) {
			ast.Inspect(f, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if ok && (httpapiName(call.Fun) == "Handle" || httpapiName(call.Fun) == "HandleRaw") {
					all = append(all, readRow(t, p, fset, call))
				}
				return true
			})
		}
	}
	return all
}

func readRow(t *testing.T, p *pkg, fset *token.FileSet, call *ast.CallExpr) *row {
	t.Helper()
	at := fset.Position(call.Pos())
	where := fmt.Sprintf("%s/%s:%d", p.name(), filepath.Base(at.Filename), at.Line)
	require.Equal(t, "routes.go", filepath.Base(at.Filename), "%s: rows of the route table stand in routes.go", where)
	require.GreaterOrEqual(t, len(call.Args), 3, where)
	r := &row{pkg: p, where: where, access: httpapiName(call.Args[0]), handler: handlerName(call.Args[2])}
	require.NotEmpty(t, r.access, "%s: the access of a row is one of httpapi's", where)
	require.NotEmpty(t, r.handler, "%s: the handler of a row is a method or function with a name", where)
	r.method, r.path = cutPattern(t, where, call.Args[1])
	for _, option := range call.Args[3:] {
		o, ok := option.(*ast.CallExpr)
		require.True(t, ok, "%s: an option of a row is a call", where)
		name := httpapiName(o.Fun)
		require.NotEmpty(t, name, "%s: an option of a row is one of httpapi's", where)
		r.options = append(r.options, name)
		if name == "Also" {
			method, path := cutPattern(t, where, o.Args[0])
			r.also = append(r.also, method+" "+path)
		}
	}
	return r
}

// httpapiName is X of an expression httpapi.X, with or without type arguments.
func httpapiName(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.IndexExpr:
		return httpapiName(x.X)
	case *ast.IndexListExpr:
		return httpapiName(x.X)
	case *ast.SelectorExpr:
		if from, ok := x.X.(*ast.Ident); ok && from.Name == "httpapi" {
			return x.Sel.Name
		}
	}
	return ""
}

func handlerName(e ast.Expr) string {
	switch x := e.(type) {
	case *ast.SelectorExpr:
		return x.Sel.Name
	case *ast.Ident:
		return x.Name
	}
	return ""
}

// cutPattern reads a pattern: a literal, or literals and constants of the same file joined by +.
func cutPattern(t *testing.T, where string, e ast.Expr) (method, path string) {
	t.Helper()
	text, ok := constant(e)
	require.True(t, ok, "%s: a pattern is written out, so that it can be searched for", where)
	method, path, ok = strings.Cut(text, " ")
	require.True(t, ok, "%s: %q is not \"METHOD /path\"", where, text)
	return method, path
}

func constant(e ast.Expr) (string, bool) {
	switch x := e.(type) {
	case *ast.BasicLit:
		text, err := strconv.Unquote(x.Value)
		return text, err == nil
	case *ast.BinaryExpr:
		left, ok := constant(x.X)
		right, okToo := constant(x.Y)
		return left + right, ok && okToo
	case *ast.Ident:
		if x.Obj != nil && x.Obj.Kind == ast.Con {
			return constant(x.Obj.Decl.(*ast.ValueSpec).Values[0])
		}
	}
	return "", false
}

// TestHandlersNameTheirSpecification: the doc of a handler says which path it implements and where the
// specification has it.
func TestHandlersNameTheirSpecification(t *testing.T) {
	all := packages(t)
	found := rows(t, all)
	require.NotEmpty(t, found)
	docs := map[string]string{} // by package and name
	for _, p := range all {
		for _, f := range p.files(t, token.NewFileSet()) {
			for _, d := range f.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok {
					docs[p.name()+" "+fn.Name.Name] += fn.Doc.Text()
				}
			}
		}
	}
	for _, r := range found {
		doc := docs[r.pkg.name()+" "+r.handler]
		want := r.method + " " + strings.TrimSuffix(r.path, "/{$}")
		require.Contains(t, doc, want, "%s: the doc of %s does not name its path", r.where, r.handler)
		switch {
		case strings.Contains(r.path, "/unstable/"):
			require.Contains(t, doc, "https://github.com/matrix-org/matrix-spec-proposals/pull/", "%s: the doc of %s does not name its proposal", r.where, r.handler)
		case strings.HasPrefix(r.path, "/_matrix/") || strings.HasPrefix(r.path, "/.well-known/"):
			require.Contains(t, doc, "https://spec.matrix.org/", "%s: the doc of %s does not name its section", r.where, r.handler)
		}
	}
}

// operation is a row of testdata/endpoints.tsv.
type operation struct{ method, path, auth, rateLimited, guest string }

func (o operation) String() string { return o.method + " " + o.path }

// table reads a file with a header of testdata.
func table(t *testing.T, name string) []map[string]string {
	t.Helper()
	f, err := os.Open("../testdata/" + name)
	require.NoError(t, err)
	defer f.Close()
	reader := csv.NewReader(f)
	reader.Comma, reader.LazyQuotes = '\t', true
	lines, err := reader.ReadAll()
	require.NoError(t, err)
	var all []map[string]string
	for _, line := range lines[1:] {
		entry := map[string]string{}
		for i, key := range lines[0] {
			entry[key] = line[i]
		}
		all = append(all, entry)
	}
	return all
}

// operations are what a homeserver serves. OPTIONS is the door's, on every path.
func operations(t *testing.T) []operation {
	t.Helper()
	var all []operation
	for _, e := range table(t, "endpoints.tsv") {
		ours := e["api"] == "client-server" || e["api"] == "server-server" || e["api"] == "well-known"
		if ours && strings.HasPrefix(e["direction"], "serve") && e["method"] != "OPTIONS" {
			all = append(all, operation{e["method"], e["path"], e["auth"], e["rate_limited"], e["guest"]})
		}
	}
	require.NotEmpty(t, all)
	return all
}

// serves reports whether a request for the operation may reach the pattern.
func serves(pattern string, o operation) bool {
	method, path, _ := strings.Cut(pattern, " ")
	return method == o.method && takes(path, strings.TrimSuffix(o.path, "/"))
}

// takes compares paths. A wildcard may take what the specification writes out: profile/{userId}/{keyName}
// takes profile/{userId}/displayname. A {$} stands for an optional slash, behind which a last wildcard is
// empty: state/{eventType}/{$} takes a part of state/{eventType}/{stateKey}.
func takes(ours, theirs string) bool {
	if bare, ok := strings.CutSuffix(ours, "/{$}"); ok {
		parent, last := path.Split(theirs)
		return takes(bare, theirs) || strings.HasPrefix(last, "{") && takes(bare, strings.TrimSuffix(parent, "/"))
	}
	a, b := strings.Split(ours, "/"), strings.Split(theirs, "/")
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] && (!strings.HasPrefix(a[i], "{") || strings.HasPrefix(b[i], "{")) {
			return false
		}
	}
	return true
}

// serving returns the row that serves an operation, or nil.
func serving(all []*row, o operation) *row {
	var found *row
	for _, r := range all {
		for _, pattern := range r.patterns() {
			exact := pattern == o.String() || pattern == o.String()+"{$}" || pattern == o.String()+"/{$}"
			if exact || (found == nil && serves(pattern, o)) {
				found = r
			}
		}
	}
	return found
}

// TestEveryOperationIsRoutedOrListedAsAbsent: no endpoint is forgotten, and none is listed that is there.
func TestEveryOperationIsRoutedOrListedAsAbsent(t *testing.T) {
	absent := map[string]string{}
	for _, e := range table(t, "absent.tsv") {
		absent[e["method"]+" "+e["path"]] = e["reason"]
	}
	all := rows(t, packages(t))
	for _, o := range operations(t) {
		reason, isAbsent := absent[o.String()]
		delete(absent, o.String())
		r := serving(all, o)
		switch {
		case r == nil && !isAbsent:
			t.Errorf("%s is neither routed nor in testdata/absent.tsv", o)
		case r != nil && isAbsent:
			t.Errorf("%s is in testdata/absent.tsv and routed at %s", o, r.where)
		case isAbsent && reason == "":
			t.Errorf("%s is in testdata/absent.tsv without a reason", o)
		}
	}
	for o := range absent {
		t.Errorf("%s is in testdata/absent.tsv but not in endpoints.tsv", o)
	}
}

// TestNoRouteOfOurOwn: a route that is in no specification is unstable or an administrator's, and says so.
func TestNoRouteOfOurOwn(t *testing.T) {
	known := operations(t)
	for _, r := range rows(t, packages(t)) {
		for _, pattern := range r.patterns() {
			inSpec := slices.ContainsFunc(known, func(o operation) bool { return serves(pattern, o) })
			_, path, _ := strings.Cut(pattern, " ")
			marked := strings.HasPrefix(path, "/_synapse/") || strings.Contains(path, "/unstable/") || strings.Contains(path, "/r0/") ||
				pattern == "GET /_matrix/key/v2/server/{keyId}" || pattern == "GET /_matrix/key/v2/query/{serverName}/{keyId}" || // until v1.5
				pattern == "POST /_matrix/client/v3/rooms/{roomId}/send/{eventType}" || // of old, without a transaction id
				pattern == "POST /_matrix/client/v3/rooms/{roomId}/redact/{eventId}" ||
				pattern == "POST /_matrix/client/v3/auth/{authType}/fallback/web" // the form of the page that GET shows
			require.True(t, inSpec || marked, "%s: %s is no operation of the specification", r.where, pattern)
		}
	}
}

// TestRowsAgreeWithTheSpecification: who may call an endpoint, and whether calls are limited.
func TestRowsAgreeWithTheSpecification(t *testing.T) {
	all := rows(t, packages(t))
	for _, o := range operations(t) {
		r := serving(all, o)
		if r == nil {
			continue
		}
		var want []string
		switch {
		case o.auth == "optional":
			want = []string{"OptionalToken"}
		case o.guest != "":
			want = []string{"GuestOK"}
		case o.auth == "access token":
			want = []string{"Authed", "GuestOK"}
		case o.auth == "none":
			want = []string{"Public", "OptionalToken"}
		case o.auth == "federation (X-Matrix)":
			want = []string{"Server"}
		default:
			want = []string{"Public"}
		}
		require.Contains(t, want, r.access, "%s: access to %s", r.where, o)
		if o.rateLimited == "y" {
			require.Contains(t, r.options, "RateLimited", "%s: %s is rate-limited in the specification", r.where, o)
		}
	}
}
