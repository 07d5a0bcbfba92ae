//go:build !mutants

package daemon

// Mutated reports whether the process is to make the named mistake: never, in a binary
// that is not built with the tag mutants.
func Mutated(string) bool { return false }
