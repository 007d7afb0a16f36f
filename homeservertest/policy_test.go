package homeservertest_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"

	"github.com/embedmatrix/homeserver/homeservertest"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/roomversion"
	"github.com/embedmatrix/homeserver/internal/signing"
)

const signPath = "/_matrix/policy/v1/sign"

// police is a policy server: it signs every event that does not have the word spam in it.
type police struct {
	*homeservertest.Rogue
	t      *testing.T
	key    ed25519.PrivateKey
	during atomic.Pointer[func()] // what happens while it thinks; nil: nothing
	closed atomic.Bool            // it answers nobody
}

func newPolice(t *testing.T, network *homeservertest.Network) *police {
	seed := sha256.Sum256([]byte("policy"))
	p := &police{Rogue: network.Rogue("police.test"), t: t, key: ed25519.NewKeyFromSeed(seed[:])}
	p.Handle(p.handle)
	return p
}

func (p *police) handle(w http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != signPath {
		return false
	}
	body, _ := io.ReadAll(r.Body)
	if during := p.during.Load(); during != nil {
		(*during)()
	}
	status, answer := 200, []byte(nil)
	switch {
	case p.closed.Load():
		status = 500
	case bytes.Contains(body, []byte("spam")):
		status, answer = 400, []byte(`{"errcode":"M_FORBIDDEN","error":"The message appears to contain possible spam"}`)
	case bytes.Contains(body, []byte("flood")):
		status, answer = 429, []byte(`{"errcode":"M_LIMIT_EXCEEDED","error":"slowly","retry_after_ms":2000}`)
	case bytes.Contains(body, []byte("trap")):
		status, answer = 401, []byte(`{"errcode":"M_UNKNOWN_TOKEN","error":"log out"}`)
	default:
		answer = []byte(`{"police.test":{"ed25519:policy_server":"` + p.sign(body) + `"}}`)
	}
	w.WriteHeader(status)
	w.Write(answer) //nolint:errcheck // who has asked has gone
	return true
}

// sign is the signature of an event of room version 11.
func (p *police) sign(raw []byte) string {
	rules, _ := roomversion.Get("11")
	redacted, err := event.Redact(rules, raw)
	require.NoError(p.t, err)
	return signing.Encode(ed25519.Sign(p.key, signing.AppendSigned(nil, redacted)))
}

// content is that of an m.room.policy.
func (p *police) content() object {
	return object{"via": p.Name(), "public_keys": object{"ed25519": p.public(base64.RawStdEncoding)}}
}

func (p *police) public(encoding *base64.Encoding) string {
	return encoding.EncodeToString(p.key.Public().(ed25519.PublicKey))
}

// signed reports whether an event has the policy server's signature.
func (p *police) signed(raw string) bool {
	at := `signatures.police\.test.ed25519:policy_server`
	return gjson.Get(raw, at).String() == p.sign([]byte(raw))
}

// beat is a room of alice's that a policy server guards, in which another server is as well.
type beat struct {
	hs     *homeservertest.Server
	police *police
	other  *homeservertest.Rogue
	alice  *homeservertest.User
	room   string
	there  *homeservertest.RogueRoom // as the other server sees it
}

func newBeat(t *testing.T) (*homeservertest.Network, *beat) {
	network := homeservertest.NewNetwork(t)
	b := &beat{hs: network.New("hs.test"), police: newPolice(t, network), other: network.Rogue("other.test")}
	b.alice = b.hs.User("alice")
	b.room = b.alice.CreateRoomWith(object{"preset": "public_chat", "room_version": "11"})
	b.police.Join(b.hs, b.room, b.police.UserID("bot"))
	b.there = b.other.Join(b.hs, b.room, b.other.UserID("eve"))
	require.Empty(t, b.police.Asked(signPath), "nothing says yet that there is a policy server")
	b.alice.SetState(b.room, "m.room.policy", "", b.police.content()).WantOK()
	require.Empty(t, b.police.Asked(signPath), "it is never asked about the m.room.policy itself")
	settle(t, network)
	return network, b
}

// text is an event of the other server.
func (b *beat) text(text string) homeservertest.PDU {
	return b.there.Extend(b.other.Text(b.other.UserID("eve"), text))
}

// vouched is an event of the other server with a signature by the policy server's key.
func (b *beat) vouched(t *testing.T, text string, sign func(raw []byte) string) homeservertest.PDU {
	p := b.text(text)
	signed, err := signing.AddSignature(p.JSON, b.police.Name(), "ed25519:policy_server", sign(p.JSON))
	require.NoError(t, err)
	return homeservertest.PDU{ID: p.ID, JSON: signed}
}

