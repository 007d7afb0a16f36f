package auth

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/embedmatrix/homeserver/internal/httpapi"
	"github.com/embedmatrix/homeserver/internal/id"
	"github.com/embedmatrix/homeserver/internal/mxerr"
	"github.com/embedmatrix/homeserver/storage"
)

// The types of stages that are known here, besides TypePassword.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#authentication-types
const (
	stageDummy             = "m.login.dummy"
	stageRegistrationToken = "m.login.registration_token"
	stageTerms             = "m.login.terms"
)

const (
	// proofLifetime is how long an interactive authentication may take.
	proofLifetime = 30 * time.Minute

	// maxProofs and maxProofBytes bound those that are going on, of callers with a token and again of those without.
	maxProofs     = 10_000
	maxProofBytes = 16 << 20

	// smallestProof is how much memory a proof counts for at least; one that was begun without parameters may get
	// as many later.
	smallestProof = 4 << 10

	// maxInteractiveBody bounds the body of an endpoint that uses interactive authentication: it is remembered.
	maxInteractiveBody = 64 << 10
)

// flow is a way to prove who one is: stages, to be done in this order.
type flow []string

// proof is an interactive authentication that is going on. It belongs to the user, the endpoint and the parameters
// of the request that began it: nothing else can be done with it.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#user-interactive-authentication-api
type proof struct {
	session  string
	user     id.UserID // who calls; empty without a token
	endpoint string    // method and path
	flows    []flow
	expires  time.Time
	bytes    int // of memory that params may take

	turn chan struct{} // capacity 1; whoever put something in may use the following
	// params are what the finished proof authorises.
	params map[string]json.RawMessage
	// completed has the stages that were passed.
	completed []string
	// owner is who was proven: user, or without a token who had the password.
	owner id.UserID
	// token is the registration token that was shown.
	token string
	// spent says that it was used.
	spent bool
	// registered is what it was used for, when that may be asked again.
	registered *LoginRequest
}

// attempt is one request of an interactive authentication.
type attempt struct {
	*proof
	call *httpapi.Call
	auth json.RawMessage // what came as "auth"; nil for nothing
	fail error           // why a session that was named is none, for the client
}

// challenge is the answer that asks for (more) proof.
type challenge struct {
	Code      string         `json:"errcode,omitempty"`
	Message   string         `json:"error,omitempty"`
	Completed []string       `json:"completed,omitzero"`
	Flows     []challengeWay `json:"flows"`
	Params    map[string]any `json:"params"`
	Session   string         `json:"session"`
}

type challengeWay struct {
	Stages []string `json:"stages"`
}

func (c *challenge) Error() string { return "interactive authentication is needed" }

// Response is how httpapi writes it.
func (c *challenge) Response() (int, any) { return http.StatusUnauthorized, c }

// retry is a failed stage that may be tried again.
type retry struct{ why *mxerr.Error }

func (r retry) Error() string { return r.why.Error() }

// authData is what all stages have in common.
type authData struct {
	Type    string `json:"type"`
	Session string `json:"session"`
}

// Confirm has the caller prove who they are, by password, before an endpoint acts on body, and returns the
// parameters that may be acted on, without "auth". Its error is the answer to the client until they have.
// One proof is good for one request.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#user-interactive-authentication-api
func (s *Service) Confirm(ctx context.Context, c *httpapi.Call, body json.RawMessage) (json.RawMessage, error) {
	a, err := s.interact(ctx, c, body, []flow{{TypePassword}})
	if err != nil {
		return nil, err
	}
	defer a.release()
	if err := s.prove(ctx, a); err != nil {
		return nil, err
	}
	return json.Marshal(a.params)
}

// interact finds the proof that a request is part of, or begins one, and takes its turn on it. The caller releases it.
func (s *Service) interact(ctx context.Context, c *httpapi.Call, body json.RawMessage, flows []flow) (*attempt, error) {
	var params map[string]json.RawMessage
	if err := json.Unmarshal(body, &params); err != nil {
		return nil, mxerr.BadJSON
	}
	auth := params["auth"]
	delete(params, "auth")
	var data authData
	if isNull(auth) {
		auth = nil
	} else if err := json.Unmarshal(auth, &data); err != nil {
		return nil, mxerr.BadJSON.With("auth: not an object with type and session")
	}
	if data.Session == "" {
		return &attempt{proof: s.newProof(c, params, flows), call: c, auth: auth}, nil
	}
	p := s.proofs.find(data.Session, s.cfg.Now())
	if p == nil {
		return s.restart(c, params, flows), nil
	}
	return s.resume(ctx, &attempt{proof: p, call: c, auth: auth}, params, flows)
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || bytes.Equal(raw, []byte("null")) }

func endpoint(c *httpapi.Call) string { return c.Request.Method + " " + c.Request.URL.EscapedPath() }

