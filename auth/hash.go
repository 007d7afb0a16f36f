package auth

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"github.com/embedmatrix/homeserver/internal/mxerr"
)

// Cost is what it takes to check one password with argon2id. The zero value means 19 MiB, 2 passes, 1 thread,
// which is about 25 ms.
type Cost struct {
	MemoryKiB uint32
	Passes    uint32
	Threads   uint8
}

// Cheap returns the least cost there is: for tests only, where nobody attacks the hashes.
func Cheap() Cost { return Cost{MemoryKiB: 8, Passes: 1, Threads: 1} }

func (c Cost) orDefault() Cost {
	if c == (Cost{}) {
		return Cost{MemoryKiB: 19 << 10, Passes: 2, Threads: 1}
	}
	return c
}

const (
	saltBytes = 16
	keyBytes  = 32

	// longestPassword bounds the work of one check.
	longestPassword = 512

	// longestWait is how long a login waits for its turn to compute.
	longestWait = 30 * time.Second
)

// hasher makes and checks password hashes, few at once: each takes a core and Cost.MemoryKiB.
type hasher struct {
	cost  Cost
	rand  io.Reader
	turns chan struct{}
}

func newHasher(cost Cost, rand io.Reader) *hasher {
	// Half of the processors at most: logins must not keep everybody else waiting.
	return &hasher{cost: cost.orDefault(), rand: rand, turns: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2))}
}

// turn waits until the caller may compute, and returns what ends that.
func (h *hasher) turn(ctx context.Context) (done func(), err error) {
	wait := time.NewTimer(longestWait)
	defer wait.Stop()
	select {
	case h.turns <- struct{}{}:
		return func() { <-h.turns }, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-wait.C:
		busy := mxerr.LimitExceeded.With("too many people are logging in")
		busy.RetryAfter = longestWait
		return nil, busy
	}
}

// hash returns the PHC string of a password.
func (h *hasher) hash(ctx context.Context, password string) (string, error) {
	if len(password) > longestPassword {
		return "", mxerr.InvalidParam.With("a password may have %d bytes", longestPassword)
	}
	p := phc{cost: h.cost, salt: make([]byte, saltBytes)}
	if _, err := io.ReadFull(h.rand, p.salt); err != nil {
		return "", fmt.Errorf("random salt: %w", err)
	}
	done, err := h.turn(ctx)
	if err != nil {
		return "", err
	}
	defer done()
	p.key = p.derive(password, keyBytes)
	return p.String(), nil
}

// nobody is a hash that no password has and that costs as much as any other to check.
func (h *hasher) nobody() string {
	return phc{cost: h.cost, salt: make([]byte, saltBytes), key: make([]byte, keyBytes)}.String()
}

// matches reports whether stored is a hash of password: of argon2id at any cost, or of bcrypt, for accounts
// that came from elsewhere.
func (h *hasher) matches(ctx context.Context, stored, password string) (bool, error) {
	if len(password) > longestPassword {
		stored, password = h.nobody(), "" // as slow as any other wrong one
	}
	done, err := h.turn(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	if isBcrypt(stored) {
		return bcrypt.CompareHashAndPassword([]byte(stored), []byte(password)) == nil, nil
	}
	p, err := parsePHC(stored)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(p.key, p.derive(password, len(p.key))) == 1, nil
}

// current reports whether a hash is as this hasher would make it.
func (h *hasher) current(stored string) bool {
	p, err := parsePHC(stored)
	return err == nil && p.cost == h.cost
}

func isBcrypt(stored string) bool {
	return strings.HasPrefix(stored, "$2a$") || strings.HasPrefix(stored, "$2b$") || strings.HasPrefix(stored, "$2y$")
}

// phc is an argon2id hash: $argon2id$v=19$m=19456,t=2,p=1$salt$key.
//
// Format: https://github.com/P-H-C/phc-string-format/blob/master/phc-sf-spec.md
type phc struct {
	cost      Cost
	salt, key []byte
}

func (p phc) derive(password string, length int) []byte {
	return argon2.IDKey([]byte(password), p.salt, p.cost.Passes, p.cost.MemoryKiB, p.cost.Threads, uint32(length))
}

func (p phc) String() string {
	b64 := base64.RawStdEncoding
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version,
		p.cost.MemoryKiB, p.cost.Passes, p.cost.Threads, b64.EncodeToString(p.salt), b64.EncodeToString(p.key))
}

// parsePHC reads a stored hash. A cost that could take all memory or never end is an error, as is anything else
// that we would not have written.
func parsePHC(s string) (phc, error) {
	const maxMemoryKiB, maxPasses = 1 << 20, 64
	var p phc
	bad := func(what string) (phc, error) { return phc{}, fmt.Errorf("stored password hash: bad %s", what) }
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return bad("format")
	}
	_, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.cost.MemoryKiB, &p.cost.Passes, &p.cost.Threads)
	if err != nil || p.cost.MemoryKiB > maxMemoryKiB || p.cost.Passes < 1 || p.cost.Passes > maxPasses || p.cost.Threads < 1 {
		return bad("cost")
	}
	if p.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(p.salt) < 8 {
		return bad("salt")
	}
	if p.key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(p.key) < 16 || len(p.key) > 64 {
		return bad("key")
	}
	return p, nil
}
