package syncing

import (
	"slices"
	"strconv"
	"strings"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/storage"
)

// writeEphemeral writes who types and what was read, if that is news.
func (l *look) writeEphemeral(p *place) bool {
	start := l.out.mark()
	l.out.key("ephemeral").raw(`{"events":[`)
	empty := l.out.mark()
	l.writeTyping(p)
	l.writeReceipts(p)
	if l.out.mark() == empty {
		l.out.cut(start)
		return false
	}
	l.out.raw("]}")
	return true
}

// wantsEphemeral reports whether the filter lets events of a type pass, which have no sender.
func (l *look) wantsEphemeral(p *place, eventType string) bool {
	f := &l.Filter.Room.Ephemeral
	return f.PassesRoom(p.ID) && f.Passes(eventType, "", nil)
}

// writeTyping writes everybody who types in a room.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#typing-notifications
func (l *look) writeTyping(p *place) {
	_, changed := l.typing[p.ID]
	if !changed && !p.fresh || !l.wantsEphemeral(p, "m.typing") {
		return
	}
	users := slices.DeleteFunc(l.Typing.In(p.ID), l.wishes.ignores)
	if !changed && len(users) == 0 {
		return
	}
	l.out.item().raw(`{"content":{"user_ids":[`)
	for _, user := range users {
		l.out.item().text(string(user))
	}
	l.out.raw(`]},"type":"m.typing"}`)
}

// writeReceipts writes the receipts that came, as one event a thread: so nobody is twice in one of them.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#receipts
func (l *look) writeReceipts(p *place) {
	if !l.wantsEphemeral(p, "m.receipt") {
		return
	}
	list := slices.DeleteFunc(slices.Clone(l.receipts[p.Num]), func(r storage.Receipt) bool { return !l.showsReceipt(&r) })
	slices.SortStableFunc(list, func(a, b storage.Receipt) int {
		if c := strings.Compare(a.Thread, b.Thread); c != 0 {
			return c
		}
		if c := strings.Compare(string(a.Event), string(b.Event)); c != 0 {
			return c
		}
		return strings.Compare(a.Kind, b.Kind)
	})
	for len(list) > 0 {
		n := run(list, func(r *storage.Receipt) string { return r.Thread })
		l.out.item().raw(`{"content":{`)
		l.writeThread(list[:n])
		l.out.raw(`},"type":"m.receipt"}`)
		list = list[n:]
	}
}

// showsReceipt reports whether the user may and wants to see a receipt.
//
// "m.read.private … MUST NOT be sent to other users."
func (l *look) showsReceipt(r *storage.Receipt) bool {
	return (r.Kind != "m.read.private" || r.User == l.User) && !l.wishes.ignores(r.User)
}

// writeThread writes the receipts of a thread, sorted by event and kind.
func (l *look) writeThread(list []storage.Receipt) {
	for len(list) > 0 {
		n := run(list, func(r *storage.Receipt) string { return string(r.Event) })
		l.out.key(string(list[0].Event)).raw("{")
		for event := list[:n]; len(event) > 0; {
			k := run(event, func(r *storage.Receipt) string { return r.Kind })
			l.out.key(event[0].Kind).raw("{")
			for i := range event[:k] {
				l.writeReceipt(&event[i])
			}
			l.out.raw("}")
			event = event[k:]
		}
		l.out.raw("}")
		list = list[n:]
	}
}

func (l *look) writeReceipt(r *storage.Receipt) {
	l.out.key(string(r.User))
	l.out.b = strconv.AppendInt(append(l.out.b, `{"ts":`...), r.AtMS, 10)
	if r.Thread != "" {
		l.out.b = canonjson.AppendString(append(l.out.b, `,"thread_id":`...), r.Thread)
	}
	l.out.raw("}")
}

// run counts the first elements that have the same key.
func run(list []storage.Receipt, key func(*storage.Receipt) string) int {
	n := 1
	for n < len(list) && key(&list[n]) == key(&list[0]) {
		n++
	}
	return n
}
