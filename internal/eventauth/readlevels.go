package eventauth

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// read takes the levels from the content of an m.room.power_levels event, or says which rule about
// its shape refuses it.
//
// Before version 10 only the shape of users is a rule. A level elsewhere that is no level at all is
// refused under that same rule: no server can compute with it.
func (p *PowerLevels) read(rules *roomversion.Rules, content []byte) *Rejection {
	fields := readPower(content)
	scalars, lists := powerUsers, powerUsers
	if rules.IntegerPowerLevels {
		scalars, lists = powerScalars, powerLists
	}
	// v11 9.1: If any of the properties `users_default`, `events_default`, `state_default`, `ban`,
	// `redact`, `kick`, or `invite` in `content` are present and not an integer, reject.
	for s, v := range fields.scalars {
		level, ok := readLevel(rules, v)
		if v != nil && !ok {
			return &Rejection{Rule: number(rules, scalars), Reason: scalarNames[s] + " is not a power level"}
		}
		p.scalars[s] = optional{level, v != nil}
	}
	// v11 9.2: If either of the properties `events` or `notifications` in `content` are present and
	// not an object with values that are integers, reject.
	var ok bool
	if p.events, ok = readNamed(rules, fields.events); !ok {
		return &Rejection{Rule: number(rules, lists), Reason: "events is not an object of power levels"}
	}
	p.notifications, ok = readNamed(rules, fields.notifications)
	if !ok && rules.NotificationLevels {
		return &Rejection{Rule: number(rules, lists), Reason: "notifications is not an object of power levels"}
	}
	// v11 9.3: If the `users` property in `content` is not an object with keys that are valid user IDs
	// with values that are integers, reject.
	if p.users, ok = readNamed(rules, fields.users); !ok || !p.users.areUsers() {
		return &Rejection{Rule: number(rules, powerUsers), Reason: "users is not an object of user ids and power levels"}
	}
	return nil
}

// powerFields are the values of an m.room.power_levels event's content, unread.
type powerFields struct {
	scalars                      [scalarCount][]byte
	users, events, notifications []byte
}

func readPower(content []byte) (f powerFields) {
	for all := canonjson.Open(content); ; {
		key, v, ok := all.Next()
		if !ok {
			return f
		}
		switch string(key) {
		case "users":
			f.users = v
		case "events":
			f.events = v
		case "notifications":
			f.notifications = v
		default:
			if i := slices.Index(scalarNames[:], string(key)); i >= 0 {
				f.scalars[i] = v
			}
		}
	}
}

// readNamed reads an object of levels. A missing one is empty.
func readNamed(rules *roomversion.Rules, object []byte) (named, bool) {
	if object == nil {
		return nil, true
	}
	text := string(object) // all keys are parts of this one copy
	list := make(named, 0, bytes.Count(object, []byte{':'}))
	for all := canonjson.Open(object); ; {
		key, v, ok := all.Next()
		if !ok {
			list.sort()
			return list, all.Whole()
		}
		level, ok := readLevel(rules, v)
		if !ok {
			return nil, false
		}
		end := all.End() - len(v) - len(`":`)
		list = append(list, entry{unescape(text[end-len(key) : end]), level})
	}
}

// unescape takes what stands between the quotes of a canonical string.
func unescape(key string) string {
	if strings.IndexByte(key, '\\') < 0 {
		return key
	}
	s, _ := canonjson.String([]byte(`"` + key + `"`))
	return s
}

// sort has little to do on canonical JSON.
func (n named) sort() {
	slices.SortStableFunc(n, func(a, b entry) int { return cmp.Compare(a.key, b.key) })
}

func (n named) areUsers() bool {
	for _, e := range n {
		if _, err := id.ParseUserID(e.key); err != nil {
			return false
		}
	}
	return true
}

// readLevel reads one power level: an integer; before version 10 also text that is one; before
// version 6 also a number with a fraction or exponent, cut off at the decimal point.
//
// Spec: https://spec.matrix.org/latest/rooms/v1/#deprecated-event-content-schemas
func readLevel(rules *roomversion.Rules, v []byte) (int64, bool) {
	if len(v) == 0 {
		return 0, false
	}
	switch c := v[0]; {
	case c == '"' && !rules.IntegerPowerLevels:
		return readTextLevel(v)
	case c == '-' || '0' <= c && c <= '9':
		return readNumber(v, !rules.StrictJSON)
	}
	return 0, false
}

// readTextLevel: "a single base 10 integer, no float values or decimal points, optionally with any
// number of leading zeroes; optionally prefixed with a single `-` or `+` character before the
// integer; optionally with any number of leading or trailing whitespace characters".
func readTextLevel(v []byte) (int64, bool) {
	s, _ := canonjson.String(v)
	s = strings.TrimSpace(s)
	digits := s
	if s != "" && (s[0] == '-' || s[0] == '+') {
		digits = s[1:]
	}
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false
	}
	return readFloat(s)
}

// readNumber takes a JSON number: an integer, and if lenient is set also a float.
func readNumber(v []byte, lenient bool) (int64, bool) {
	if level, ok := canonjson.Int(v); ok {
		return level, lenient || -canonjson.MaxInteger <= level && level <= canonjson.MaxInteger
	}
	if !lenient {
		return 0, false
	}
	return readFloat(string(v))
}

// readFloat: "First, exponential notation is applied. Second, the value is truncated at the decimal
// point. Values outside the range represented by IEEE 754 binary64 cause the powerlevel event to be
// rejected". What an int64 cannot hold becomes the nearest int64.
func readFloat(s string) (int64, bool) {
	if level, err := strconv.ParseInt(s, 10, 64); err == nil {
		return level, true
	}
	f, err := strconv.ParseFloat(s, 64)
	if err != nil {
		return 0, false
	}
	switch {
	case f >= math.MaxInt64:
		return math.MaxInt64, true
	case f <= math.MinInt64:
		return math.MinInt64, true
	}
	return int64(f), true // Go truncates towards zero
}
