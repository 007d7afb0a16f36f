package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// oneTimeKeys are the one-time keys of a writer, of an algorithm that is its own: each that was acknowledged is given out
// once. What a claim has taken whose answer was lost is lost with it, one key that was next then, and nothing else.
type oneTimeKeys struct {
	user, device, algorithm string

	mu sync.Mutex // guards the following
	// uploaded has the keys that nobody has got yet, and whether they were acknowledged; given those that somebody got.
	uploaded map[string]bool
	given    map[string]bool
	next     int
	latest   string // key that somebody got, in the order of uploads, which is that of the names
	// unanswered has for each claim that was not answered what was the latest key before it: one behind that it may have taken.
	unanswered []string
}

func newOneTimeKeys(a *account, index int) *oneTimeKeys {
	return &oneTimeKeys{
		user: a.user, device: a.device, algorithm: fmt.Sprintf("kill%d", index),
		uploaded: make(map[string]bool), given: make(map[string]bool),
	}
}

const (
	keysAtOnce = 5
	keysAhead  = 300 // of a device, of all that it may have
)

// make names new keys, none when there are many.
func (k *oneTimeKeys) make() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.uploaded) > keysAhead {
		return nil
	}
	names := make([]string, keysAtOnce)
	for i := range names {
		names[i] = fmt.Sprintf("%s:%08d", k.algorithm, k.next)
		k.uploaded[names[i]] = false
		k.next++
	}
	return names
}

// acknowledge notes that keys were taken in, unless somebody has got them already.
func (k *oneTimeKeys) acknowledge(names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, name := range names {
		if _, waits := k.uploaded[name]; waits {
			k.uploaded[name] = true
		}
	}
}

// give notes that somebody has got a key.
func (k *oneTimeKeys) give(name string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, waits := k.uploaded[name]
	switch {
	case k.given[name]:
		return fmt.Errorf("[%s] the key %s of %s was given out twice", keyClaims, name, k.user)
	case !waits:
		return fmt.Errorf("[%s] the key %s of %s was never uploaded", keyClaims, name, k.user)
	}
	delete(k.uploaded, name)
	k.given[name], k.latest = true, max(k.latest, name)
	return nil
}

// before is the latest key that somebody got before a claim.
func (k *oneTimeKeys) before() string {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.latest
}

// lose notes that a claim may have taken a key behind one.
func (k *oneTimeKeys) lose(before string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unanswered = append(k.unanswered, before)
}

func (w *writer) uploadKeys(ctx context.Context) error {
	names := w.keys.make()
	if names == nil {
		return nil
	}
	keys := make(map[string]string)
	for _, name := range names {
		keys[name] = "the key " + name
	}
	if err := w.client.do(ctx, keyUploads, "POST", "/keys/upload", map[string]any{"one_time_keys": keys}, nil); err != nil {
		return err
	}
	w.keys.acknowledge(names)
	w.load.acknowledge(keyUploads)
	return nil
}

func (w *writer) claimKey(ctx context.Context) error {
	of := w.load.writers[w.random.IntN(len(w.load.writers))].keys
	before := of.before()
	name, err := of.claim(ctx, keyClaims, w.client)
	if err != nil {
		if _, ok := isRefused(err); !ok {
			of.lose(before)
		}
		return err
	}
	if name == "" {
		return nil
	}
	w.load.acknowledge(keyClaims)
	if err := of.give(name); err != nil {
		w.journal.faults = append(w.journal.faults, err)
	}
	return nil
}

// claim asks for the next key, "" when there is none.
func (k *oneTimeKeys) claim(ctx context.Context, kind kind, c *client) (string, error) {
	var answer struct {
		Keys map[string]map[string]map[string]string `json:"one_time_keys"`
	}
	body := map[string]any{"one_time_keys": map[string]any{k.user: map[string]string{k.device: k.algorithm}}}
	if err := c.do(ctx, kind, "POST", "/keys/claim", body, &answer); err != nil {
		return "", err
	}
	for name := range answer.Keys[k.user][k.device] {
		return name, nil
	}
	return "", nil
}

