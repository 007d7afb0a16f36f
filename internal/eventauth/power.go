package eventauth

import (
	"iter"
)

// powerRules is the rule about m.room.power_levels. level is the sender's.
func (c *check) powerRules(level int64) error {
	var next PowerLevels
	if fault := next.read(c.rules, c.e.Content()); fault != nil {
		return fault
	}
	// v12 10.4: If the `users` property in `content` contains the `sender` of the `m.room.create`
	// event or any of the `additional_creators` array (if present) from the `content` of the
	// `m.room.create` event, reject.
	if c.rules.PrivilegedCreators && next.listsAny(c.levels) {
		return &Rejection{Rule: number(c.rules, powerCreators), Reason: "creators have no entry in users", Content: true}
	}
	// v11 9.4: If there is no previous `m.room.power_levels` event in the room, allow.
	if c.state.Event("m.room.power_levels", "") == nil {
		return nil
	}
	if err := c.scalarRules(&next, level); err != nil {
		return err
	}
	if err := c.listRules(&next, level); err != nil {
		return err
	}
	return c.userRules(&next, level)
}

func (p *PowerLevels) listsAny(current *PowerLevels) bool {
	for _, user := range current.creators {
		if p.users.get(string(user)).set {
			return true
		}
	}
	return false
}

// v11 9.5: For the properties `users_default`, `events_default`, `state_default`, `ban`, `redact`,
// `kick`, `invite` check if they were added, changed or removed. For each found alteration:
//
// "Power levels are inferred from defaults when not explicitly supplied", so a property that is
// missing before or after has its default.
func (c *check) scalarRules(next *PowerLevels, level int64) error {
	for s, name := range scalarNames {
		old, now := c.levels.scalars[s], next.scalars[s]
		if old == now {
			continue
		}
		// 9.5.1: If the current value is higher than the `sender`'s current power level, reject.
		if old.or(scalarDefaults[s]) > level {
			return c.reject(powerScalarCurrent, "the sender may not change "+name)
		}
		// 9.5.2: If the new value is higher than the `sender`'s current power level, reject.
		if now.or(scalarDefaults[s]) > level {
			return c.reject(powerScalarNew, "the sender may not set "+name+" so high")
		}
	}
	return nil
}

func (c *check) listRules(next *PowerLevels, level int64) error {
	lists := [][2]named{{c.levels.events, next.events}}
	if c.rules.NotificationLevels {
		lists = append(lists, [2]named{c.levels.notifications, next.notifications})
	}
	// v11 9.6: For each entry being changed in, or removed from, the `events` or `notifications`
	// properties: 1. If the current value is greater than the `sender`'s current power level, reject.
	for _, list := range lists {
		for key, ch := range changes(list[0], list[1]) {
			if ch.old.set && ch.old.level > level {
				return c.reject(powerListCurrent, "the sender may not change the level of "+key)
			}
		}
	}
	// v11 9.7: For each entry being added to, or changed in, the `events` or `notifications`
	// properties: 1. If the new value is greater than the `sender`'s current power level, reject.
	for _, list := range lists {
		for key, ch := range changes(list[0], list[1]) {
			if ch.now.set && ch.now.level > level {
				return c.reject(powerListNew, "the sender may not set the level of "+key+" so high")
			}
		}
	}
	return nil
}

func (c *check) userRules(next *PowerLevels, level int64) error {
	// v11 9.8: For each entry being changed in, or removed from, the `users` property, other than the
	// `sender`'s own entry: 1. If the current value is greater than or equal to the `sender`'s current
	// power level, reject.
	for user, ch := range changes(c.levels.users, next.users) {
		if ch.old.set && ch.old.level >= level && user != string(c.e.Sender) {
			return c.reject(powerUserCurrent, "the sender may not change the level of "+user)
		}
	}
	// v11 9.9: For each entry being added to, or changed in, the `users` property: 1. If the new value
	// is greater than the `sender`'s current power level, reject.
	for user, ch := range changes(c.levels.users, next.users) {
		if ch.now.set && ch.now.level > level {
			return c.reject(powerUserNew, "the sender may not set the level of "+user+" so high")
		}
	}
	return nil
}

// change is what became of an entry.
type change struct{ old, now optional }

// changes yields the entries that were added, changed or removed, in the order of their keys.
func changes(old, now named) iter.Seq2[string, change] {
	return func(yield func(string, change) bool) {
		for len(old) > 0 || len(now) > 0 {
			var key string
			if len(now) == 0 || len(old) > 0 && old[0].key <= now[0].key {
				key = old[0].key
			} else {
				key = now[0].key
			}
			var ch change
			ch.old, old = take(old, key)
			ch.now, now = take(now, key)
			if ch.old != ch.now && !yield(key, ch) {
				return
			}
		}
	}
}

// take cuts the first entry off if it is key's.
func take(n named, key string) (optional, named) {
	if len(n) == 0 || n[0].key != key {
		return optional{}, n
	}
	return optional{n[0].level, true}, n[1:]
}
