package homeservertest_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver"
	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/eventauth"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// town is a room with members of many servers, which all answer at one port.
type town struct {
	b      *testing.B
	rules  *roomversion.Rules
	keys   map[string]signing.Key
	room   id.RoomID
	state  map[string]*event.Event // by type and state key
	events []*event.Event
	depth  int64
	told   []byte // the answer to a join, up to its end
}

const (
	townServers = 50
	townMayor   = "@mayor:town0.test"
)

// newTown is a room of so many members.
func newTown(b *testing.B, members int) *town {
	b.Helper()
	t := &town{b: b, keys: map[string]signing.Key{}, room: "!town:town0.test", state: map[string]*event.Event{}}
	t.rules, _ = roomversion.Get("11")
	for n := range townServers {
		name := fmt.Sprintf("town%d.test", n)
		seed := sha256.Sum256([]byte(name))
		key, err := signing.NewKey("town", seed[:])
		require.NoError(b, err)
		t.keys[name] = key
	}
	t.add("m.room.create", townMayor, "", `{"room_version":"11"}`)
	t.add("m.room.member", townMayor, townMayor, `{"membership":"join"}`)
	t.add("m.room.power_levels", townMayor, "", `{"users":{"`+townMayor+`":100}}`)
	t.add("m.room.join_rules", townMayor, "", `{"join_rule":"public"}`)
	t.add("m.room.history_visibility", townMayor, "", `{"history_visibility":"shared"}`)
	chain := strings.TrimSuffix(t.list(), "]")
	for n := range members - 1 {
		user := fmt.Sprintf("@citizen%d:town%d.test", n, n%townServers)
		t.add("m.room.member", user, user, fmt.Sprintf(`{"displayname":"Citizen %d","membership":"join"}`, n))
	}
	t.told = []byte(`{"origin":"town0.test","members_omitted":false,"servers_in_room":["town0.test"],"auth_chain":` + chain + `],"state":` + t.list())
	return t
}

// add puts a state event into the room.
func (t *town) add(eventType, sender, stateKey, content string) {
	d := event.Draft{
		Room: t.room, Sender: id.UserID(sender), Type: eventType, StateKey: &stateKey, Content: []byte(content),
		Depth: t.depth, OriginServerTS: 1_700_000_000_000 + t.depth, Rules: t.rules,
	}
	t.connect(&d)
	server := string(d.Sender.Server())
	ev, err := event.Build(d, id.ServerName(server), t.keys[server])
	require.NoError(t.b, err)
	t.events = append(t.events, ev)
	t.state[eventType+" "+stateKey] = ev
	t.depth++
}

// connect names what an event follows and what allows it.
func (t *town) connect(d *event.Draft) {
	if n := len(t.events); n > 0 {
		d.PrevEvents = []id.EventID{t.events[n-1].ID}
	}
	for _, key := range eventauth.Needed(*d) {
		if e := t.state[key.Type+" "+key.StateKey]; e != nil {
			d.AuthEvents = append(d.AuthEvents, e.ID)
		}
	}
}

func (t *town) list() string {
	list := make([]string, len(t.events))
	for i, e := range t.events {
		list[i] = string(e.JSON)
	}
	return "[" + strings.Join(list, ",") + "]"
}

// ServeHTTP answers for every server of the town.
func (t *town) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch path := r.URL.Path; {
	case strings.HasPrefix(path, keysPath):
		w.Write(t.keysOf(r.Host)) //nolint:errcheck // who has asked has gone
	case strings.Contains(path, "/make_join/"):
		w.Write(t.template(path[strings.LastIndex(path, "/")+1:])) //nolint:errcheck // likewise
	case strings.Contains(path, "/send_join/"):
		w.Write(t.told)      //nolint:errcheck // likewise
		w.Write([]byte(`}`)) //nolint:errcheck // likewise
	case strings.Contains(path, "/send/"):
		w.Write([]byte(`{"pdus":{}}`)) //nolint:errcheck // likewise
	default:
		w.WriteHeader(404)
		w.Write([]byte(`{"errcode":"M_UNRECOGNIZED"}`)) //nolint:errcheck // likewise
	}
}

func (t *town) keysOf(server string) []byte {
	key := t.keys[server]
	raw, _ := json.Marshal(object{
		"server_name": server, "old_verify_keys": object{}, "valid_until_ts": time.Now().Add(24 * time.Hour).UnixMilli(),
		"verify_keys": object{key.ID: object{"key": signing.Encode(key.Public())}},
	})
	signed, _ := signing.SignJSON(server, key, raw)
	return signed
}

func (t *town) template(user string) []byte {
	d := event.Draft{
		Room: t.room, Sender: id.UserID(user), Type: "m.room.member", StateKey: &user, Content: []byte(`{"membership":"join"}`), Rules: t.rules,
	}
	t.connect(&d)
	raw, _ := json.Marshal(object{"room_version": "11", "event": object{
		"room_id": t.room, "sender": user, "type": d.Type, "state_key": user, "content": object{"membership": "join"},
		"depth": t.depth, "prev_events": d.PrevEvents, "auth_events": d.AuthEvents, "origin_server_ts": time.Now().UnixMilli(),
	}})
	return raw
}

// toPort sends every request to one port, whatever server it is for.
type toPort struct {
	port      *url.URL
	transport *http.Transport
}

func (p toPort) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Host = r.URL.Host
	r.URL.Scheme, r.URL.Host = "http", p.port.Host
	return p.transport.RoundTrip(r)
}

// BenchmarkJoin10000: a user joins a room of 10,000 members of fifty servers, over loopback, into a database in a file.
// The peak is that of the heap in use, beside what there was before.
func BenchmarkJoin10000(b *testing.B) {
	const members = 10_000
	t := newTown(b, members)
	listener := httptest.NewServer(t)
	b.Cleanup(listener.Close)
	port, err := url.Parse(listener.URL)
	require.NoError(b, err)
	transport := &http.Transport{}
	b.Cleanup(transport.CloseIdleConnections)
	b.ReportAllocs()
	peak, n := uint64(0), 0
	for b.Loop() {
		b.StopTimer()
		engine, err := sqlite.Open(filepath.Join(b.TempDir(), fmt.Sprint(n)))
		require.NoError(b, err)
		hs := homeservertest.New(b, func(cfg *homeserver.Config) {
			cfg.Storage = engine
			cfg.Federation = homeserver.Federation{Enabled: true, Transport: toPort{port, transport}}
		})
		alice := hs.User("alice")
		n++
		runtime.GC()
		stop := watchHeap(&peak)
		b.StartTimer()
		alice.Do("POST", "/_matrix/client/v3/join/"+url.PathEscape(string(t.room))+"?via=town0.test", object{}).WantOK()
		b.StopTimer()
		stop()
		b.StartTimer()
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(n)/members, "µs/event")
	b.ReportMetric(float64(peak)/1e6, "peak-MB")
}

// watchHeap notes the highest growth of the heap until it is stopped.
func watchHeap(peak *uint64) (stop func()) {
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(sample)
	before := sample[0].Value.Uint64()
	var ended atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		for !ended.Load() {
			metrics.Read(sample)
			if now := sample[0].Value.Uint64(); now > before {
				*peak = max(*peak, now-before)
			}
			time.Sleep(2 * time.Millisecond)
		}
	}()
	return func() { ended.Store(true); <-done }
}
