//go:build !race

package homeservertest_test

import "time"

// How much the longest tests do.
const (
	chain = 5000 // events of the auth chain of F-39
	forks = 20   // rooms of F-35
	alone = 5    // wrong values that each field of C-27 meets by itself
	every = 1    // of the requests of C-27 one in so many is sent
	idle  = 1000 // polls that wait in C-70
	busy  = 100  // that begin from nothing there

	faultServers, faultUsers, faultHalls = 12, 30, 6
	faultLife                            = 20 * time.Minute
)
