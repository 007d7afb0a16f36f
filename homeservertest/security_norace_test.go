//go:build !race

package homeservertest_test

// chain is how many events the auth chain of F-39 has.
const chain = 5000
