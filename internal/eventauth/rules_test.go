package eventauth_test

import (
	"encoding/json"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// row is one rule with what it accepts and refuses.
type row struct {
	Rule     string            `json:"rule"`
	Numbers  map[string]string `json:"numbers"` // by version, or by range of versions such as "1-5"
	State    []draft           `json:"state"`   // changes to the room's state
	Accepted []attempt         `json:"accepted"`
	Refused  []attempt         `json:"refused"`
}

type attempt struct {
	draft
	Name     string   `json:"name"`
	Versions string   `json:"versions"` // those of the row by default
	State    []draft  `json:"state"`    // more changes
	Auth     []string `json:"auth"`     // in auth_events.json: places in the state
}

func TestRules(t *testing.T) {
	tested := eachCase(t, check, "create", "member", "send", "power")
	for number := range eachCase(t, checkAuthEvents, "auth_events") {
		tested[number] = true
	}
	for _, version := range roomversion.All() {
		rules, _ := roomversion.Get(version)
		number := eventauth.RejectedAuthEvent(&event.Event{Rules: rules}).Rule
		tested["v"+version+"/"+number] = true
		for _, number := range eventauth.RuleNumbers(rules) {
			require.True(t, tested["v"+version+"/"+number], "rule %s of version %s has no case in testdata", number, version)
		}
	}
}

func check(t *testing.T, r room, a attempt) error {
	e := r.event(t, a.draft)
	err := eventauth.Check(e, r)
	require.Equal(t, err, eventauth.Check(e, levelled{r, &eventauth.Memo{}}), "with power levels kept")
	return err
}

func checkAuthEvents(t *testing.T, r room, a attempt) error {
	authEvents := make([]*event.Event, len(a.Auth))
	for i, place := range a.Auth {
		eventType, stateKey, _ := strings.Cut(place, " ")
		authEvents[i] = r.Event(eventType, stateKey)
		if authEvents[i] == nil {
			authEvents[i] = r.event(t, draft{Type: eventType})
		}
	}
	return eventauth.CheckAuthEvents(r.event(t, a.draft), authEvents)
}

// eachCase runs the cases of the files and returns what rules refused an event, as "v6/4.3.3".
func eachCase(t *testing.T, verdict verdict, files ...string) map[string]bool {
	tested := map[string]bool{}
	rows := readRows(t, files)
	for _, version := range roomversion.All() {
		clean := newRoom(t, version)
		for _, r := range rows {
			number, ok := r.number(version)
			if !ok {
				continue
			}
			room := clean.with(t, r.State)
			runAll(t, verdict, room, r.Accepted, "v"+version+"/"+number+" accepted", "")
			if runAll(t, verdict, room, r.Refused, "v"+version+"/"+number+" refused", number) {
				tested["v"+version+"/"+number] = true
			}
		}
	}
	return tested
}

type verdict func(*testing.T, room, attempt) error

// runAll runs those attempts that are for the version of the room, and reports whether there were any.
func runAll(t *testing.T, verdict verdict, r room, attempts []attempt, name, want string) (any bool) {
	for _, a := range attempts {
		if a.Versions != "" && !covers(a.Versions, r.rules.Version) {
			continue
		}
		any = true
		t.Run(strings.TrimSpace(name+" "+a.Name), func(t *testing.T) {
			err := verdict(t, r.with(t, a.State), a)
			require.Equal(t, want, ruleOf(err), "%v", err)
		})
	}
	return any
}

// ruleOf is the number of the rule that refused, "" if none did.
func ruleOf(err error) string {
	var rejection *eventauth.Rejection
	switch {
	case err == nil:
		return ""
	case errors.As(err, &rejection):
		return rejection.Rule
	}
	return err.Error()
}

func readRows(t *testing.T, files []string) (all []row) {
	for _, file := range files {
		data, err := os.ReadFile("testdata/" + file + ".json")
		require.NoError(t, err)
		var rows []row
		require.NoError(t, json.Unmarshal(data, &rows), file)
		all = append(all, rows...)
	}
	return all
}

// number is the rule's number in the version, and whether the version has it.
func (r row) number(version string) (string, bool) {
	for versions, number := range r.Numbers {
		if covers(versions, version) {
			return number, true
		}
	}
	return "", false
}

// covers reports whether versions, such as "6-8" or "6", has the version.
func covers(versions, version string) bool {
	first, last, isRange := strings.Cut(versions, "-")
	if !isRange {
		return versions == version
	}
	all := roomversion.All()
	at := slices.Index(all, version)
	return slices.Index(all, first) <= at && at <= slices.Index(all, last)
}