// newProof begins an interactive authentication; it is only remembered once it is the answer.
func (s *Service) newProof(c *httpapi.Call, params map[string]json.RawMessage, flows []flow) *proof {
	p := &proof{
		user: c.User, endpoint: endpoint(c), flows: flows, params: params, owner: c.User,
		expires: s.cfg.Now().Add(proofLifetime), turn: make(chan struct{}, 1),
		bytes: max(len(c.Body), smallestProof),
	}
	p.turn <- struct{}{}
	return p
}

// restart begins anew for a client whose session is not known (any more). What it sent as proof is not looked at.
func (s *Service) restart(c *httpapi.Call, params map[string]json.RawMessage, flows []flow) *attempt {
	return &attempt{
		proof: s.newProof(c, params, flows), call: c,
		fail: mxerr.Forbidden.With("the session is unknown, expired or used; this is a new one"),
	}
}

// resume waits for the turn on a proof and checks that the request belongs to it.
func (s *Service) resume(ctx context.Context, a *attempt, params map[string]json.RawMessage, flows []flow) (*attempt, error) {
	if a.user != a.call.User || a.endpoint != endpoint(a.call) {
		return nil, mxerr.Forbidden.With("the session was begun for another request")
	}
	select {
	case a.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if a.spent && a.registered == nil {
		a.release()
		return s.restart(a.call, params, flows), nil
	}
	if err := a.bind(params); err != nil {
		a.release()
		return nil, err
	}
	return a, nil
}

// release lets the next request work on the proof.
func (p *proof) release() { <-p.turn }

// bind checks that a later request asks for what the first one asked for. It may leave parameters out. A session
// that was begun without any, to see the flows, takes those of the first request that has some.
func (p *proof) bind(params map[string]json.RawMessage) error {
	if len(p.params) == 0 && len(p.completed) == 0 && size(params) <= smallestProof {
		p.params = params
	}
	for name, value := range params {
		if p.spent {
			value = digest(value)
		}
		if first, ok := p.params[name]; !ok || !sameJSON(first, value) {
			return mxerr.Forbidden.With("%s is not what it was when the session was begun", clip(name))
		}
	}
	return nil
}

func size(params map[string]json.RawMessage) (n int) {
	for name, value := range params {
		n += len(name) + len(value)
	}
	return n
}

// digest stands for a parameter that only has to be known again, for it may be a password.
func digest(raw json.RawMessage) json.RawMessage {
	canonical, err := json.Marshal(decoded(raw))
	if err != nil {
		return nil
	}
	sum := sha256.Sum256(canonical)
	return json.RawMessage(hex.AppendEncode(nil, sum[:]))
}

func clip(s string) string { return s[:min(len(s), 64)] }

func sameJSON(a, b json.RawMessage) bool {
	return bytes.Equal(a, b) || reflect.DeepEqual(decoded(a), decoded(b))
}

// decoded is the value of a JSON text that was checked before. Numbers keep their digits.
func decoded(raw json.RawMessage) (value any) {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.UseNumber()
	if d.Decode(&value) != nil {
		return nil
	}
	return value
}

// decode fills in from the parameters that the proof is about.
func (p *proof) decode(in any) error {
	raw, err := json.Marshal(p.params)
	if err != nil {
		return fmt.Errorf("encode the parameters of an interactive request: %w", err)
	}
	var wrong *json.UnmarshalTypeError
	switch err := json.Unmarshal(raw, in); {
	case errors.As(err, &wrong):
		return mxerr.BadJSON.With("%s: %s is not what is expected here", wrong.Field, wrong.Value)
	case err != nil:
		return mxerr.BadJSON
	}
	return nil
}

// prove passes the stage that came with the request. Nil means that a flow is complete and the proof is spent:
// the endpoint may act now.
func (s *Service) prove(ctx context.Context, a *attempt) error {
	if a.fail != nil || a.auth == nil {
		return s.challenge(a, a.fail)
	}
	var data authData
	if err := json.Unmarshal(a.auth, &data); err != nil {
		return mxerr.BadJSON
	}
	// "Completed stages cannot be retried by clients", and a request with a session alone asks how it stands.
	if data.Type != "" && !slices.Contains(a.completed, data.Type) {
		if err := s.stage(ctx, a, data.Type); err != nil {
			return s.challenge(a, err)
		}
		a.completed = append(a.completed, data.Type)
	}
	if !a.complete() {
		return s.challenge(a, nil)
	}
	a.spent = true
	return nil
}

// restartStages lets the client begin again after what it proved turned out to be worth nothing.
func (p *proof) restartStages() { p.spent, p.completed, p.token = false, nil, "" }

// forget replaces the parameters of a spent proof by their digests.
func (p *proof) forget() {
	for name, value := range p.params {
		p.params[name] = digest(value)
	}
}

// complete reports whether all stages of a flow were passed.
func (p *proof) complete() bool {
	return slices.ContainsFunc(p.flows, func(f flow) bool { return slices.Equal(f, p.completed) })
}

// isNext reports whether a stage follows those that were passed.
func (p *proof) isNext(stage string) bool {
	done := len(p.completed)
	return slices.ContainsFunc(p.flows, func(f flow) bool {
		return len(f) > done && f[done] == stage && slices.Equal(f[:done], p.completed)
	})
}

// challenge asks the client for what is missing. An error other than a retry is no matter of proof and stays as it is.
func (s *Service) challenge(a *attempt, why error) error {
	out := &challenge{Params: map[string]any{}}
	var again retry
	var reason *mxerr.Error
	switch {
	case why == nil:
	case errors.As(why, &again):
		reason = again.why
	case why == a.fail && errors.As(why, &reason):
	default:
		return why
	}
	if reason != nil {
		out.Code, out.Message = reason.Code, reason.Message
	}
	if a.session == "" {
		session, err := s.newToken("")
		if err != nil {
			return err
		}
		a.session = session
		s.proofs.add(a.proof, s.cfg.Now())
	}
	out.Session = a.session
	if a.auth != nil {
		out.Completed = append([]string{}, a.completed...)
	}
	for _, f := range a.flows {
		out.Flows = append(out.Flows, challengeWay{f})
		if slices.Contains(f, stageTerms) {
			out.Params[stageTerms] = s.cfg.Registration.termsParams()
		}
	}
	return out
}

// stage tries one stage.
func (s *Service) stage(ctx context.Context, a *attempt, kind string) error {
	// "the flow's stages must be completed in order."
	if !a.isNext(kind) {
		return retry{mxerr.Forbidden.With("this stage is not the next of any flow")}
	}
	switch kind {
	case stageDummy, stageTerms:
		return nil
	case stageRegistrationToken:
		return s.tokenStage(ctx, a)
	case TypePassword:
		return s.passwordStage(ctx, a)
	}
	return fmt.Errorf("stage %q is offered but not known", kind)
}

// passwordStage asks for the password of the caller, or without a token for anybody's: that is whom it then is about.
//
// Spec: https://spec.matrix.org/latest/client-server-api/#password-based
func (s *Service) passwordStage(ctx context.Context, a *attempt) error {
	var in passwordLogin
	if err := json.Unmarshal(a.auth, &in); err != nil {
		return mxerr.BadJSON.With("auth: not what m.login.password expects")
	}
	cred, err := s.credential(in)
	if err != nil {
		return err
	}
	// Whether somebody else's password is right is not for the caller to learn.
	if a.user != "" && cred.Localpart != "" && cred.Localpart != a.user.Localpart() {
		return mxerr.Forbidden.With("this is not the user who made the request")
	}
	who, err := s.authenticate(ctx, cred)
	if errors.Is(err, mxerr.Forbidden) {
		return retry{mxerr.Forbidden.With("wrong user name or password")}
	}
	if err != nil {
		return err
	}
	if a.user != "" && who.user != a.user {
		return mxerr.Forbidden.With("this is not the user who made the request")
	}
	a.owner = who.user
	// A locked user may do nothing, and without a token nobody has looked yet.
	return s.db.Read(ctx, func(tx *storage.Tx) error {
		_, err := activeAccount(tx, a.owner)
		if errors.Is(err, errNoAccount) && s.passwords == nil {
			err = nil
		}
		return err
	})
}

// proofs are the interactive authentications that are going on, those of callers with a token apart from those
// without, so that a crowd of the latter cannot push the former out.
type proofs struct {
	mu sync.Mutex // guards the following
	// known is indexed by whether there was a token.
	known [2]proofSet
}

// proofSet is bounded: the oldest go first. All live equally long, so the oldest are also the first to expire.
type proofSet struct {
	bySession map[string]*proof
	queue     []*proof
	bytes     int
}

func (ps *proofs) set(p *proof) *proofSet {
	if p.user == "" {
		return &ps.known[0]
	}
	return &ps.known[1]
}

// find returns the proof with this session, or nil.
func (ps *proofs) find(session string, now time.Time) *proof {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, set := range ps.known {
		if p := set.bySession[session]; p != nil && now.Before(p.expires) {
			return p
		}
	}
	return nil
}

func (ps *proofs) add(p *proof, now time.Time) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	set := ps.set(p)
	if set.bySession == nil {
		set.bySession = map[string]*proof{}
	}
	set.bySession[p.session] = p
	set.queue = append(set.queue, p)
	set.bytes += p.bytes
	for len(set.queue) > maxProofs || set.bytes > maxProofBytes || set.queue[0].expires.Before(now) {
		oldest := set.queue[0]
		set.bytes -= oldest.bytes
		delete(set.bySession, oldest.session)
		set.queue = slices.Delete(set.queue, 0, 1)
	}
}
