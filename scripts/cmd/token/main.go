// Command token prints an access token for a stack on this machine; see
// package token.
package main

import (
	"context"
	"io"
	"os"

	"rollcall/scripts/token"
	"rollcall/shared/daemon"
)

func main() {
	os.Exit(daemon.Main(func(ctx context.Context, args, env []string, _ io.Writer) error {
		return token.Main(ctx, args, env, os.Stdout)
	}))
}
