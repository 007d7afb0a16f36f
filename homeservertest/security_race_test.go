//go:build race

package homeservertest_test

// chain is how many events the auth chain of F-39 has, here fewer: the race detector makes everything ten times slower.
const chain = 500
