//go:build race

package homeservertest_test

import "time"

// How much the longest tests do, here less: the race detector makes what a database does twenty times slower. CI runs
// them in full beside it.
const (
	chain = 500 // events of the auth chain of F-39
	forks = 6   // rooms of F-35, one of each version
	alone = 1   // wrong values that each field of C-27 meets by itself
	every = 8   // of the requests of C-27 one in so many is sent
	idle  = 200 // polls that wait in C-70
	busy  = 20  // that begin from nothing there

	faultServers, faultUsers, faultHalls = 10, 24, 4
	faultLife                            = 10 * time.Minute
)
