// Command replay makes PRESENCE again from EVENTS and compares; see package replay.
package main

import (
	"context"
	"io"
	"os"

	"rollcall/services/presence/internal/replay"
	"rollcall/shared/daemon"
)

func main() {
	os.Exit(daemon.Main(func(ctx context.Context, args, env []string, stderr io.Writer) error {
		return replay.Main(ctx, args, env, os.Stdout, stderr)
	}))
}
