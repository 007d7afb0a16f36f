package roomstate

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// serverSet is a set of other servers to which events are sent. Events name it by its number, so that it is stored
// once for all of them.
type serverSet struct {
	number storage.Pos // the position at which it came up first; 0 until it is stored
	names  []id.ServerName
}

// setLasts is after how many positions a set is written again: the sender forgets those twice as old that nothing names.
const setLasts = 1 << 20

// move notes a membership that the head has from now on.
func (w *Writer) move(m Member) {
	before := w.memberOfHead(m.User)
	w.mu.Lock()
	w.head.moved[m.User] = m
	w.mu.Unlock()
	by := one(m.Membership == "join") - one(before.Membership == "join")
	server := m.User.Server()
	if by == 0 {
		return
	}
	had := w.head.servers[server] > 0
	if w.head.servers[server] += by; w.head.servers[server] <= 0 {
		delete(w.head.servers, server)
	}
	if had != (w.head.servers[server] > 0) {
		w.head.set = nil
	}
}

// HeadHasServer reports whether a server has joined users at the room's head: what is queued counts already.
func (w *Writer) HeadHasServer(server id.ServerName) bool { return w.head.servers[server] > 0 }

func (w *Writer) memberOfHead(user id.UserID) Member {
	w.mu.RLock()
	defer w.mu.RUnlock()
	if m, ok := w.head.moved[user]; ok {
		return m
	}
	return w.members[user]
}

// send notes to which servers an event is sent: those that are in the room before or after it, and that of a user who
// is put out of it. before is the set in front of the event, nil when it was not known.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#pdus
func (w *Writer) send(act *storage.Act, p *proposal, before *serverSet) {
	if w.cache.config.Sender == nil {
		return
	}
	set := w.serverSet()
	if p.Type == "m.room.member" && p.StateKey != nil {
		set = w.withThose(set, p, before)
	}
	if p.meta.NotTo != "" {
		set = &serverSet{names: slices.DeleteFunc(slices.Clone(set.names), func(s id.ServerName) bool { return s == p.meta.NotTo })}
	}
	if len(set.names) == 0 {
		return
	}
	if set.number == 0 || p.Arrived()-set.number > setLasts {
		set.number = p.Arrived()
		act.Add(storage.InsertServerSet, set.number, encodeServers(set.names))
	}
	act.Add(storage.InsertOutgoing, p.Arrived(), w.Num, p.Pos, set.number)
	p.sentTo = set.names
}

// serverSet is the set of the other servers in the room at its head.
func (w *Writer) serverSet() *serverSet {
	if w.head.set == nil {
		names := slices.Sorted(maps.Keys(w.head.servers))
		names = slices.DeleteFunc(names, func(s id.ServerName) bool { return s == w.cache.config.Server })
		w.head.set = &serverSet{names: names}
	}
	return w.head.set
}

// withThose adds the servers that are in the room no more because of a member event.
func (w *Writer) withThose(set *serverSet, p *proposal, before *serverSet) *serverSet {
	names := slices.Clone(set.names)
	if target := id.UserID(*p.StateKey).Server(); p.Membership() == "leave" || p.Membership() == "ban" {
		names = append(names, target)
	}
	if before != nil {
		names = append(names, before.names...)
	}
	slices.Sort(names)
	names = slices.DeleteFunc(slices.Compact(names), func(s id.ServerName) bool { return s == w.cache.config.Server })
	if slices.Equal(names, set.names) {
		return set
	}
	return &serverSet{names: names}
}

func encodeServers(names []id.ServerName) []byte {
	list, err := json.Marshal(names)
	if err != nil {
		panic(fmt.Sprintf("roomstate: encode servers: %v", err)) // strings always can be
	}
	return list
}

// wakeSender tells the sender whom there is something for.
func (w *Writer) wakeSender() {
	if w.cache.config.Sender == nil {
		return
	}
	for i := range w.plan {
		if names := w.plan[i].sentTo; len(names) > 0 {
			w.cache.config.Sender.Wake(names)
		}
	}
}
