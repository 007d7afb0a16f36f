package main

import (
	"context"
	"fmt"
)

// cell is one thing that is written again and again: the last acknowledged value is there, or one whose fate is unknown.
type cell struct {
	kind   kind   // of the last write
	name   string // of the thing, for people
	acked  string // the last acknowledged value
	flying string // a value that was sent and never answered
	look   lookFunc
}

// lookFunc asks the server what a thing is now. What is found in a whole sync is taken from the view.
type lookFunc func(context.Context, *view) (string, error)

// write notes what is about to be written, does it, and notes whether it was acknowledged.
func (c *cell) write(k kind, value string, do func() error) error {
	before := c.kind
	c.kind, c.flying = k, value
	err := do()
	if _, ok := isRefused(err); ok {
		c.kind, c.flying = before, ""
	}
	if err == nil {
		c.acked, c.flying = value, ""
	}
	return err
}

// now asks the server; what it does not know is "".
func (c *cell) now(ctx context.Context, v *view) (string, error) {
	value, err := c.look(ctx, v)
	if refusal, ok := isRefused(err); ok && refusal.Status == 404 {
		return "", nil
	}
	return value, err
}

// check compares with what the server has now, and settles the value whose fate was unknown.
func (c *cell) check(ctx context.Context, v *view) error {
	if c.acked == "" && c.flying == "" {
		return nil
	}
	got, err := c.now(ctx, v)
	if err != nil {
		return fmt.Errorf("[%s] look at %s: %w", c.kind, c.name, err)
	}
	if got != c.acked && (c.flying == "" || got != c.flying) {
		return fmt.Errorf("[%s] %s is %q; acknowledged was %q, perhaps written was %q", c.kind, c.name, got, c.acked, c.flying)
	}
	c.acked, c.flying = got, ""
	return nil
}

// sent is an event that was sent with a transaction id.
type sent struct {
	kind  kind
	path  string // with the transaction id
	body  map[string]any
	mark  string // in the body, of this event alone
	room  string
	event string // its id once it was acknowledged
}

// journal is what one writer did. Its writer alone adds to it; it is read when that has stopped.
type journal struct {
	cells  []*cell
	events []*sent // of this round
	states []*sent // state events of this round, which have no transaction id
	faults []error // refusals of what should not have been refused
}

func (j *journal) cell(name string, look lookFunc) *cell {
	c := &cell{name: name, look: look}
	j.cells = append(j.cells, c)
	return c
}