// send brings an event of the other server, which is never an error.
func (b *beat) send(t *testing.T, p homeservertest.PDU) {
	t.Helper()
	verdict := b.other.Send(b.hs, []homeservertest.PDU{p}).WantOK().Get("pdus").Map()[p.ID]
	require.False(t, verdict.Get("error").Exists(), "%s", verdict)
}

// MO-05, MO-06, ST-16: what a user here sends is signed by the policy server before anybody gets it; what that refuses is
// gone, and the client is told why in its words.
func TestPolicyServerSignsOwnEvents(t *testing.T) {
	network, b := newBeat(t)
	first := b.alice.SendTxn(b.room, "m.room.message", "one", object{"msgtype": "m.text", "body": "hi"}).WantOK().Get("event_id").String()
	again := b.alice.SendTxn(b.room, "m.room.message", "one", object{"msgtype": "m.text", "body": "hi"}).WantOK().Get("event_id").String()
	require.Equal(t, first, again)
	require.Len(t, b.police.Asked(signPath), 1)
	require.Equal(t, b.hs.Name(), b.police.Asked(signPath)[0].From)
	settle(t, network)
	got, known := b.there.Event(first)
	require.True(t, known)
	require.True(t, b.police.signed(string(got.JSON)), "%s", got.JSON)
	require.True(t, got.Get(`signatures.hs\.test`).Exists())
	e := b.alice.Expect(b.room, homeservertest.Text("hi"))
	require.Equal(t, "one", e.Get("unsigned.transaction_id").String())

	refused := b.alice.SendEvent(b.room, "m.room.message", object{"msgtype": "m.text", "body": "spam"})
	refused.WantError(400, "M_FORBIDDEN")
	require.Equal(t, "The message appears to contain possible spam", refused.Get("error").String())
	b.alice.ExpectNothing(b.room, homeservertest.Text("spam"), time.Millisecond)
	slow := b.alice.SendEvent(b.room, "m.room.message", object{"msgtype": "m.text", "body": "flood"})
	slow.WantError(429, "M_LIMIT_EXCEEDED")
	require.Equal(t, "2", slow.Header.Get("Retry-After"))
	trapped := b.alice.SendEvent(b.room, "m.room.message", object{"msgtype": "m.text", "body": "trap"})
	trapped.WantError(502, "M_UNKNOWN") // a policy server cannot log users out
	settle(t, network)
	require.Equal(t, []string{first}, b.there.Heads())
}

// Every kind of event is signed, each way in which it is sent.
func TestPolicyServerSignsEveryKind(t *testing.T) {
	network, b := newBeat(t)
	bob := b.hs.User("bob")
	bob.MustJoin(b.room)
	message := bob.Send(b.room, "hello")
	b.alice.SendEvent(b.room, "m.reaction", object{"m.relates_to": object{"rel_type": "m.annotation", "event_id": message, "key": "+"}}).WantOK()
	b.alice.SendEvent(b.room, "m.reaction", object{"m.relates_to": object{"rel_type": "m.annotation", "event_id": message, "key": "+"}}).
		WantError(400, "M_DUPLICATE_ANNOTATION")
	b.alice.SetState(b.room, "m.room.topic", "", object{"topic": "order"}).WantOK()
	b.alice.SetState(b.room, "m.room.policy", "other", object{}).WantOK() // only the one with an empty key needs no signature
	b.alice.Redact(b.room, message).WantOK()
	invited := network.Rogue("third.test")
	b.alice.Do("POST", "/_matrix/client/v3/rooms/"+b.room+"/invite", object{"user_id": invited.UserID("frank")}).WantOK()
	b.alice.MustBan(b.room, bob)
	require.Equal(t, "ban", b.alice.State(b.room, "m.room.member", bob.ID).Get("membership").String())
	settle(t, network)
	count := 0
	for _, e := range b.there.Events() {
		if e.Get(`signatures.hs\.test`).Exists() && e.Get("origin_server_ts").Int() > 0 && guarded(b.there, e) {
			require.True(t, b.police.signed(string(e.JSON)), "%s", e.JSON)
			count++
		}
	}
	require.Equal(t, 8, count, "a join, a message, a reaction, a topic, a policy, a redaction, an invite and a ban")
	require.Contains(t, string(invited.Asked("/_matrix/federation/v2/invite")[0].Body), "ed25519:policy_server")
}

// guarded reports whether an event is deeper than the m.room.policy of a room.
func guarded(room *homeservertest.RogueRoom, e homeservertest.PDU) bool {
	first, _ := room.State("m.room.policy", "")
	return e.Get("depth").Int() > first.Get("depth").Int()
}

