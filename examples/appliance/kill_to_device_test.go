package main

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// mailbox is the device of a watcher, to which writers send messages: each that was acknowledged is told, and none again
// after a request by whose token the device has acknowledged it was answered.
type mailbox struct {
	user, device string

	got    map[string]bool // told and acknowledged, by their marks
	fresh  []string        // told by the last whole answer: the next request acknowledges them
	faults []error

	mu      sync.Mutex // guards letters
	letters []*letter  // of this round
}

// letter is a message to a device.
type letter struct {
	mark, path string
	body       map[string]any
	by         *client
	acked      bool
}

func newMailbox(session credentials) *mailbox {
	return &mailbox{user: session.User, device: session.Device, got: make(map[string]bool)}
}

// add notes a message before it is sent.
func (m *mailbox) add(l *letter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.letters = append(m.letters, l)
}

// acknowledge notes that a message was taken in.
func (m *mailbox) acknowledge(l *letter) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l.acked = true
}

func (l *letter) send(ctx context.Context, k kind) error {
	return l.by.do(ctx, k, "PUT", l.path, l.body, nil)
}

// writeTo sends a message to a device that syncs.
func (w *writer) writeTo(ctx context.Context) error {
	to, mark := w.load.watchers[w.random.IntN(len(w.load.watchers))].mail, w.unique()
	l := &letter{
		mark: mark, by: w.client, path: pathf("/sendToDevice/org.example.kill/%s", mark),
		body: map[string]any{"messages": map[string]any{to.user: map[string]any{to.device: map[string]any{"body": mark}}}},
	}
	to.add(l)
	if err := l.send(ctx, toDevice); err != nil {
		return err
	}
	to.acknowledge(l)
	w.load.acknowledge(toDevice)
	return nil
}

// take takes the messages of an answer, whose request has acknowledged those of the answer before.
func (m *mailbox) take(messages []clientEvent) {
	for _, mark := range m.fresh {
		m.got[mark] = true
	}
	m.fresh = nil
	for _, e := range messages {
		mark := e.text("body")
		if m.told(mark) {
			m.faults = append(m.faults, fmt.Errorf("[%s] %s was told to %s again", toDevice, mark, m.user))
		}
		m.fresh = append(m.fresh, mark)
	}
}

func (m *mailbox) told(mark string) bool { return m.got[mark] || slices.Contains(m.fresh, mark) }

// verifyGone syncs from the beginning, as if the device had lost its token, and tells what comes back that it has
// acknowledged. It goes before anything else acknowledges that anew.
func (m *mailbox) verifyGone(ctx context.Context, c *client) []error {
	var answer syncAnswer
	if err := c.read(ctx, "/sync?filter="+url.QueryEscape(`{"room":{"timeline":{"limit":1}}}`), &answer); err != nil {
		return []error{err}
	}
	var found []error
	for _, e := range answer.ToDevice.Events {
		if mark := e.text("body"); m.got[mark] {
			found = append(found, fmt.Errorf("[%s] %s has come back to %s", toDevice, mark, m.user))
		}
	}
	return found
}

// verifyMail checks that a device that has caught up was told each message once, also when all are sent again.
func (w *watcher) verifyMail(ctx context.Context) []error {
	m := w.mail
	found := m.missing(func(l *letter) bool { return l.acked })
	for _, l := range m.letters {
		if err := l.send(ctx, ""); err != nil {
			found = append(found, fmt.Errorf("[%s] repeat of %s: %w", toDevice, l.path, err))
		}
	}
	if err := w.catchUp(ctx); err != nil {
		return append(found, err)
	}
	found = append(found, m.missing(func(l *letter) bool { return !l.acked })...)
	found = append(found, m.faults...)
	m.letters, m.faults = nil, nil
	return found
}

// missing tells which of some messages the device was not told.
func (m *mailbox) missing(which func(*letter) bool) []error {
	var found []error
	for _, l := range m.letters {
		if which(l) && !m.told(l.mark) {
			found = append(found, fmt.Errorf("[%s] %s has not reached %s", toDevice, l.mark, m.user))
		}
	}
	return found
}

// TestKillNoticesMessagesToldAgain: what is acknowledged is told by the next answer no more; what is not may be.
func TestKillNoticesMessagesToldAgain(t *testing.T) {
	m := newMailbox(credentials{})
	a, b := clientEvent{Content: map[string]any{"body": "a"}}, clientEvent{Content: map[string]any{"body": "b"}}
	m.take([]clientEvent{a})
	m.take([]clientEvent{b})
	require.Empty(t, m.faults)
	m.take([]clientEvent{a})
	require.Len(t, m.faults, 1)
	m.take([]clientEvent{b, b})
	require.Len(t, m.faults, 3)
}
