package eventauth_test

import (
	"encoding/json"
	"errors"
	"maps"
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
	Rule     string    `json:"rule"`
	Numbers  numbers   `json:"numbers"` // of the rule that refuses
	Allows   numbers   `json:"allows"`  // of the rule that accepts, if it is another
	State    []draft   `json:"state"`   // changes to the room's state
	Accepted []attempt `json:"accepted"`
	Refused  []attempt `json:"refused"`
}

type attempt struct {
	draft
	Name     string   `json:"name"`
	Versions string   `json:"versions"` // those of the row by default
	Allows   numbers  `json:"allows"`   // that of the row by default
	State    []draft  `json:"state"`    // more changes
	Auth     []string `json:"auth"`     // in auth_events.json: places in the state
	Rejected []string `json:"rejected"` // those of them that were rejected
}

// numbers are the numbers of a rule, by version or by range of versions such as "1-5".
type numbers map[string]string

// in is the rule's number in the version, and whether the version has it.
func (n numbers) in(version string) (string, bool) {
	for versions, number := range n {
		if covers(versions, version) {
			return number, true
		}
	}
	return "", false
}

func TestRules(t *testing.T) {
	tested := eachCase(t, check, "create", "member", "send", "power")
	maps.Copy(tested, eachCase(t, checkAuthEvents, "auth_events"))
	for _, rule := range readSpecification(t) {
		for _, version := range roomversion.All() {
			if number, ok := rule.Numbers.in(version); ok {
				wantTested(t, rule, "v"+version+"/"+number, tested)
			}
		}
	}
}

// wantTested: there is a case for all that the rule can do.
func wantTested(t *testing.T, rule specified, at string, tested map[string]bool) {
	accepts, refuses, ok := rule.does()
	require.True(t, ok, "verdict %q", rule.Verdict)
	for what, wanted := range map[string]bool{at + " accepted": accepts, at + " refused": refuses} {
		if wanted && !tested[what] {
			t.Errorf("testdata has no case %q: %s", what, rule.Rule)
		}
	}
}

// specified is a rule of the specification.
type specified struct {
	Verdict string  `json:"verdict"`
	Numbers numbers `json:"numbers"`
	Rule    string  `json:"rule"`
}

// does says which cases a rule of the verdict must have: one that passes it, and one that it, or what follows
// in its place, refuses.
func (s specified) does() (accepts, refuses, ok bool) {
	switch s.Verdict {
	case "asks":
		return false, false, true
	case "accepts":
		return true, false, true
	case "refuses":
		return false, true, true
	case "accepts some", "refuses some", "decides":
		return true, true, true
	}
	return false, false, false
}

// refusesItself reports whether a rejection can bear the rule's number.
func (s specified) refusesItself() bool {
	return s.Verdict == "refuses" || s.Verdict == "refuses some" || s.Verdict == "decides"
}

// readSpecification reads the list of all rules of all versions.
func readSpecification(t *testing.T) []specified {
	data, err := os.ReadFile("testdata/rules.json")
	require.NoError(t, err)
	var file struct {
		Verdicts map[string]string `json:"verdicts"`
		Rules    []specified       `json:"rules"`
	}
	require.NoError(t, json.Unmarshal(data, &file))
	for _, rule := range file.Rules {
		require.Contains(t, file.Verdicts, rule.Verdict, rule.Rule)
	}
	return file.Rules
}

// TestNumbersAreTheSpecification: the numbers that a Rejection can have are those of the rules that can refuse.
func TestNumbersAreTheSpecification(t *testing.T) {
	all := readSpecification(t)
	for _, version := range roomversion.All() {
		var want []string
		for _, rule := range all {
			if number, ok := rule.Numbers.in(version); ok && rule.refusesItself() {
				want = append(want, number)
			}
		}
		rules, _ := roomversion.Get(version)
		require.ElementsMatch(t, want, eventauth.RuleNumbers(rules), "version %s", version)
		require.Contains(t, want, eventauth.RejectedAuthEvent(&event.Event{Rules: rules}).Rule, "version %s", version)
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
	e := r.event(t, a.draft)
	if err := eventauth.CheckAuthEvents(e, authEvents); err != nil {
		return err
	}
	if len(a.Rejected) > 0 {
		return eventauth.RejectedAuthEvent(e)
	}
	return nil
}

// eachCase runs the cases of the files and returns what was tested, as "v6/4.3.3 refused".
func eachCase(t *testing.T, verdict verdict, files ...string) map[string]bool {
	tested := map[string]bool{}
	rows := readRows(t, files)
	for _, version := range roomversion.All() {
		clean := newRoom(t, version)
		for _, r := range rows {
			if number, ok := r.Numbers.in(version); ok {
				s := suite{verdict, clean.with(t, r.State), "v" + version + "/", tested}
				s.run(t, r, number)
			}
		}
	}
	return tested
}

// suite runs the rows in one version.
type suite struct {
	verdict verdict
	room    room
	prefix  string // "v6/"
	tested  map[string]bool
}

func (s suite) run(t *testing.T, r row, number string) {
	allowing := []string{number}
	for _, a := range s.all(r.Accepted) {
		allows, ok := a.Allows.in(s.room.rules.Version)
		if !ok {
			allows, ok = r.Allows.in(s.room.rules.Version)
		}
		if !ok {
			allows = number
		}
		s.attempt(t, a, allows+" accepted", "")
		s.tested[s.prefix+number+" accepted"] = true
		allowing = append(allowing, allows)
	}
	for _, a := range s.all(r.Refused) {
		s.attempt(t, a, number+" refused", number)
		for _, number := range allowing { // what did not fulfil the rule that accepts
			s.tested[s.prefix+number+" refused"] = true
		}
	}
}

// all are those attempts that are for the version.
func (s suite) all(attempts []attempt) (all []attempt) {
	for _, a := range attempts {
		if a.Versions == "" || covers(a.Versions, s.room.rules.Version) {
			all = append(all, a)
		}
	}
	return all
}

// attempt expects to be refused by the rule of number want, or accepted if it is "".
func (s suite) attempt(t *testing.T, a attempt, what, want string) {
	s.tested[s.prefix+what] = true
	t.Run(strings.TrimSpace(s.prefix+what+" "+a.Name), func(t *testing.T) {
		err := s.verdict(t, s.room.with(t, a.State), a)
		require.Equal(t, want, ruleOf(err), "%v", err)
	})
}

type verdict func(*testing.T, room, attempt) error

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