// What happens in the room while the policy server thinks is not undone by what it signs, and counts.
func TestRoomMovesOnWhilePolicyServerThinks(t *testing.T) {
	network, b := newBeat(t)
	bob := b.hs.User("bob")
	bob.MustJoin(b.room)
	meanwhile := func(fn func()) {
		var once atomic.Bool
		during := func() {
			if once.CompareAndSwap(false, true) {
				fn()
			}
		}
		b.police.during.Store(&during)
	}
	meanwhile(func() { b.alice.Send(b.room, "first") })
	bob.Send(b.room, "second")
	b.alice.Expect(b.room, homeservertest.Text("second"))
	b.alice.Expect(b.room, homeservertest.Text("first"))
	meanwhile(func() { b.alice.MustBan(b.room, bob) })
	bob.SendEvent(b.room, "m.room.message", object{"msgtype": "m.text", "body": "third"}).WantError(403, "M_FORBIDDEN")
	b.alice.ExpectNothing(b.room, homeservertest.Text("third"), time.Millisecond)
	meanwhile(func() {
		b.alice.SendTxn(b.room, "m.room.message", "same", object{"msgtype": "m.text", "body": "fourth"}).WantOK()
	})
	fourth := b.alice.SendTxn(b.room, "m.room.message", "same", object{"msgtype": "m.text", "body": "fourth"}).WantOK().Get("event_id").String()
	settle(t, network)
	require.Equal(t, []string{fourth}, b.there.Heads(), "of two requests at once one event came about")
}

// FP-07, MO-06: an event of another server that lacks the policy server's signature gets it, or is soft-failed.
func TestPolicyServerOnReceipt(t *testing.T) {
	_, b := newBeat(t)
	plain := b.text("plain")
	b.send(t, plain)
	b.alice.Expect(b.room, homeservertest.Text("plain"))
	require.Len(t, b.police.Asked(signPath), 1)
	b.send(t, plain)
	require.Len(t, b.police.Asked(signPath), 1, "what is known is not asked about")

	b.send(t, b.vouched(t, "vouched", b.police.sign))
	b.alice.Expect(b.room, homeservertest.Text("vouched"))
	require.Len(t, b.police.Asked(signPath), 1, "it had the signature")
	b.send(t, b.vouched(t, "forged", func([]byte) string { return strings.Repeat("A", 86) }))
	b.alice.Expect(b.room, homeservertest.Text("forged"))
	require.Len(t, b.police.Asked(signPath), 2, "one that is wrong is asked for again")

	bad := b.text("spam")
	b.send(t, bad)
	b.alice.ExpectNothing(b.room, homeservertest.Text("spam"), time.Millisecond)
	b.send(t, bad)
	require.Len(t, b.police.Asked(signPath), 3)
	b.police.closed.Store(true)
	b.send(t, b.text("unchecked"))
	b.alice.ExpectNothing(b.room, homeservertest.Text("unchecked"), time.Millisecond)
}

// A policy server's own events need its signature too, beside that of the server that it is.
func TestEventsOfThePolicyServer(t *testing.T) {
	_, b := newBeat(t)
	room := b.police.Room(b.room)
	text := room.Build(b.police.Text(b.police.UserID("bot"), "I watch"))
	only := homeservertest.PDU{ID: text.ID}
	stripped, err := sjson.DeleteBytes(text.JSON, `signatures.police\.test`)
	require.NoError(t, err)
	only.JSON, err = signing.AddSignature(stripped, b.police.Name(), "ed25519:policy_server", b.police.sign(text.JSON))
	require.NoError(t, err)
	verdict := b.police.Send(b.hs, []homeservertest.PDU{only}).WantOK().Get("pdus").Map()[text.ID]
	require.True(t, verdict.Get("error").Exists(), "the key of a policy server does not sign for the server")
	room.Add(text)
	b.police.Send(b.hs, []homeservertest.PDU{text}).WantOK()
	b.alice.Expect(b.room, homeservertest.Text("I watch"))
	require.Len(t, b.police.Asked(signPath), 1)
}

// Events that follow each other in one transaction are asked about at once; those that the rules refuse not at all.
func TestPolicyServerOnReceiptOfMany(t *testing.T) {
	_, b := newBeat(t)
	var pdus []homeservertest.PDU
	for range 20 {
		pdus = append(pdus, b.text("one of many"))
	}
	last := b.text("the last")
	b.other.Send(b.hs, append(pdus, last)).WantOK()
	b.alice.Expect(b.room, homeservertest.Text("the last"))
	require.Len(t, b.police.Asked(signPath), 21)
	mallory := b.there.Build(b.other.Text(b.other.UserID("mallory"), "I am not here"))
	b.other.Send(b.hs, []homeservertest.PDU{mallory}).WantOK()
	require.Len(t, b.police.Asked(signPath), 21)
}

