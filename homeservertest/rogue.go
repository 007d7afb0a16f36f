package homeservertest

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/federation/wire"
	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/signing"
)

// Rogue is a server of a network that a test plays: it signs and sends anything, and answers what the test wants. Left
// alone it is a decent peer with the rooms that it has made or joined.
type Rogue struct {
	KeyID string
	Key   ed25519.PrivateKey

	network *Network
	name    string
	txn     atomic.Int64

	mu sync.Mutex // guards the following
	// handler is asked before the rogue answers itself; asked is what was asked; rooms are those it is in.
	handler func(http.ResponseWriter, *http.Request) bool
	asked   []Asked
	rooms   map[string]*RogueRoom
}

// Peer is somebody in a network: a Server or a Rogue.
type Peer interface{ Name() string }

// Asked is a request that a Rogue got.
type Asked struct {
	From, Method string
	Path         string // escaped, with the query
	Body         []byte
}

// Rogue puts a rogue into the network. Its keys follow from its name.
func (n *Network) Rogue(name string) *Rogue {
	seed := sha256.Sum256([]byte(name))
	r := &Rogue{
		KeyID: "ed25519:rogue", Key: ed25519.NewKeyFromSeed(seed[:]),
		network: n, name: name, rooms: map[string]*RogueRoom{},
	}
	n.Add(name, r)
	return r
}

// Name is the rogue's name.
func (r *Rogue) Name() string { return r.name }

// UserID is a user of the rogue.
func (r *Rogue) UserID(localpart string) string { return "@" + localpart + ":" + r.name }

// Handle has fn answer requests, several at once. With false, and with a nil fn, the rogue answers itself, for which fn
// must not have read the body.
func (r *Rogue) Handle(fn func(w http.ResponseWriter, r *http.Request) bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.handler = fn
}

// Asked are the requests whose path begins with a prefix, in the order in which they came.
func (r *Rogue) Asked(prefix string) (found []Asked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, a := range r.asked {
		if strings.HasPrefix(a.Path, prefix) {
			found = append(found, a)
		}
	}
	return found
}

// ServeHTTP notes a request and answers it. Bodies longer than 64 MiB are cut.
func (r *Rogue) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	body, err := io.ReadAll(io.LimitReader(request.Body, 64<<20))
	if err != nil {
		return // who has asked has gone
	}
	request.Body = io.NopCloser(bytes.NewReader(body))
	r.mu.Lock()
	r.asked = append(r.asked, Asked{Origin(request), request.Method, request.URL.RequestURI(), body})
	handler := r.handler
	r.mu.Unlock()
	if handler == nil || !handler(w, request) {
		r.answer(w, request, body)
	}
}

// Keys is the rogue's answer about its keys, valid for a day.
func (r *Rogue) Keys() []byte {
	r.network.t.Helper()
	return r.SignJSON(map[string]any{
		"server_name": r.name, "old_verify_keys": map[string]any{}, "valid_until_ts": time.Now().Add(24 * time.Hour).UnixMilli(),
		"verify_keys": map[string]any{r.KeyID: map[string]any{"key": signing.Encode(r.Key.Public().(ed25519.PublicKey))}},
	})
}

// SignJSON signs an object as JSON objects are signed, and returns its canonical form.
func (r *Rogue) SignJSON(object any) []byte {
	r.network.t.Helper()
	raw, err := json.Marshal(object)
	require.NoError(r.network.t, err)
	signed, err := signing.SignJSON(r.name, r.key(), raw)
	require.NoError(r.network.t, err)
	return signed
}

func (r *Rogue) key() signing.Key { return signing.Key{ID: r.KeyID, Private: r.Key} }

// Request makes a request that the rogue has signed. The path is escaped and may have a query; body is encoded as JSON
// unless it is nil or bytes. What is no JSON at all gets the signature of no body.
func (r *Rogue) Request(to Peer, method, path string, body any) *http.Request {
	r.network.t.Helper()
	raw := encode(r.network.t, body)
	request, err := http.NewRequest(method, "https://"+to.Name()+path, bytes.NewReader(raw))
	require.NoError(r.network.t, err)
	credentials := wire.Credentials{Origin: id.ServerName(r.name), Destination: id.ServerName(to.Name()), KeyID: r.KeyID}
	credentials.Signature = r.key().Sign(r.signingObject(method, path, credentials, raw))
	request.Header.Set("Authorization", string(wire.AppendAuthorization(nil, credentials)))
	return request
}

// signingObject is what the signature of a request covers, whose body may be what no server would make.
func (r *Rogue) signingObject(method, path string, c wire.Credentials, body []byte) []byte {
	r.network.t.Helper()
	object, err := wire.SigningObject(method, path, c.Origin, c.Destination, nil)
	require.NoError(r.network.t, err)
	content, err := canonjson.AppendLoose([]byte(`{"content":`), body)
	if err != nil {
		return object
	}
	return append(append(content, ','), object[1:]...)
}

// Ask sends a request, whatever it is, as the rogue. The test fails when no answer comes.
func (r *Rogue) Ask(request *http.Request) *Response {
	r.network.t.Helper()
	response, err := r.network.From(r.name).RoundTrip(request)
	require.NoError(r.network.t, err, "%s %s", request.Method, request.URL)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(r.network.t, err, "%s %s", request.Method, request.URL)
	return &Response{
		t: r.network.t, what: request.Method + " " + request.URL.String(),
		Status: response.StatusCode, Header: response.Header, Body: body,
	}
}

// Do sends a request that the rogue has signed.
func (r *Rogue) Do(to Peer, method, path string, body any) *Response {
	r.network.t.Helper()
	return r.Ask(r.Request(to, method, path, body))
}

// EDU is an ephemeral data unit of a type.
func EDU(eduType string, content any) map[string]any {
	return map[string]any{"edu_type": eduType, "content": content}
}

// Send sends a transaction with a new id.
func (r *Rogue) Send(to Peer, pdus []PDU, edus ...any) *Response {
	r.network.t.Helper()
	return r.SendTxn(to, "r"+strconv.FormatInt(r.txn.Add(1), 10), pdus, edus...)
}

// SendTxn is Send with an id.
func (r *Rogue) SendTxn(to Peer, txn string, pdus []PDU, edus ...any) *Response {
	r.network.t.Helper()
	return r.Do(to, "PUT", sendPath+url.PathEscape(txn), r.Transaction(pdus, edus...))
}

const sendPath = "/_matrix/federation/v1/send/"

// Transaction is the body of a transaction. Events and EDUs that are bytes stand in it as they are.
func (r *Rogue) Transaction(pdus []PDU, edus ...any) []byte {
	r.network.t.Helper()
	b := []byte(`{"edus":[`)
	for i, edu := range edus {
		b = append(separate(b, i), encode(r.network.t, edu)...)
	}
	b = append(b, `],"origin":"`+r.name+`","origin_server_ts":`...)
	b = strconv.AppendInt(b, time.Now().UnixMilli(), 10)
	b = append(b, `,"pdus":[`...)
	for i, pdu := range pdus {
		b = append(separate(b, i), pdu.JSON...)
	}
	return append(b, "]}"...)
}

// separate puts a comma before all elements but the first.
func separate(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}
