// Command bench measures a stack of its own; see package bench.
package main

import (
	"context"
	"io"
	"os"

	"rollcall/scripts/bench"
	"rollcall/shared/daemon"
)

func main() {
	os.Exit(daemon.Main(func(ctx context.Context, args, env []string, stderr io.Writer) error {
		return bench.Main(ctx, args, env, os.Stdout, stderr)
	}))
}
