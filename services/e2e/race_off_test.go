//go:build !race

package e2e

// raceBuild says that the tests run with the race detector, and so the
// binaries do too.
const raceBuild = false
