//go:build mutants

package daemon

import (
	"os"
	"sync"
)

// mutationVariable names what a process does wrong on purpose.
const mutationVariable = envPrefix + "TEST_MUTATION"

//nolint:gochecknoglobals // read once from the environment, never changed
var mutation = sync.OnceValue(func() string { return os.Getenv(mutationVariable) })

// Mutated reports whether the process is to make the named mistake. Only a binary
// that is built with the tag mutants ever does, to show that a check finds it.
func Mutated(name string) bool { return mutation() == name }
