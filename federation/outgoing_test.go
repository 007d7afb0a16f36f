package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// TestSenderLongBacklog: more is waiting than is kept in memory, and most of it for others.
func TestSenderLongBacklog(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		want := []int64{o.send(1, "a")}
		o.backlog(70_000, "b")
		want = append(want, o.send(1, "a", "b"), o.send(1, "a"))
		defer o.start()()
		time.Sleep(time.Second)
		require.Equal(t, want, o.events("a"))
		require.Equal(t, want[1:2], o.events("b"), "of the others nothing is here any more")
		time.Sleep(10 * time.Minute)
		outgoing, _ := o.rows()
		require.Empty(t, outgoing)
		o.check()
	})
}

// TestSenderEventsGone: a server catches up with what is left.
func TestSenderEventsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", dead)
		first := o.send(1, "a")
		synctest.Wait()
		o.backlog(200, "a")
		time.Sleep(6 * time.Hour)
		last := o.send(1000, "a")
		o.is("a", nil)
		time.Sleep(2 * time.Hour)
		require.Equal(t, []int64{first, last}, o.events("a"))
		require.Empty(t, o.catchingUp("a"))
		o.check()
	})
}

// backlog queues events for a server that are not here any more, each of a room of its own.
func (o *outside) backlog(n int, server id.ServerName) {
	o.t.Helper()
	act := o.act(n, []id.ServerName{server}, func(a *storage.Act, pos storage.Pos) {
		set := o.set(a, pos, []id.ServerName{server})
		for i := range storage.Pos(n) {
			a.Add(storage.InsertOutgoing, pos+i, pos+i, pos+i, set)
		}
	})
	require.NoError(o.t, act.Wait(context.Background()))
}

// TestSenderRedacted: what is redacted before it was sent is sent redacted.
func TestSenderRedacted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", dead)
		at := o.send(1, "a")
		time.Sleep(time.Minute)
		require.NoError(t, o.db.Write(context.Background(), func(tx *storage.Tx, pos storage.Pos) error {
			return tx.RedactEvent(at, fmt.Appendf(nil, `{"n":%d}`, at), pos)
		}))
		o.is("a", nil)
		time.Sleep(5 * time.Minute)
		require.Equal(t, []int64{at}, o.events("a"))
		require.Contains(t, o.transactions("a")[0].body, fmt.Sprintf(`"pdus":[{"n":%d}]`, at))
	})
}

// TestSenderSlowServers: servers that were there a moment ago and hang now do not keep the others waiting for long.
func TestSenderSlowServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		var names []id.ServerName
		for i := range 100 {
			names = append(names, id.ServerName(fmt.Sprintf("s%d", i)))
			o.is(names[i], hole)
			o.sender.Alive(names[i])
		}
		o.sender.Alive("live")
		o.send(1, names...)
		at := o.send(1, "live")
		time.Sleep(5 * time.Second)
		require.Equal(t, []int64{at}, o.events("live"))
	})
}

// TestSenderBadEDU: what must arrive is sent behind an event that is refused.
func TestSenderBadEDU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.sender.Alive("a")
		hold := make(chan struct{})
		o.is("a", func(context.Context, received) error { <-hold; return nil })
		first := o.send(1, "a")
		synctest.Wait()
		bad, good := o.send(1, "a"), o.send(1, "a")
		o.sender.SendEDU([]id.ServerName{"a"}, "m.receipt", "", json.RawMessage(`{"n":1}`))
		o.is("a", refusing(bad, status(400, "M_BAD_JSON")))
		close(hold)
		time.Sleep(time.Minute)
		require.Equal(t, []int64{first, good}, o.events("a"))
		require.Equal(t, []string{`m.receipt{"n":1}`}, o.edus("a"))
		o.check()
	})
}
