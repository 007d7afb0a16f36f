//go:build !race

package homeservertest_test

import "time"

// How much the longest tests do.
const (
	chain = 5000 // events of the auth chain of F-39
	forks = 20   // rooms of F-35
	alone = 5    // wrong values that each field of C-27 meets by itself

	faultServers, faultUsers, faultHalls = 12, 30, 6
	faultLife                            = 20 * time.Minute
)
