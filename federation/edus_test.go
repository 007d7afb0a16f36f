package federation_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/storage"
)

// tell sends an EDU of one number.
func (o *outside) tell(server id.ServerName, typ, key string, n int) {
	o.sender.SendEDU([]id.ServerName{server, "own"}, typ, key, json.RawMessage(fmt.Sprintf(`{"n":%d}`, n)))
}

func TestSendEDU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.sender.Alive("a")
		o.is("a", func(context.Context, received) error { time.Sleep(time.Second); return nil })
		o.tell("a", "m.x", "", 0)
		synctest.Wait()
		var want []string
		for i := range 250 {
			o.tell("a", "m.x", "", i)
			want = append(want, fmt.Sprintf(`m.x{"n":%d}`, i))
		}
		time.Sleep(5 * time.Second)
		require.Equal(t, want, o.edus("a")[1:])
		require.Len(t, o.transactions("a"), 4)
		require.Empty(t, o.triedAt("own"))
		o.check()
	})
}

// TestSendEDUReplaces: what is out of date is not sent.
func TestSendEDUReplaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", func(context.Context, received) error { time.Sleep(time.Second); return nil })
		o.tell("a", "m.presence", "@u:own", 0)
		synctest.Wait()
		o.tell("a", "m.presence", "@u:own", 1)
		o.tell("a", "m.presence", "@v:own", 2)
		o.tell("a", "m.typing", "@u:own", 3)
		o.tell("a", "m.presence", "@u:own", 4)
		time.Sleep(5 * time.Second)
		require.Equal(t, []string{`m.presence{"n":0}`, `m.presence{"n":2}`, `m.typing{"n":3}`, `m.presence{"n":4}`}, o.edus("a"))
	})
}

// TestSendEDUBound: the oldest are dropped, with a server that fails sooner.
func TestSendEDUBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.sender.Alive("slow")
		o.is("slow", func(context.Context, received) error { time.Sleep(time.Second); return nil })
		o.is("dead", dead)
		o.tell("slow", "m.x", "", -1)
		o.tell("dead", "m.x", "", -1)
		synctest.Wait()
		for i := range 3000 {
			o.tell("slow", "m.x", "", i)
			o.tell("dead", "m.x", "", i)
		}
		o.is("dead", nil)
		time.Sleep(time.Minute)
		require.Len(t, o.edus("slow"), 1001)
		require.Equal(t, `m.x{"n":2999}`, o.edus("slow")[1000])
		require.Len(t, o.edus("dead"), 101)
		require.Equal(t, `m.x{"n":2900}`, o.edus("dead")[1])
	})
}

// TestSendEDUToFailing: what may be lost does not go with what is tried for hours, and nobody was typing an hour ago.
func TestSendEDUToFailing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", dead)
		at := o.send(1, "a")
		synctest.Wait()
		o.tell("a", "m.typing", "k", 1)
		o.tell("a", "m.receipt", "k", 2)
		time.Sleep(time.Hour)
		o.is("a", nil)
		time.Sleep(2 * time.Hour)
		require.Equal(t, []int64{at}, o.events("a"))
		require.Equal(t, []string{`m.receipt{"n":2}`}, o.edus("a"))
		o.check()
	})
}

// TestSendEDUGivenUp: EDUs alone are tried for a minute.
func TestSendEDUGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		defer o.start()()
		o.is("a", dead)
		o.tell("a", "m.typing", "k", 1)
		time.Sleep(5 * time.Minute)
		tries := len(o.triedAt("a"))
		time.Sleep(5 * time.Hour)
		require.Len(t, o.triedAt("a"), tries, "there is nothing to be sent")
		o.is("a", nil)
		at := o.send(1, "a")
		time.Sleep(2 * time.Hour)
		require.Equal(t, []int64{at}, o.events("a"))
		require.Empty(t, o.edus("a"))
	})
}

// TestSendEDURefuses: what would have the whole transaction refused is not put into one.
func TestSendEDURefuses(t *testing.T) {
	for _, content := range []string{``, `{`, `{"a":1.5}`, `{"a":1,"a":2}`, `{"a":"` + strings.Repeat("x", 66_000) + `"}`} {
		_, err := federation.EncodeEDU("m.x", json.RawMessage(content))
		require.Error(t, err, "%.40s", content)
	}
	text, err := federation.EncodeEDU("m.x", json.RawMessage(`{"b":1, "a":"<"}`))
	require.NoError(t, err)
	require.Equal(t, `{"content":{"a":"<","b":1},"edu_type":"m.x"}`, string(text))
}

// ledger has EDUs that must arrive.
type ledger struct {
	mu   sync.Mutex // guards the following
	list map[id.ServerName][]federation.DurableEDU
}

// After implements federation.DurableEDUs.
func (l *ledger) After(_ context.Context, server id.ServerName, after, upTo storage.Pos, limit int) (list []federation.DurableEDU, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.list[server] {
		if e.At > after && e.At <= upTo && len(list) < limit {
			list = append(list, e)
		}
	}
	return list, nil
}

// Waiting implements federation.DurableEDUs.
func (l *ledger) Waiting(context.Context) (servers []id.ServerName, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for server := range l.list {
		servers = append(servers, server)
	}
	return servers, nil
}

// TestDurableEDUs: what must arrive arrives once and in order, whatever happens.
func TestDurableEDUs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutside(t)
		l := &ledger{list: map[id.ServerName][]federation.DurableEDU{}}
		o.cfg.Durable = l
		var want []string
		write := func() {
			act := o.act(1, []id.ServerName{"a"}, func(_ *storage.Act, pos storage.Pos) {
				text, err := federation.EncodeEDU("m.direct_to_device", json.RawMessage(fmt.Sprintf(`{"n":%d}`, pos)))
				require.NoError(t, err)
				l.mu.Lock()
				defer l.mu.Unlock()
				l.list["a"] = append(l.list["a"], federation.DurableEDU{At: pos, Text: text})
				want = append(want, fmt.Sprintf(`m.direct_to_device{"n":%d}`, pos))
			})
			require.NoError(t, act.Wait(context.Background()))
		}
		for range 250 {
			write()
		}
		end := o.start()
		synctest.Wait()
		require.Equal(t, want, o.edus("a"))
		require.Len(t, o.transactions("a"), 3)

		lost := func(_ context.Context, txn received) error { o.take("a", txn); return errGone }
		o.is("a", lost)
		write()
		time.Sleep(time.Hour)
		write()
		end()
		defer o.start()()
		o.is("a", nil)
		time.Sleep(2 * time.Hour)
		require.Equal(t, want, o.edus("a"))
		o.check()
	})
}
