package eventauth

import (
	"bytes"
	"encoding/json"
	"slices"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
)

// LevelContent is the content of an m.room.power_levels event in the form that every room version takes: levels
// are integers of canonical JSON. It may be changed; a PowerLevels may not.
type LevelContent struct {
	Direct                       map[string]int64 // "users_default", "ban", …: what stands there
	Users, Events, Notifications map[string]int64 // nil where missing
	Other                        map[string]json.RawMessage
}

// ReadLevelContent reads content that a room of some version has accepted. A level too large for canonical JSON
// becomes the nearest that is not, and what else is there and cannot be canonical JSON is left out.
func ReadLevelContent(rules *roomversion.Rules, content []byte) (*LevelContent, error) {
	var p PowerLevels
	if fault := p.read(rules, content); fault != nil {
		return nil, fault
	}
	c := &LevelContent{Direct: map[string]int64{}, Other: map[string]json.RawMessage{}}
	for s, level := range p.scalars {
		if level.set {
			c.Direct[scalarNames[s]] = inRange(level.level)
		}
	}
	for all := canonjson.Open(content); ; {
		key, v, ok := all.Next()
		if !ok {
			return c, nil
		}
		switch name := unescape(string(key)); {
		case name == "users":
			c.Users = p.users.inRange()
		case name == "events":
			c.Events = p.events.inRange()
		case name == "notifications":
			c.Notifications = p.notifications.inRange()
		case !slices.Contains(scalarNames[:], name) && canonjson.Check(v) == nil:
			c.Other[name] = bytes.Clone(v)
		}
	}
}

func (n named) inRange() map[string]int64 {
	m := make(map[string]int64, len(n))
	for _, e := range n {
		m[e.key] = inRange(e.level)
	}
	return m
}

func inRange(level int64) int64 {
	return max(-canonjson.MaxInteger, min(level, canonjson.MaxInteger))
}

// Level is the level of a name in Direct, or what holds when it is missing.
func (c *LevelContent) Level(name string) int64 {
	if level, ok := c.Direct[name]; ok {
		return level
	}
	return scalarDefaults[slices.Index(scalarNames[:], name)]
}

// Raise lifts the level of a name in Direct to what it should be at least, and reports whether it was lower.
func (c *LevelContent) Raise(name string, level int64) bool {
	if level = inRange(level); c.Level(name) >= level {
		return false
	}
	set(&c.Direct, name, level)
	return true
}

// SetUser sets the level of a user.
func (c *LevelContent) SetUser(user id.UserID, level int64) { set(&c.Users, string(user), level) }

// SetEvent sets the level needed for a type of event.
func (c *LevelContent) SetEvent(eventType string, level int64) { set(&c.Events, eventType, level) }

func set(m *map[string]int64, key string, level int64) {
	if *m == nil {
		*m = map[string]int64{}
	}
	(*m)[key] = inRange(level)
}

// User is the level that the content gives to a user.
func (c *LevelContent) User(user id.UserID) int64 {
	if level, ok := c.Users[string(user)]; ok {
		return level
	}
	return c.Level("users_default")
}

// Top is the highest level that the content has or implies.
func (c *LevelContent) Top() int64 {
	var top int64
	for _, name := range scalarNames {
		top = max(top, c.Level(name))
	}
	for _, list := range []map[string]int64{c.Users, c.Events, c.Notifications} {
		for _, level := range list {
			top = max(top, level)
		}
	}
	return top
}

// MarshalJSON writes the content.
func (c *LevelContent) MarshalJSON() ([]byte, error) {
	content := map[string]any{}
	for name, v := range c.Other {
		content[name] = v
	}
	for name, level := range c.Direct {
		content[name] = level
	}
	for name, list := range map[string]map[string]int64{"users": c.Users, "events": c.Events, "notifications": c.Notifications} {
		if list != nil {
			content[name] = list
		}
	}
	return json.Marshal(content)
}
