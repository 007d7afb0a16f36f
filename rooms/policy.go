package rooms

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/embedmatrix/homeserver/internal/canonjson"
	"github.com/embedmatrix/homeserver/internal/event"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/internal/roomstate"
	"github.com/embedmatrix/homeserver/internal/signing"
	"github.com/embedmatrix/homeserver/storage"
)

const (
	policyType     = "m.room.policy"
	policyKeyID    = "ed25519:policy_server" // "is always ed25519:policy_server"
	policyPatience = 10 * time.Second        // for one signature
	policyAsks     = 8                       // signatures that are asked for at once because of one delivery
)

// RemotePolicy is what rooms ask of policy servers.
type RemotePolicy interface {
	// PolicySign asks a policy server to sign an event, and returns the signature by its key ed25519:policy_server in
	// base64, unchecked. If the policy server refuses, the error is an *mxerr.Error that a client may be told.
	PolicySign(ctx context.Context, server id.ServerName, ev *event.Event) (signature string, err error)
}

// policy is who checks the events of a room before they are sent. Those that are alike are equal.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#policy-servers
type policy struct {
	via id.ServerName
	key string // the public key, decoded; "" for what is none, by which nothing is ever signed
}

// policyOf returns the policy that an m.room.policy establishes, nil for none: "Valid means content contains at least: A
// string value for via. An object value for public_keys containing at least a string value for ed25519", and via must
// have "at least one joined user in the room".
//
// Spec: https://spec.matrix.org/latest/server-server-api/#determining-if-a-policy-server-is-enabled-in-a-room
func policyOf(set *event.Event, joined func(id.ServerName) bool) *policy {
	if set == nil {
		return nil
	}
	via, named := textOf(canonjson.Get(set.Content(), "via"))
	key, keyed := textOf(canonjson.Get(set.Content(), "public_keys", "ed25519"))
	if !named || !keyed || !joined(id.ServerName(via)) {
		return nil
	}
	// The specification's own example is in the alphabet for URLs.
	public, err := signing.Decode(strings.NewReplacer("-", "+", "_", "/").Replace(key))
	if err != nil || len(public) != ed25519.PublicKeySize {
		public = nil
	}
	return &policy{id.ServerName(via), string(public)}
}

// asks reports whether an event needs the policy server's signature: "all events except for the m.room.policy state
// event itself" do.
func (p *policy) asks(ev *event.Event) bool { return p != nil && !ev.Is(policyType, "") }

// signed reports whether an event has the policy server's signature.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#validating-policy-server-signatures
func (p *policy) signed(ev *event.Event) bool {
	return event.VerifySignature(ev, p.via, policyKeyID, ed25519.PublicKey(p.key)) == nil
}

// policyAt is the policy of a room's current state, nil for none. A server that does not federate has nobody to ask.
func (s *Service) policyAt(w *roomstate.Writer) *policy {
	if s.Remote == nil {
		return nil
	}
	return policyOf(w.Event(policyType, ""), w.HeadHasServer)
}

// recommended returns an event of this server with the signature of its room's policy server, if it needs one. Nothing
// is held meanwhile.
func (s *Service) recommended(ctx context.Context, r *roomstate.Room, ev *event.Event) (*event.Event, error) {
	set, err := r.StateEvent(ctx, r.View().State, policyType, "")
	if err != nil {
		return nil, err
	}
	if p := policyOf(eventOf(set), r.HasServer); p.asks(ev) {
		return s.askPolicy(ctx, p, ev)
	}
	return ev, nil
}

// askPolicy returns an event with the signature of a policy server, beside those that it has. An error that says what
// the policy server or the event lacks is an *mxerr.Error with a status below 500.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#asking-for-a-policy-server-signature-on-an-event
func (s *Service) askPolicy(ctx context.Context, p *policy, ev *event.Event) (*event.Event, error) {
	if p.via == s.ServerName {
		return nil, mxerr.Forbidden.With("the room names this server as its policy server, which it is not")
	}
	ctx, cancel := context.WithTimeout(ctx, policyPatience)
	defer cancel()
	text, err := s.Remote.PolicySign(ctx, p.via, ev)
	if err != nil {
		return nil, err
	}
	signature, err := signing.Decode(text)
	if err != nil || len(signature) != ed25519.SignatureSize {
		return nil, mxerr.Forbidden.With("the policy server %s gives no signature", p.via)
	}
	signed, err := ev.AddSignature(p.via, policyKeyID, signing.Encode(signature))
	if err == nil && !p.signed(signed) {
		err = mxerr.Forbidden.With("the policy server %s signs with another key than the room says", p.via)
	}
	return signed, err
}

