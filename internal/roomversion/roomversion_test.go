package roomversion_test

import (
	"reflect"
	"strconv"
	"testing"

	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/stretchr/testify/require"
)

func TestGet(t *testing.T) {
	for _, version := range roomversion.All() {
		rules, ok := roomversion.Get(version)
		require.True(t, ok, "Get(%q)", version)
		require.Equal(t, version, rules.Version)
	}
	for _, version := range []string{"", "0", "13", "01", "1.0", " 1", "org.matrix.msc2175"} {
		_, ok := roomversion.Get(version)
		require.False(t, ok, "Get(%q) is unknown", version)
	}
	_, ok := roomversion.Get(roomversion.Default)
	require.True(t, ok, "the default version is known")
}

func TestOrDefault(t *testing.T) {
	rules, ok := roomversion.OrDefault("")
	require.True(t, ok)
	require.Equal(t, "1", rules.Version)
	rules, ok = roomversion.OrDefault("11")
	require.True(t, ok)
	require.Equal(t, "11", rules.Version)
}

// TestTable compares the whole table with the specification, one letter per version 1 to 12.
func TestTable(t *testing.T) {
	want := map[string]string{ // version: 123456789012
		"StrictJSON":           "-----yyyyyyy",
		"EnforceKeyValidity":   "----yyyyyyyy",
		"AliasAuthRule":        "yyyyy-------",
		"RedactionAuthRule":    "yy----------",
		"NotificationLevels":   "-----yyyyyyy",
		"Knock":                "------yyyyyy",
		"Restricted":           "-------yyyyy",
		"KnockRestricted":      "---------yyy",
		"IntegerPowerLevels":   "---------yyy",
		"CreatorInContent":     "yyyyyyyyyy--",
		"RedactsInContent":     "----------yy",
		"RoomIDIsCreateHash":   "-----------y",
		"PrivilegedCreators":   "-----------y",
		"KeepJoinAuthorised":   "--------yyyy",
		"KeepCreateContent":    "----------yy",
		"KeepInviteLevel":      "----------yy",
		"KeepRedacts":          "----------yy",
		"KeepThirdPartySigned": "----------yy",
		"KeepOldTopLevel":      "yyyyyyyyyy--",
		"KeepJoinRuleAllow":    "-------yyyyy",
		"EventIDs":             "112333333333",
		"StateResolution":      "122222222223",
	}
	got := map[string]string{}
	for _, version := range roomversion.All() {
		rules, _ := roomversion.Get(version)
		v := reflect.ValueOf(*rules)
		for i := range v.NumField() {
			got[v.Type().Field(i).Name] += letter(v.Field(i))
		}
	}
	delete(got, "Version")
	require.Equal(t, want, got)
}

func letter(v reflect.Value) string {
	switch v.Kind() {
	case reflect.Bool:
		return map[bool]string{true: "y", false: "-"}[v.Bool()]
	case reflect.Int:
		return strconv.FormatInt(v.Int(), 10)
	}
	return ""
}