// verify takes all keys that are left, in the order of their uploads, and tells which are missing. Nothing writes meanwhile.
func (k *oneTimeKeys) verify(ctx context.Context, c *client) []error {
	var found []error
	first := ""
	for before := ""; ; {
		name, err := k.claim(ctx, "", c)
		if err != nil {
			return append(found, err)
		}
		if name == "" {
			break
		}
		if err := k.give(name); err != nil {
			found = append(found, err)
		}
		if name < before {
			found = append(found, fmt.Errorf("[%s] %s was given out behind %s", keyClaims, name, before))
		}
		first, before = cmp.Or(first, name), name
	}
	return append(found, k.missing(first)...)
}

// missing tells which acknowledged keys are gone that no unanswered claim can have taken: as keys are given out in order, a
// claim took one behind the latest from before it, and before the first key that was left afterwards, "" for none.
func (k *oneTimeKeys) missing(first string) (found []error) {
	slices.Sort(k.unanswered)
	for _, name := range slices.Sorted(maps.Keys(k.uploaded)) {
		taken := len(k.unanswered) > 0 && k.unanswered[0] < name && (first == "" || name < first)
		switch {
		case !k.uploaded[name]: // nobody knows whether it was ever there
		case taken:
			k.unanswered = k.unanswered[1:]
		default:
			found = append(found, fmt.Errorf("[%s] %s of %s is not there, and no claim can have taken it", keyUploads, name, k.user))
		}
	}
	clear(k.uploaded)
	k.unanswered = nil
	return found
}

// claimed is the last answer to a claim that had a key: what a server would say again that had not stored the claim.
type claimed struct {
	mu sync.Mutex // guards body
	// body is the answer, nil before the first.
	body []byte
}

// note reads the answer to a claim on its way through the proxy.
func (l *claimed) note(r *http.Response) error {
	if kind(r.Request.Header.Get(kindHeader)) != keyClaims || r.StatusCode != http.StatusOK {
		return nil
	}
	body, err := io.ReadAll(r.Body)
	r.Body.Close()
	r.Body = io.NopCloser(bytes.NewReader(body))
	var answer struct {
		Keys map[string]any `json:"one_time_keys"`
	}
	if json.Unmarshal(body, &answer) == nil && len(answer.Keys) > 0 {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.body = body
	}
	return err
}

func (l *claimed) repeat(w http.ResponseWriter) {
	l.mu.Lock()
	defer l.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(l.body)
}

// TestMissingKeys: a claim that was not answered excuses one key that was next then, and no other.
func TestMissingKeys(t *testing.T) {
	for _, tt := range []struct {
		name, first string
		unanswered  []string
		gone        []string
		found       int
	}{
		{"nothing is gone", "k4", []string{"k2"}, nil, 0},
		{"the next one", "k4", []string{"k2"}, []string{"k3"}, 0},
		{"the last one", "", []string{"k2"}, []string{"k9"}, 0},
		{"two for one claim", "k5", []string{"k2"}, []string{"k3", "k4"}, 1},
		{"two for two claims", "k5", []string{"k3", "k2"}, []string{"k3", "k4"}, 0},
		{"one that was to be given out before", "k5", []string{"k3"}, []string{"k2"}, 1},
		{"one behind those that are left", "k5", []string{"k2", "k2"}, []string{"k6"}, 1},
		{"without a claim", "k5", nil, []string{"k3"}, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k := &oneTimeKeys{uploaded: map[string]bool{"k1": false}, unanswered: tt.unanswered}
			for _, name := range tt.gone {
				k.uploaded[name] = true
			}
			require.Len(t, k.missing(tt.first), tt.found)
			require.Empty(t, k.missing(tt.first))
		})
	}
}
