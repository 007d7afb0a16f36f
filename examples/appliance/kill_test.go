package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/embedmatrix/homeserver/storage/postgres/postgrestest"
)

const (
	killUsers        = 8
	killRooms        = 4
	killWriters      = 2    // of each user, at once
	killWrites       = 1000 // acknowledged before a round ends
	killWritesOfKind = 3    // at least, of each
	killRoundsGo     = 2    // rounds of a plain go test; HOMESERVER_KILL_ROUNDS asks for more
)

// TestKill kills the appliance again and again under load. Whatever it acknowledged is there after the restart, exactly
// once, for those who read and for those who sync.
func TestKill(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { killAgainAndAgain(t, killRounds(t), loadFlags) })
	if postgrestest.Available() {
		flags := append([]string{"--database", postgrestest.URL(t)}, loadFlags...)
		t.Run("postgres", func(t *testing.T) { killAgainAndAgain(t, (killRounds(t)+3)/4, flags) })
	}
}

func killAgainAndAgain(t *testing.T, rounds int, flags []string) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	folder, addr := t.TempDir(), freeAddr(t)
	server := started(t, folder, addr, flags...)
	load := newLoad(t, server.url, random, size{users: killUsers, rooms: killRooms})
	server.kill()

	for round := range rounds {
		for range random.IntN(3) { // some kills during the start
			early := launch(t, folder, address(addr, flags)...)
			time.Sleep(time.Duration(random.IntN(150)) * time.Millisecond)
			early.kill()
		}
		server = started(t, folder, addr, flags...)
		stop := load.run(t)
		require.Eventually(t, load.enough, 2*time.Minute, time.Millisecond, "round %d: too few writes were acknowledged", round)
		time.Sleep(time.Duration(random.IntN(100)) * time.Millisecond)
		server.kill()
		stop()

		began := time.Now()
		server = started(t, folder, addr, flags...)
		ready := time.Since(began)
		summary := load.summary()
		require.Empty(t, load.verify(t.Context()), "round %d broke promises", round)
		t.Logf("round %d: %s; ready again after %v", round, summary, ready.Round(time.Millisecond))
		server.kill()
	}
	started(t, folder, addr, flags...)
	require.Empty(t, load.verifyHistory(t.Context()), "the whole history after the last round")
}

var loadFlags = []string{"--registration", "open", "--no-rate-limits"}

func killRounds(t *testing.T) int {
	t.Helper()
	text := os.Getenv("HOMESERVER_KILL_ROUNDS")
	if text == "" {
		return killRoundsGo
	}
	rounds, err := strconv.Atoi(text)
	require.NoError(t, err, "HOMESERVER_KILL_ROUNDS")
	require.Positive(t, rounds, "HOMESERVER_KILL_ROUNDS")
	return rounds
}

// TestKillNoticesLies lets a proxy acknowledge writes that never reach the server, as a server would that answers before
// it commits and is killed in between. The verifier must find each kind of them.
func TestKillNoticesLies(t *testing.T) {
	server := started(t, t.TempDir(), freeAddr(t), loadFlags...)
	for i, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			random := rand.New(rand.NewPCG(uint64(i), 0))
			liar := newLiar(t, server.url)
			load := newLoad(t, liar.url, random, size{users: 2, rooms: killWriters})
			load.favour(kind)
			stop := load.run(t)
			enough := func() bool { return load.acknowledged() >= 100 && load.count(kind) >= 1 }
			require.Eventually(t, enough, time.Minute, time.Millisecond, "no true writes")
			liar.lieAbout(kind)
			before := load.count(kind) // what is on its way now may be true: at most one write of each writer
			require.Eventually(t, func() bool { return load.count(kind) > before+2*killWriters }, time.Minute,
				time.Millisecond, "no false writes")
			stop()

			liar.lieAbout("")
			found := load.verify(t.Context())
			require.NotEmpty(t, found, "nobody noticed that %s were acknowledged and dropped", kind)
			require.Contains(t, fmt.Sprint(found), fmt.Sprintf("[%s]", kind))
		})
	}
}
