package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
)

// verify compares the server with what it acknowledged since the last verification, and returns each broken promise.
// Nothing writes meanwhile.
func (l *load) verify(ctx context.Context) []error {
	var found []error
	for _, w := range l.writers {
		found = append(found, w.journal.faults...)
		found = append(found, w.repeat(ctx)...)
		found = append(found, w.keys.verify(ctx, w.client)...)
	}
	found = append(found, l.verifyThings(ctx)...)
	for _, room := range l.rooms {
		fresh, err := history(ctx, l.client.as(l.accounts[0].token), room, "", set(l.history[room]))
		if err != nil {
			return append(found, fmt.Errorf("history of %s: %w", room, err))
		}
		found = append(found, l.verifyEvents(room, fresh)...)
		l.fresh[room] = ids(fresh)
		l.history[room] = append(l.history[room], l.fresh[room]...)
	}
	for _, w := range l.watchers {
		found = append(found, w.verify(ctx)...)
	}
	l.forgetRound()
	return found
}

// verifyHistory reads the shared rooms from their beginnings and compares with what verifications have seen.
func (l *load) verifyHistory(ctx context.Context) []error {
	var found []error
	for _, room := range l.rooms {
		all, err := history(ctx, l.client.as(l.accounts[0].token), room, "", nil)
		if err != nil {
			return append(found, err)
		}
		found = append(found, differences("history of "+room, l.history[room], ids(all))...)
	}
	return found
}

// repeat sends every event of the round again under its transaction id: an acknowledged one must give the same event,
// and of the others the one event that they are from now on.
func (w *writer) repeat(ctx context.Context) []error {
	var found []error
	for _, s := range w.journal.events {
		var event eventID
		err := w.client.do(ctx, "", "PUT", s.path, s.body, &event)
		if err != nil {
			found = append(found, fmt.Errorf("[%s] repeat of %s: %w", s.kind, s.path, err))
			continue
		}
		if s.event != "" && s.event != event.ID {
			found = append(found, fmt.Errorf("[%s] %s was %s, its repeat is %s", s.kind, s.mark, s.event, event.ID))
		}
		if s.event == "" {
			s.event = event.ID
		}
	}
	return found
}

func (l *load) verifyThings(ctx context.Context) []error {
	var found []error
	v := &view{load: l, told: make(map[string]things)}
	check := func(c *cell) {
		if err := c.check(ctx, v); err != nil {
			found = append(found, err)
		}
	}
	for _, w := range l.writers {
		for _, c := range w.journal.cells {
			check(c)
		}
	}
	for _, a := range l.accounts {
		check(a.password)
	}
	return found
}

// verifyEvents checks that each event of the round is once among the fresh ones of its room.
func (l *load) verifyEvents(room string, fresh []clientEvent) []error {
	var found []error
	for event, n := range count(ids(fresh)) {
		if n != 1 {
			found = append(found, fmt.Errorf("%s is %d times in the history of %s", event, n, room))
		}
	}
	for mark, n := range count(marks(fresh)) {
		if n != 1 && mark != "" {
			found = append(found, fmt.Errorf("%s has become %d events in %s", mark, n, room))
		}
	}
	stored := set(ids(fresh))
	for _, w := range l.writers {
		for _, s := range slices.Concat(w.journal.events, w.journal.states) {
			if s.room == room && s.event != "" && !stored[s.event] {
				found = append(found, fmt.Errorf("[%s] %s (%s) is not in the history of %s", s.kind, s.event, s.mark, room))
			}
		}
	}
	return found
}

// marks are the texts by which a writer knows what it sent; "" of what has none, or none any more.
func marks(events []clientEvent) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = cmp.Or(e.text("body"), e.text("reason"))
	}
	return all
}

// verify checks that a device was told everything, once.
func (w *watcher) verify(ctx context.Context) []error {
	found := append(w.faults, w.mail.verifyGone(ctx, w.client)...)
	if err := w.catchUp(ctx); err != nil {
		return append(found, err)
	}
	for _, room := range w.load.rooms {
		what := fmt.Sprintf("sync of %s in %s", w.account.user, room)
		found = append(found, differences(what, w.load.fresh[room], w.seen[room])...)
	}
	return append(append(found, w.verifyThings()...), w.verifyMail(ctx)...)
}

// verifyThings compares what it was told of its account, and of others' receipts, with what is known to be there.
func (w *watcher) verifyThings() []error {
	var found []error
	for _, writer := range w.load.writers {
		for name, c := range writer.things {
			if !c.toldTo(w.account, writer.account) || w.told[name] == c.acked {
				continue
			}
			found = append(found, fmt.Errorf("[%s] %s is %q, a sync of %s told %q", c.kind, name, c.acked, w.account.user, w.told[name]))
		}
	}
	return found
}

// toldTo says whether a sync of reader tells of a thing of owner.
func (c *cell) toldTo(reader, owner *account) bool {
	switch c.kind {
	case receipts:
		return true
	case accountData, roomData, tags, readMarkers, privateReceipts:
		return reader == owner
	}
	return false
}

// differences tells what of want is missing in got, is there twice, is there too much or in another order.
func differences(what string, want, got []string) []error {
	if slices.Equal(want, got) {
		return nil
	}
	var found []error
	expected, times := set(want), count(got)
	for _, event := range want {
		if times[event] != 1 {
			found = append(found, fmt.Errorf("%s has %s %d times", what, event, times[event]))
		}
	}
	for _, event := range got {
		if !expected[event] {
			found = append(found, fmt.Errorf("%s has %s, which is not in the history", what, event))
		}
	}
	if len(found) == 0 {
		found = append(found, fmt.Errorf("%s has another order:\n%v\n%v", what, want, got))
	}
	return found
}

func set(all []string) map[string]bool {
	in := make(map[string]bool, len(all))
	for _, one := range all {
		in[one] = true
	}
	return in
}

func count(all []string) map[string]int {
	times := make(map[string]int, len(all))
	for _, one := range all {
		times[one]++
	}
	return times
}

// forgetRound begins the next round.
func (l *load) forgetRound() {
	for _, w := range l.writers {
		w.journal.events, w.journal.states, w.journal.faults = nil, nil, nil
	}
	for _, w := range l.watchers {
		clear(w.seen)
		w.faults = nil
	}
}
