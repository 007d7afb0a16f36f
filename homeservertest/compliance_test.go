package homeservertest_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// duties counts the duties of each area that has a row for every one of them.
var duties = map[string]int{
	"SB": 32, "DI": 7, "AU": 19, "UI": 22, "LO": 15, "RE": 14, "CA": 4, "DM": 5, "FI": 13, "EV": 17, "SY": 44, "RC": 23,
	"ME": 27, "ST": 16, "HV": 8, "PA": 24, "AD": 7, "RV": 8, "AR": 15, "PT": 13, "PR": 7, "MD": 18,
	"SR": 11, "FD": 20, "FT": 15, "FP": 26, "FH": 15, "FM": 15, "FQ": 13, "MO": 10, "LK": 7, "DR": 18,
}

// duty is a row of COMPLIANCE.md.
type duty struct {
	name, state, note string
	tests             []string // "package.TestName"
}

// complianceRows reads the rows of every table of COMPLIANCE.md.
func complianceRows(t *testing.T) (all []duty) {
	t.Helper()
	text, err := os.ReadFile("../COMPLIANCE.md")
	require.NoError(t, err)
	for line := range strings.Lines(string(text)) {
		cells := strings.Split(strings.TrimSpace(line), "|")
		if len(cells) < 2 || strings.Contains(line, "---") || strings.TrimSpace(cells[1]) == "Duty" {
			continue
		}
		require.Len(t, cells, 6, "a row has four cells: %s", line)
		all = append(all, duty{
			name: strings.TrimSpace(cells[1]), state: strings.TrimSpace(cells[2]),
			tests: strings.Fields(cells[3]), note: strings.TrimSpace(cells[4]),
		})
	}
	return all
}

// testNames lists the tests and fuzz tests of the module as "folder.TestName".
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	require.NoError(t, filepath.WalkDir("..", func(file string, _ fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(file, "_test.go") {
			return err
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		folder := path.Base(path.Dir(filepath.ToSlash(file)))
		if folder == ".." {
			folder = "homeserver"
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if ok && (strings.HasPrefix(fn.Name.Name, "Test") || strings.HasPrefix(fn.Name.Name, "Fuzz")) {
				names[folder+"."+fn.Name.Name] = true
			}
		}
		return nil
	}))
	return names
}

// TestComplianceIsTrueOfItsTests: what COMPLIANCE.md calls done names a test, every test that it names exists, and
// what is not done says what is missing.
func TestComplianceIsTrueOfItsTests(t *testing.T) {
	names := testNames(t)
	for _, d := range complianceRows(t) {
		for _, name := range d.tests {
			require.True(t, names[name], "%s names %s, which is no test", d.name, name)
		}
		switch d.state {
		case "done":
			require.NotEmpty(t, d.tests, "%s is done by no test", d.name)
		case "part", "later":
			require.NotEmpty(t, d.note, "%s is %s without saying why", d.name, d.state)
		default:
			t.Errorf("%s is %q, which is no state", d.name, d.state)
		}
		require.LessOrEqual(t, len(strings.Fields(d.note)), 12, "the note of %s is long", d.name)
	}
}

// TestComplianceIsWhole: every duty of the areas of this piece has one row.
func TestComplianceIsWhole(t *testing.T) {
	rows := map[string]int{}
	for _, d := range complianceRows(t) {
		rows[d.name]++
		require.Equal(t, 1, rows[d.name], "%s has two rows", d.name)
	}
	for area, n := range duties {
		for i := 1; i <= n; i++ {
			number := strconv.Itoa(i)
			name := area + "-" + strings.Repeat("0", 2-len(number)) + number
			require.Equal(t, 1, rows[name], "%s has no row", name)
		}
	}
}
