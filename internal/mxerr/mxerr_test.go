package mxerr_test

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"testing"

	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/stretchr/testify/require"
)

func TestTemplatesDoNotChange(t *testing.T) {
	before := *mxerr.Forbidden
	e := mxerr.Forbidden.With("user %s", "a").Set("k", 1).WithStatus(418)
	require.Equal(t, before, *mxerr.Forbidden)
	require.Equal(t, &mxerr.Error{Code: "M_FORBIDDEN", Status: 418, Message: "user a", Extra: map[string]any{"k": 1}}, e)
}

func TestSetDoesNotChangeTheOriginal(t *testing.T) {
	one := mxerr.Forbidden.Set("k", 1)
	two := one.Set("k", 2)
	require.Equal(t, map[string]any{"k": 1}, one.Extra)
	require.Equal(t, map[string]any{"k": 2}, two.Extra)
}

func TestIsComparesCodes(t *testing.T) {
	wrapped := fmt.Errorf("join: %w", mxerr.NotFound.With("no such room"))
	require.ErrorIs(t, wrapped, mxerr.NotFound)
	require.NotErrorIs(t, wrapped, mxerr.Forbidden)
	require.NotErrorIs(t, errors.New("x"), mxerr.NotFound)
	var e *mxerr.Error
	require.ErrorAs(t, wrapped, &e)
	require.Equal(t, "M_NOT_FOUND: no such room", e.Error())
}

// SB-06, SB-07, SB-32: every template has a code of the specification's form and words for a person, and 401 is kept
// for what is wrong with a token.
func TestTemplates(t *testing.T) {
	source, err := os.ReadFile("mxerr.go")
	require.NoError(t, err)
	templates := regexp.MustCompile(`&Error\{Code: "(.*?)", Status: (\d+), Message: "(.*?)"\}`).FindAllSubmatch(source, -1)
	require.Greater(t, len(templates), 40)
	for _, m := range templates {
		code, status := string(m[1]), string(m[2])
		require.Regexp(t, `^M_[A-Z]+(_[A-Z]+)*$`, code)
		require.NotEmpty(t, m[3], code)
		token := code == "M_MISSING_TOKEN" || code == "M_UNKNOWN_TOKEN" || code == "M_UNAUTHORIZED" || code == "M_USER_LOCKED"
		require.Equal(t, token, status == "401", "%s has status %s", code, status)
	}
}
