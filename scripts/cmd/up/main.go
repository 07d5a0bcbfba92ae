// Command up runs the whole stack on this machine; see package up.
package main

import (
	"context"
	"io"
	"os"

	"rollcall/scripts/up"
	"rollcall/shared/daemon"
)

func main() {
	os.Exit(daemon.Main(func(ctx context.Context, args, env []string, stderr io.Writer) error {
		return up.Main(ctx, args, env, os.Stdout, stderr)
	}))
}
