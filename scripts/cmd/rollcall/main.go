// Command rollcall shows a fleet to people and to scripts; see package rollcall.
package main

import (
	"context"
	"io"
	"os"

	"rollcall/scripts/rollcall"
	"rollcall/shared/daemon"
)

func main() {
	os.Exit(daemon.Main(func(ctx context.Context, args, env []string, stderr io.Writer) error {
		return rollcall.Main(ctx, args, env, rollcall.Streams{In: os.Stdin, Out: os.Stdout, Err: stderr})
	}))
}