// unrecommended is why an event of this server is not in a room yet: the room's policy server has to sign it first,
// which nobody waits for under the room's lock.
type unrecommended struct {
	*event.Event
	draft  Draft
	policy policy
}

func (u *unrecommended) Error() string {
	return fmt.Sprintf("rooms: %s has to be signed by the policy server %s", u.ID, u.policy.via)
}

// sendRecommended puts an event into its room, which may have moved on, once the policy server has signed it. It returns
// the event's id, or that of the event that the transaction id has sent meanwhile.
//
// "If the Policy Server returned an error, that error SHOULD be provided to the client verbatim. The event the client
// was attempting to send SHOULD be discarded and not processed/sent any further."
func (s *Service) sendRecommended(ctx context.Context, u *unrecommended) (id.EventID, error) {
	ev, err := s.askPolicy(ctx, &u.policy, u.Event)
	if err != nil {
		return "", err
	}
	d, err := s.newDelivery(ctx, s.ServerName, ev.Room)
	if err != nil {
		return "", err
	}
	d.relay, d.draft, d.vouched[ev.ID] = true, &u.draft, u.policy
	sent := ev.ID
	err = d.underAdmission(ctx, []*event.Event{ev}, func(a *admission) error {
		p, before, err := s.sentBefore(ctx, a.w, d.draft)
		switch {
		case err != nil:
			return err
		case p != nil:
			sent, a.pending = p.Events[0].ID, append(a.pending, p)
			return nil
		case before != "":
			sent = before
			return nil
		}
		if err := d.draft.turn.check(a.w); err != nil {
			return err
		}
		d.draft.turn.take(a.w, s.Now().UnixMilli())
		return a.send(ev)
	})
	if err != nil {
		return "", err
	}
	d.await(ctx)
	return sent, d.fault
}

// send puts an event of this server into the room as it is now; what it does not allow any more is gone.
func (a *admission) send(ev *event.Event) error {
	if err := check(a.w, ev); err != nil {
		return err
	}
	if !a.isRecommended(ev) {
		return mxerr.Forbidden.With("the room has another policy server now")
	}
	if err := a.beside(a.w, ev); err != nil {
		return err
	}
	l, err := a.receive(ev)
	if err == nil && l != nil {
		err = fmt.Errorf("send %s: what it follows is not here", ev.ID)
	}
	return err
}

// isRecommended is check 7: "Is validated by the Policy Server, if the room is using a Policy Server". Like the check
// before it, it is about the current state, which says nothing of events of the past.
//
// Spec: https://spec.matrix.org/latest/server-server-api/#checks-performed-on-receipt-of-a-pdu
func (a *admission) isRecommended(ev *event.Event) bool {
	p := a.policyAt(a.w)
	if a.past != nil || !p.asks(ev) {
		return true
	}
	if by, vouched := a.vouched[ev.ID]; vouched && by == *p {
		return true
	}
	if !p.signed(ev) {
		return false
	}
	a.vouched[ev.ID] = *p
	return true
}

// lacksPolicy returns whom to ask for a signature before an event is judged for good, nil for nobody: "If the Policy
// Server's signature is invalid or missing, the homeserver SHOULD ask for a new signature". Nobody is asked twice, nor
// about an event that the room does not allow anyway.
func (a *admission) lacksPolicy(ev *event.Event, b *basis) *policy {
	if a.asked[ev.ID] || a.isRecommended(ev) {
		return nil
	}
	if flags, _ := a.judgeByRules(ev, b); flags != storage.InTimeline {
		return nil
	}
	return a.policyAt(a.w)
}

// admitRecommended is admit, with the room's policy server being asked, without the lock, for the signatures that are
// missing.
func (d *delivery) admitRecommended(ctx context.Context) []*lack {
	for {
		lacking := d.admit(ctx)
		p := policyLacked(lacking)
		if p == nil || d.fault != nil {
			return lacking
		}
		d.askForAll(ctx, p)
	}
}

func policyLacked(lacking []*lack) *policy {
	for _, l := range lacking {
		if l.policy != nil {
			return l.policy
		}
	}
	return nil
}

