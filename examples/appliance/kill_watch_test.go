package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// watcher is a device that syncs: what it was told, in answers that it received whole.
type watcher struct {
	load    *load
	account *account
	client  *client
	since   string
	seen    map[string][]string // events of each shared room since the last verification, in the order they came
	known   map[string]bool     // all events it has ever seen
	told    things
	mail    *mailbox
	faults  []error
}

func newWatcher(t *testing.T, l *load, a *account) *watcher {
	t.Helper()
	session, err := logIn(t.Context(), l.client, "", a.user, a.password.acked)
	require.NoError(t, err, "POST /login of a watcher")
	w := &watcher{
		load: l, account: a, client: l.client.as(session.Token),
		seen: make(map[string][]string), known: make(map[string]bool), told: make(things),
		mail: newMailbox(session),
	}
	require.NoError(t, w.sync(t.Context(), 0), "GET /sync of a watcher")
	return w
}

// run syncs until the context ends or the server is gone.
func (w *watcher) run(ctx context.Context) {
	for ctx.Err() == nil {
		err := w.sync(ctx, 10_000)
		if refusal, ok := isRefused(err); ok {
			w.faults = append(w.faults, refusal)
		}
		if err != nil {
			return
		}
	}
}

// catchUp syncs until there is nothing new, from the token of the last whole answer on.
func (w *watcher) catchUp(ctx context.Context) error {
	for {
		before := w.since
		if err := w.sync(ctx, 0); err != nil {
			return fmt.Errorf("sync of %s from %s: %w", w.account.user, before, err)
		}
		if w.since == before {
			return nil
		}
	}
}

const watchFilter = `{"room":{"timeline":{"limit":50}}}`

func (w *watcher) sync(ctx context.Context, timeoutMS int) error {
	path := fmt.Sprintf("/sync?timeout=%d&filter=%s&since=%s", timeoutMS, url.QueryEscape(watchFilter), url.QueryEscape(w.since))
	if w.since == "" {
		path = fmt.Sprintf("/sync?filter=%s", url.QueryEscape(watchFilter))
	}
	var answer syncAnswer
	if err := w.client.read(ctx, path, &answer); err != nil {
		return err
	}
	fresh := make(map[string][]string)
	for _, room := range w.load.rooms {
		events, err := w.timeline(ctx, room, &answer)
		if err != nil {
			return err // as if the answer had not come
		}
		fresh[room] = events
	}
	for room, events := range fresh {
		w.see(room, events)
	}
	w.told.add(w.account.user, &answer)
	w.mail.take(answer.ToDevice.Events)
	w.since = answer.NextBatch
	return nil
}

// timeline gives the new events of a room, with those that a limited timeline left out.
func (w *watcher) timeline(ctx context.Context, room string, answer *syncAnswer) ([]string, error) {
	joined := answer.Rooms.Join[room]
	events := ids(joined.Timeline.Events)
	if !joined.Timeline.Limited {
		return events, nil
	}
	gap, err := history(ctx, w.client, room, joined.Timeline.PrevBatch, w.known)
	return append(ids(gap), events...), err
}

func (w *watcher) see(room string, events []string) {
	w.seen[room] = append(w.seen[room], events...)
	for _, event := range events {
		w.known[event] = true
	}
}

// history pages back from a token ("" is the end of the room) to the first event that is known, and returns what is
// younger, oldest first.
func history(ctx context.Context, c *client, room, from string, known map[string]bool) ([]clientEvent, error) {
	var all []clientEvent
	for {
		var page struct {
			Chunk []clientEvent
			End   string
		}
		path := pathf("/rooms/%s/messages", room) + "?dir=b&limit=100"
		if from != "" {
			path += "&from=" + url.QueryEscape(from)
		}
		if err := c.read(ctx, path, &page); err != nil {
			return nil, err
		}
		isKnown := func(e clientEvent) bool { return known[e.ID] }
		if i := slices.IndexFunc(page.Chunk, isKnown); i >= 0 {
			return reversed(append(all, page.Chunk[:i]...)), nil
		}
		all = append(all, page.Chunk...)
		if page.End == "" {
			return reversed(all), nil
		}
		from = page.End
	}
}

func ids(events []clientEvent) []string {
	all := make([]string, len(events))
	for i, e := range events {
		all[i] = e.ID
	}
	return all
}

func reversed(all []clientEvent) []clientEvent {
	slices.Reverse(all)
	return all
}
