package main

import (
	"fmt"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// peer is an appliance that talks with others over TLS: a name, an address for them, and a folder that outlives it.
type peer struct {
	name, folder         string
	clientAddr, peerAddr string
	process              *process
}

// newPeer starts an appliance whose name is a host with the port that others find it at.
func newPeer(t *testing.T, ca *authority, host string) *peer {
	t.Helper()
	p := &peer{folder: t.TempDir(), clientAddr: freeAddr(t), peerAddr: freeAddr(t)}
	_, port, err := net.SplitHostPort(p.peerAddr)
	require.NoError(t, err)
	p.name = net.JoinHostPort(host, port)
	ca.issue(t, p.folder, host)
	p.start(t, trusting...)
	return p
}

// trusting are the flags without which no other appliance on this machine is reached.
var trusting = []string{"--ca-cert", "ca.pem", "--allow-private-networks"}

func (p *peer) start(t *testing.T, flags ...string) {
	t.Helper()
	p.process = started(t, p.folder, p.clientAddr, append([]string{
		"--server-name", p.name, "--federation-addr", p.peerAddr, "--tls-cert", "cert.pem", "--tls-key", "key.pem",
		"--registration", "open", "--no-rate-limits",
	}, flags...)...)
}

// resident is a user of a peer, who survives its restarts.
type resident struct {
	*client
	t    *testing.T
	user string
}

func (p *peer) resident(t *testing.T, name string) *resident {
	t.Helper()
	c := newClient("http://" + p.clientAddr)
	session := register(t, c, name)
	require.Equal(t, "@"+name+":"+p.name, session.User)
	return &resident{client: c.as(session.Token), t: t, user: session.User}
}

// asks is a request that has to be answered with 200.
func (r *resident) asks(method, path string, body, answer any) {
	r.t.Helper()
	require.NoError(r.t, r.do(r.t.Context(), "", method, path, body, answer), "%s asks %s %s", r.user, method, path)
}

// says sends texts.
func (r *resident) says(room string, texts ...string) {
	r.t.Helper()
	for _, text := range texts {
		path := pathf("/rooms/%s/send/m.room.message/%s", room, text)
		r.asks("PUT", path, map[string]any{"msgtype": "m.text", "body": text}, nil)
	}
}

const arrivesWithin = 10 * time.Second // far more than it takes, for a server that comes back as well

// hears waits until the texts are all that was said in a room after another text ("" is the beginning), in that order.
func (r *resident) hears(room, after string, texts ...string) {
	r.t.Helper()
	var heard []string
	for until := time.Now().Add(arrivesWithin); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		heard = r.heard(room)
		heard = heard[slices.Index(heard, after)+1:]
		if slices.Equal(heard, texts) {
			return
		}
	}
	require.Equal(r.t, texts, heard, "what %s hears within %v", r.user, arrivesWithin)
}

// heard is every text of a room, oldest first.
func (r *resident) heard(room string) (texts []string) {
	r.t.Helper()
	events, err := history(r.t.Context(), r.client, room, "", nil)
	require.NoError(r.t, err)
	for _, e := range events {
		if e.Type == "m.room.message" {
			texts = append(texts, e.text("body"))
		}
	}
	return texts
}

// awaitsInvite waits until an invite to a room is in what a sync tells.
func (r *resident) awaitsInvite(room string) {
	r.t.Helper()
	for until := time.Now().Add(arrivesWithin); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		var answer struct {
			Rooms struct{ Invite map[string]any }
		}
		r.asks("GET", "/sync", nil, &answer)
		if answer.Rooms.Invite[room] != nil {
			return
		}
	}
	require.FailNow(r.t, "no invite", "%s is not invited", r.user)
}

// invited gives two users of two servers a room, to which one invites the other.
func invited(alice, bob *resident) (room string) {
	var created roomID
	alice.asks("POST", "/createRoom", map[string]any{"preset": "private_chat", "invite": []string{bob.user}}, &created)
	bob.awaitsInvite(created.ID)
	bob.asks("POST", pathf("/join/%s", created.ID), struct{}{}, nil)
	return created.ID
}

// TestTwoAppliancesFederate: over real TLS, with certificates of an authority that --ca-cert names, two people of two
// appliances share a room. Each appliance is killed while the other has something for it, and gets that when it is back;
// what waits for a server that is away survives kill -9 of the server where it waits.
func TestTwoAppliancesFederate(t *testing.T) {
	ca := newAuthority(t)
	here, there := newPeer(t, ca, "127.0.0.1"), newPeer(t, ca, "localhost")
	alice, bob := here.resident(t, "alice"), there.resident(t, "bob")
	room := invited(alice, bob)
	alice.says(room, "hello bob")
	bob.hears(room, "", "hello bob")
	bob.says(room, "hello alice")
	alice.hears(room, "hello bob", "hello alice")

	there.process.kill()
	alice.says(room, "one", "two", "three")
	there.start(t, trusting...)
	bob.hears(room, "hello alice", "one", "two", "three")

	here.process.kill()
	bob.says(room, "four", "five")
	there.process.kill()
	here.start(t, trusting...)
	there.start(t, trusting...)
	alice.hears(room, "three", "four", "five")
	alice.says(room, "six")
	bob.hears(room, "five", "six")
}

// TestAppliancesNeedToBeTold: without the flags that say so, no unknown authority is trusted, no address of this machine
// is reached, and nobody is talked to.
func TestAppliancesNeedToBeTold(t *testing.T) {
	ca := newAuthority(t)
	here, there := newPeer(t, ca, "127.0.0.1"), newPeer(t, ca, "127.0.0.1")
	alice, bob := here.resident(t, "alice"), there.resident(t, "bob")
	var room roomID
	alice.asks("POST", "/createRoom", map[string]any{"preset": "public_chat"}, &room)
	path := fmt.Sprintf("%s?via=%s", pathf("/join/%s", room.ID), url.QueryEscape(here.name))
	for _, flags := range [][]string{{"--allow-private-networks"}, {"--ca-cert", "ca.pem"}} {
		there.process.kill()
		there.start(t, flags...)
		_, ok := isRefused(bob.do(t.Context(), "", "POST", path, struct{}{}, nil))
		require.True(t, ok, "a join with nothing but %v", flags)
	}
	there.process.kill()
	there.start(t, trusting...)
	bob.asks("POST", path, struct{}{}, nil)
}
