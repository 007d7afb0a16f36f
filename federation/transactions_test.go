package federation_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"

	"github.com/embedmatrix/homeserver/federation"
	"github.com/embedmatrix/homeserver/federation/keyring"
	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/rooms"
	"github.com/embedmatrix/homeserver/storage"
	"github.com/embedmatrix/homeserver/storage/sqlite"
)

// receiver is a Receiver that a test plays. An event is {"id":…,"room":…}.
type receiver struct {
	receive func(ctx context.Context, event string) error

	mu       sync.Mutex // guards received
	received []string
}

func (r *receiver) Identify(_ context.Context, pdu json.RawMessage) (id.RoomID, id.EventID, error) {
	room, event := gjson.GetBytes(pdu, "room").String(), gjson.GetBytes(pdu, "id").String()
	if room == "" {
		return "", id.EventID(event), mxerr.BadJSON.With("no room")
	}
	return id.RoomID(room), id.EventID(event), nil
}

func (r *receiver) Receive(ctx context.Context, _ id.ServerName, _ id.RoomID, pdus []json.RawMessage) []error {
	errs := make([]error, len(pdus))
	for i, pdu := range pdus {
		event := gjson.GetBytes(pdu, "id").String()
		if r.receive != nil {
			errs[i] = r.receive(ctx, event)
		}
		r.mu.Lock()
		r.received = append(r.received, event)
		r.mu.Unlock()
	}
	return errs
}

// anyone takes a request's X-Origin for its sender.
type anyone struct{}

func (anyone) Peer(_ context.Context, r *http.Request, body func() ([]byte, error)) (id.ServerName, error) {
	_, err := body()
	return id.ServerName(r.Header.Get("X-Origin")), err
}

// inbox is a server that takes transactions for rooms.
func inbox(t *testing.T, r *receiver, edus map[string]func(context.Context, id.ServerName, json.RawMessage) error) (*federation.Service, http.Handler) {
	t.Helper()
	db, err := storage.Open(t.Context(), sqlite.Memory())
	require.NoError(t, err)
	ring := keyring.New(keyring.Config{Server: "hs.test", DB: db})
	service := federation.New(federation.Config{
		ServerName: "hs.test", Key: key(t, "a", 1), Ring: ring, DB: db, Receiver: r, EDUs: edus,
	})
	t.Cleanup(func() {
		service.Close()
		ring.Close()
		require.NoError(t, db.Close())
	})
	return service, httpapi.NewRouter(httpapi.Config{Peers: anyone{}}, service.Routes())
}

func send(ctx context.Context, server http.Handler, origin, txn, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, "PUT", "/_matrix/federation/v1/send/"+txn, strings.NewReader(body))
	r.Header.Set("X-Origin", origin)
	w := httptest.NewRecorder()
	server.ServeHTTP(w, r)
	return w
}

// pdus is a transaction with events "room/id".
func pdus(events ...string) string {
	var list []string
	for _, event := range events {
		room, name, _ := strings.Cut(event, "/")
		list = append(list, fmt.Sprintf(`{"room":%q,"id":%q}`, room, name))
	}
	return `{"pdus":[` + strings.Join(list, ",") + `]}`
}

func TestVerdicts(t *testing.T) {
	r := &receiver{receive: func(_ context.Context, event string) error {
		switch event {
		case "$refused":
			return mxerr.Forbidden.With("not here")
		case "$slow":
			return fmt.Errorf("ask for it: %w", context.DeadlineExceeded)
		case "$rejected":
			return fmt.Errorf("%w: %w", rooms.ErrRejected, mxerr.Forbidden)
		case "$lacking":
			return fmt.Errorf("%w: %w", rooms.ErrPostponed, mxerr.NotFound)
		case "$fault":
			return errors.New("a secret")
		case "$panic":
			panic("boom")
		}
		return nil
	}}
	_, server := inbox(t, r, nil)
	w := send(t.Context(), server, "a.test", "1", pdus("!a/$one", "!a/$refused", "!a/$two", "!a/$rejected", "!a/$lacking", "!b/$slow", "!c/$fault", "!d/$panic", "/$lost", "/"))
	require.Equal(t, 200, w.Code, "%s", w.Body)
	require.JSONEq(t, `{"pdus":{
		"$one":{},"$two":{},"$rejected":{},"$lacking":{},"$refused":{"error":"not here"},"$slow":{"error":"the event could not be checked in time"},
		"$fault":{"error":"internal error"},"$panic":{"error":"internal error"},"$lost":{"error":"no room"}
	}}`, w.Body.String())
}

