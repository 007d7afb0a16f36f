package homeservertest_test

import (
	"go/ast"
	"go/importer"
	"go/token"
	"go/types"
	"io"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestNoMutableState: a package-level variable is a constant that Go has no const for. Nobody writes to
// it, and it holds nothing that changes by itself, so that many servers can live in one process.
func TestNoMutableState(t *testing.T) {
	files := map[string]string{} // of export data, by import path
	for _, p := range golist(t, "-deps", "-export", "./...") {
		files[p.ImportPath] = p.Export
	}
	lookup := func(path string) (io.ReadCloser, error) { return os.Open(files[path]) }
	fset := token.NewFileSet()
	imported := importer.ForCompiler(fset, "gc", lookup)

	for _, p := range packages(t) {
		if strings.HasPrefix(p.name(), "examples/") {
			continue // programs, not guests in one
		}
		info := &types.Info{Defs: map[*ast.Ident]types.Object{}, Uses: map[*ast.Ident]types.Object{}, Selections: map[*ast.SelectorExpr]*types.Selection{}}
		parsed := p.files(t, fset)
		_, err := (&types.Config{Importer: imported}).Check(p.ImportPath, fset, parsed, info)
		require.NoError(t, err, p.name())
		w := &watch{t: t, fset: fset, info: info}
		for _, f := range parsed {
			w.variables(f)
			ast.Inspect(f, w.writes)
		}
	}
}

// watch looks for package-level variables that can change.
type watch struct {
	t    *testing.T
	fset *token.FileSet
	info *types.Info
}

// variables refuses variables of types that change by themselves.
func (w *watch) variables(f *ast.File) {
	for _, d := range f.Decls {
		decl, ok := d.(*ast.GenDecl)
		if !ok || decl.Tok != token.VAR {
			continue
		}
		for _, spec := range decl.Specs {
			for _, name := range spec.(*ast.ValueSpec).Names {
				if object := w.info.Defs[name]; name.Name != "_" && object != nil && changes(object.Type(), 0) {
					w.t.Errorf("%s: package-level %s is a %s, which changes", w.fset.Position(name.Pos()), name.Name, object.Type())
				}
			}
		}
	}
}

// changes reports whether values of a type are made to change: locks, pools, channels, clients, generators.
func changes(t types.Type, depth int) bool {
	if depth > 8 {
		return false
	}
	if named, ok := types.Unalias(t).(*types.Named); ok && named.Obj().Pkg() != nil {
		switch path := named.Obj().Pkg().Path(); path {
		case "sync", "sync/atomic", "math/rand", "math/rand/v2", "net/http", "database/sql", "log", "log/slog", "time":
			_, isStruct := named.Underlying().(*types.Struct)
			return isStruct && named.Obj().Name() != "Time" && named.Obj().Name() != "Location"
		}
	}
	switch u := t.Underlying().(type) {
	case *types.Chan:
		return true
	case *types.Pointer:
		return changes(u.Elem(), depth+1)
	case *types.Slice:
		return changes(u.Elem(), depth+1)
	case *types.Array:
		return changes(u.Elem(), depth+1)
	case *types.Map:
		return changes(u.Elem(), depth+1)
	case *types.Struct:
		for field := range u.Fields() {
			if changes(field.Type(), depth+1) {
				return true
			}
		}
	}
	return false
}

// writes refuses what changes a package-level variable, of this package or of another.
func (w *watch) writes(n ast.Node) bool {
	switch x := n.(type) {
	case *ast.AssignStmt:
		if x.Tok != token.DEFINE {
			for _, left := range x.Lhs {
				w.refuse(left, "is assigned to")
			}
		}
	case *ast.IncDecStmt:
		w.refuse(x.X, "is counted")
	case *ast.RangeStmt:
		if x.Tok == token.ASSIGN {
			w.refuse(x.Key, "is assigned to")
			w.refuse(x.Value, "is assigned to")
		}
	case *ast.UnaryExpr:
		if _, isElement := x.X.(*ast.IndexExpr); x.Op == token.AND && !isElement { // &table[i] is how rows are lent
			w.refuse(x.X, "has its address taken")
		}
	case *ast.CallExpr:
		if fn, ok := x.Fun.(*ast.Ident); ok && (fn.Name == "delete" || fn.Name == "clear" || fn.Name == "copy") && len(x.Args) > 0 {
			w.refuse(x.Args[0], "is changed by "+fn.Name)
		}
	case *ast.SelectorExpr:
		w.methodOnAddress(x)
	}
	return true
}

// methodOnAddress refuses v.Method where v is a variable whose address the method gets.
func (w *watch) methodOnAddress(x *ast.SelectorExpr) {
	selection := w.info.Selections[x]
	if selection == nil || selection.Kind() != types.MethodVal {
		return
	}
	_, takesPointer := selection.Obj().(*types.Func).Signature().Recv().Type().(*types.Pointer)
	if _, isPointer := selection.Recv().Underlying().(*types.Pointer); takesPointer && !isPointer {
		w.refuse(x.X, "has a method called that can change it")
	}
}

// refuse reports expressions that lead to a package-level variable.
func (w *watch) refuse(e ast.Expr, what string) {
	for {
		switch x := e.(type) {
		case *ast.ParenExpr:
			e = x.X
			continue
		case *ast.IndexExpr:
			e = x.X
			continue
		case *ast.SliceExpr:
			e = x.X
			continue
		case *ast.StarExpr:
			e = x.X
			continue
		case *ast.SelectorExpr:
			if _, isField := w.info.Selections[x]; isField {
				e = x.X
				continue
			}
			w.refuseIdent(x.Sel, what) // of another package
		case *ast.Ident:
			w.refuseIdent(x, what)
		}
		return
	}
}

func (w *watch) refuseIdent(name *ast.Ident, what string) {
	v, ok := w.info.Uses[name].(*types.Var)
	if ok && !v.IsField() && v.Pkg() != nil && v.Parent() == v.Pkg().Scope() {
		w.t.Errorf("%s: package-level %s %s", w.fset.Position(name.Pos()), v.Name(), what)
	}
}
