//go:build !race

package federation_test

// deadServers is how many servers are gone in the tests of the sender; the race detector makes them ten times slower.
const deadServers = 1000