// The events of a room are taken in their order, and rooms do not wait for each other.
func TestRoomsBesideEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{receive: func(_ context.Context, event string) error {
			if strings.HasPrefix(event, "$slow") {
				time.Sleep(10 * time.Second)
			}
			return nil
		}}
		_, server := inbox(t, r, nil)
		began := time.Now()
		w := send(t.Context(), server, "a.test", "1", pdus("!a/$slow1", "!b/$slow2", "!a/$three", "!c/$four"))
		require.Equal(t, 200, w.Code)
		require.Equal(t, 10*time.Second, time.Since(began))
		require.Equal(t, "$four", r.received[0])
		require.Less(t, strings.Index(fmt.Sprint(r.received), "$slow1"), strings.Index(fmt.Sprint(r.received), "$three"))
	})
}

// A server's transactions are handled one after the other, another server's beside them.
func TestServersBesideEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{receive: func(context.Context, string) error { time.Sleep(10 * time.Second); return nil }}
		_, server := inbox(t, r, nil)
		var all sync.WaitGroup
		took := make([]time.Duration, 3)
		began := time.Now()
		for i, origin := range []string{"a.test", "a.test", "b.test"} {
			all.Go(func() {
				time.Sleep(time.Duration(i))
				require.Equal(t, 200, send(t.Context(), server, origin, fmt.Sprint(i), pdus("!a/$e")).Code)
				took[i] = time.Since(began).Round(time.Second)
			})
		}
		all.Wait()
		require.Equal(t, []time.Duration{10 * time.Second, 20 * time.Second, 10 * time.Second}, took)
	})
}

// F-63: whatever a room waits for, its transaction is answered within a minute, and later ones are handled.
func TestAnswerInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{receive: func(ctx context.Context, event string) error {
			if event != "$endless" {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		}}
		_, server := inbox(t, r, nil)
		began := time.Now()
		w := send(t.Context(), server, "a.test", "1", pdus("!a/$endless", "!b/$good"))
		require.Equal(t, 200, w.Code)
		require.Less(t, time.Since(began), time.Minute)
		require.True(t, gjson.Get(w.Body.String(), "pdus.$endless.error").Exists())
		require.JSONEq(t, `{"pdus":{"$later":{}}}`, send(t.Context(), server, "a.test", "2", pdus("!a/$later")).Body.String())
	})
}

// A sender that does not wait finds the answer when it comes again.
func TestSenderThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{receive: func(context.Context, string) error { time.Sleep(10 * time.Second); return nil }}
		_, server := inbox(t, r, nil)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.NotEqual(t, 200, send(short, server, "a.test", "1", pdus("!a/$e")).Code)
		began := time.Now()
		require.Equal(t, 200, send(t.Context(), server, "a.test", "1", pdus("!a/$e")).Code)
		require.Equal(t, 9*time.Second, time.Since(began))
		require.Equal(t, []string{"$e"}, r.received)
	})
}