// A join by way of this server needs the signature like everything else.
func TestPolicyServerOnJoins(t *testing.T) {
	network, b := newBeat(t)
	third := network.Rogue("third.test")
	there := third.Join(b.hs, b.room, third.UserID("carol"))
	join, _ := there.Event(there.Heads()[0])
	require.True(t, b.police.signed(string(join.JSON)), "who joins is told the event as it is now: %s", join.JSON)
	spammer := network.Rogue("spam.test")
	_, refused := spammer.Make(b.hs, "join", b.room, spammer.UserID("x"))
	path := "/_matrix/federation/v2/send_join/" + b.room + "/" + refused.ID
	spammer.Do(b.hs, "PUT", path, refused.JSON).WantError(403, "M_FORBIDDEN")
	require.Equal(t, 404, b.alice.State(b.room, "m.room.member", spammer.UserID("x")).Status)
}

// MO-05: a room has a policy server only while its m.room.policy is whole and that server has somebody in the room.
func TestRoomsWithoutPolicyServer(t *testing.T) {
	network, b := newBeat(t)
	whole := b.police.content()
	for name, content := range map[string]object{
		"empty": {}, "no via": {"public_keys": whole["public_keys"]}, "via no string": {"via": 1, "public_keys": whole["public_keys"]},
		"no keys": {"via": whole["via"]}, "keys no object": {"via": whole["via"], "public_keys": []string{"ed25519"}},
		"another key": {"via": whole["via"], "public_keys": object{"ed448": "AAAA"}}, "key no string": {"via": whole["via"], "public_keys": object{"ed25519": nil}},
		"nobody there": {"via": "third.test", "public_keys": whole["public_keys"]},
	} {
		t.Run(name, func(t *testing.T) {
			b.alice.SetState(b.room, "m.room.policy", "", content).WantOK()
			b.alice.Send(b.room, "spam "+name)
			b.send(t, b.text("spam too "+name))
			b.alice.Expect(b.room, homeservertest.Text("spam too "+name))
		})
	}
	require.Empty(t, b.police.Asked(signPath))
	keys := object{"ed25519": b.police.public(base64.RawURLEncoding)}
	b.alice.SetState(b.room, "m.room.policy", "", object{"via": b.police.Name(), "public_keys": keys}).WantOK()
	b.alice.Send(b.room, "the key may be in the alphabet for URLs")
	require.Len(t, b.police.Asked(signPath), 1)
	b.alice.SetState(b.room, "m.room.policy", "", object{"via": b.police.Name(), "public_keys": object{"ed25519": "?"}}).WantOK()
	b.alice.SendEvent(b.room, "m.room.message", object{"msgtype": "m.text", "body": "x"}).WantError(403, "M_FORBIDDEN")
	b.alice.SetState(b.room, "m.room.policy", "", object{"via": "hs.test", "public_keys": keys}).WantOK()
	b.alice.SendEvent(b.room, "m.room.message", object{"msgtype": "m.text", "body": "x"}).WantError(403, "M_FORBIDDEN")
	b.alice.SetState(b.room, "m.room.policy", "", whole).WantOK()
	b.police.closed.Store(true)
	b.alice.SendEvent(b.room, "m.room.message", object{"msgtype": "m.text", "body": "x"}).WantError(502, "M_UNKNOWN")
	b.police.closed.Store(false)
	settle(t, network) // what bot leaves is the room as it is now
	room := b.police.Room(b.room)
	bot := b.police.UserID("bot")
	leave := room.Build(homeservertest.Draft{Type: "m.room.member", Sender: bot, StateKey: &bot, Content: object{"membership": "leave"}})
	b.police.Send(b.hs, []homeservertest.PDU{leave}).WantOK()
	b.alice.Send(b.room, "spam once more")
}

// An upgrade lets the policy server sign the end of the old room; if it does not, there is none.
func TestUpgradeWithPolicyServer(t *testing.T) {
	for _, version := range []string{"11", "12"} {
		t.Run(version, func(t *testing.T) {
			network, b := newBeat(t)
			path := "/_matrix/client/v3/rooms/" + b.room + "/upgrade"
			b.police.closed.Store(true)
			b.alice.Do("POST", path, object{"new_version": version}).WantError(502, "M_UNKNOWN")
			require.Equal(t, 404, b.alice.State(b.room, "m.room.tombstone", "").Status)
			b.police.closed.Store(false)
			next := b.alice.Do("POST", path, object{"new_version": version}).WantOK().Get("replacement_room").String()
			require.Equal(t, next, b.alice.State(b.room, "m.room.tombstone", "").Get("replacement_room").String())
			require.EqualValues(t, 50, b.alice.State(b.room, "m.room.power_levels", "").Get("events_default").Int())
			require.Equal(t, b.room, b.alice.State(next, "m.room.create", "").Get("predecessor.room_id").String())
			settle(t, network)
			tombstone, _ := b.there.State("m.room.tombstone", "")
			require.True(t, b.police.signed(string(tombstone.JSON)))
		})
	}
}