// askForAll asks for signatures of all events that are undecided and have none: those that follow one that lacks it most
// often do, too. Once the policy server cannot be asked, it is not asked about the others.
func (d *delivery) askForAll(ctx context.Context, p *policy) {
	var wg sync.WaitGroup
	var gone atomic.Bool
	slots := make(chan struct{}, policyAsks)
	signed := make([]*event.Event, len(d.events)) // nil: as it was
	for i, ev := range d.events {
		if _, decided := d.verdicts[ev.ID]; decided || d.asked[ev.ID] {
			continue
		}
		d.asked[ev.ID] = true
		if !p.asks(ev) || p.signed(ev) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			if !gone.Load() {
				signed[i] = d.askFor(ctx, p, ev, &gone)
			}
		})
	}
	wg.Wait()
	for i, ev := range signed {
		if ev != nil {
			d.events[i], d.vouched[ev.ID] = ev, *p
		}
	}
}

// askFor returns an event with the policy server's signature, nil if it does not get it.
func (d *delivery) askFor(ctx context.Context, p *policy, ev *event.Event, gone *atomic.Bool) *event.Event {
	signed, err := d.askPolicy(ctx, p, ev)
	if err == nil {
		return signed
	}
	if !refused(err) {
		gone.Store(true)
	}
	d.Log.DebugContext(ctx, "a policy server does not recommend an event", "room", d.room.ID, "event", ev.ID, "via", p.via, "reason", err)
	return nil
}

// replaceRecommended is replace and what follows for a room whose policy server has to sign the end of it, which cannot
// be one act with the new room: that comes first, then the tombstone, then the names move. If the tombstone is refused,
// its creator is alone in a room without a name. With it the room is replaced, whatever becomes of the rest: asked for
// again, it would be by another one.
func (s *Service) replaceRecommended(ctx context.Context, room id.RoomID, b *blueprint) (id.RoomID, error) {
	n, err := s.prepareSuccessor(ctx, room, b)
	if err != nil {
		return "", err
	}
	if err := n.created.Wait(ctx); err != nil {
		return "", err
	}
	if err := s.change(ctx, b.tombstone(room, n.room)); err != nil {
		return "", err
	}
	if err := s.DB.Write(ctx, func(tx *storage.Tx, _ storage.Pos) error { return s.moveNames(tx, n.oldNum, n.num) }); err != nil {
		return "", fmt.Errorf("move the names to %s: %w", n.room, err)
	}
	for _, d := range n.retirement {
		if err := s.change(ctx, d); err != nil {
			s.Log.InfoContext(ctx, "a room that was replaced stays as it was", "room", room, "error", err)
		}
	}
	return n.room, nil
}

// change sends one event of a room that is being replaced.
func (s *Service) change(ctx context.Context, d Draft) error {
	err := s.act(ctx, d.Room, func(w *roomstate.Writer) (bool, error) {
		_, err := s.append(w, d)
		return err == nil, err
	})
	if err != nil {
		return fmt.Errorf("change %s: %w", d.Type, err)
	}
	return nil
}

// successor is a room that was made in the place of another one, which does not know it yet.
type successor struct {
	room        id.RoomID
	num, oldNum int64
	created     *roomstate.Pending
	retirement  []Draft // what is to change in the old room beside its tombstone
}

// prepareSuccessor makes the new room of an upgrade.
func (s *Service) prepareSuccessor(ctx context.Context, room id.RoomID, b *blueprint) (*successor, error) {
	old, err := s.lockOld(ctx, room, b.creator)
	if err != nil {
		return nil, err
	}
	defer old.Unlock()
	staying, moving, err := s.splitNames(ctx, old)
	if err != nil {
		return nil, err
	}
	named, err := s.newRoomID(b.rules)
	if err != nil {
		return nil, err
	}
	w, err := s.foundAfter(ctx, old, named, b, map[string]any{"room_id": room})
	if err != nil {
		return nil, err
	}
	defer w.Unlock()
	if err := s.furnish(ctx, old, w, b, moving); err != nil {
		return nil, err
	}
	n := &successor{room: w.ID, num: w.Num, oldNum: old.Num}
	if n.retirement, err = b.retirement(old, staying); err != nil {
		return nil, err
	}
	n.created = w.Queue()
	return n, nil
}