// A transaction that met a fault of this server is not answered, so that it is sent again; nor is one that Close met.
func TestFaultsAreNotAnswers(t *testing.T) {
	away, begun := true, make(chan struct{})
	r := &receiver{receive: func(ctx context.Context, event string) error {
		if event == "$endless" {
			close(begun)
			<-ctx.Done()
		}
		if away {
			return fmt.Errorf("store: %w", storage.ErrBusy)
		}
		return ctx.Err()
	}}
	service, server := inbox(t, r, nil)
	require.GreaterOrEqual(t, send(t.Context(), server, "a.test", "1", pdus("!a/$e")).Code, 500)
	away = false
	again := func() bool { return send(t.Context(), server, "a.test", "1", pdus("!a/$e")).Code == 200 }
	require.Eventually(t, again, 10*time.Second, time.Millisecond, "it is taken when it is sent again")
	answered := make(chan int)
	go func() { answered <- send(context.Background(), server, "a.test", "2", pdus("!a/$endless")).Code }()
	<-begun
	service.Close()
	require.Equal(t, 503, <-answered)
	require.Equal(t, 503, send(t.Context(), server, "a.test", "3", pdus("!a/$e")).Code)
}

// A server cannot have others' memory filled with transactions that wait.
func TestWaitingTransactionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{receive: func(context.Context, string) error { time.Sleep(time.Second); return nil }}
		_, server := inbox(t, r, nil)
		large := strings.TrimSuffix(pdus("!a/$e"), "}") + `,"x":"` + strings.Repeat("x", 9<<20) + `"}`
		var all sync.WaitGroup
		codes := make([]int, 5)
		for i := range codes {
			all.Go(func() { codes[i] = send(t.Context(), server, "a.test", fmt.Sprint(i), large).Code })
		}
		all.Wait()
		count := map[int]int{}
		for _, code := range codes {
			count[code]++
		}
		require.Equal(t, map[int]int{200: 3, 429: 2}, count)
		require.Equal(t, 200, send(t.Context(), server, "a.test", "later", large).Code)
	})
}

// However small they are and whether or not anybody waits for their answers, they are not many.
func TestWaitingTransactionsAreFew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &receiver{receive: func(context.Context, string) error { time.Sleep(10 * time.Second); return nil }}
		_, server := inbox(t, r, nil)
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var all sync.WaitGroup
		for i := range 100 {
			all.Go(func() { send(short, server, "a.test", fmt.Sprint(i), pdus("!a/$e")) })
		}
		all.Wait()
		require.Equal(t, 429, send(t.Context(), server, "a.test", "late", "{}").Code)
		require.Equal(t, 200, send(t.Context(), server, "a.test", "0", pdus("!a/$e")).Code, "one of those that are there")
		require.Equal(t, 200, send(t.Context(), server, "b.test", "1", "{}").Code, "another server")
		time.Sleep(1000 * time.Second)
		require.Equal(t, 200, send(t.Context(), server, "a.test", "late", "{}").Code)
	})
}

// Each EDU is told to whom it concerns, after the events; one that fails costs the others nothing.
func TestEDUsAreTold(t *testing.T) {
	r := &receiver{}
	var told []string
	tell := func(_ context.Context, origin id.ServerName, content json.RawMessage) error {
		require.Equal(t, []string{"$e"}, r.received)
		if told = append(told, string(origin)+string(content)); strings.Contains(string(content), "panic") {
			panic("boom")
		}
		return errors.New("no")
	}
	_, server := inbox(t, r, map[string]func(context.Context, id.ServerName, json.RawMessage) error{"m.x": tell})
	edus := `{"edu_type":"m.x","content":{"b": 1, "a": 2}},{"edu_type":"m.y","content":{}},{"edu_type":7,"content":{}},
		{"edu_type":"m.x","content":[]},{"edu_type":"m.x"},0,{"edu_type":"m.x","content":{"panic":1}},{"edu_type":"m.x","content":{}}`
	w := send(t.Context(), server, "a.test", "1", strings.TrimSuffix(pdus("!a/$e"), "}")+`,"edus":[`+edus+`]}`)
	require.Equal(t, 200, w.Code, "%s", w.Body)
	require.Equal(t, []string{`a.test{"a":2,"b":1}`, `a.test{"panic":1}`, `a.test{}`}, told)
}
