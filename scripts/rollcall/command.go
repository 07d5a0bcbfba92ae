package rollcall

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"rollcall/shared/daemon"
)

// Streams are where a command reads and writes.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// command is a subcommand.
type command struct {
	name, does string
	run        func(ctx context.Context, args, env []string, std Streams) error
}

func commands() []command {
	return []command{
		{"top", "the fleet on the whole screen, live", runTop},
		{"presence", "agents or instances and how they are", runPresence},
		{"history", "what happened to an agent", runHistory},
		{"connections", "live connections on all gateways", runConnections},
		{"leases", "leases and their states", runLeases},
		{"events", "what happens, as it happens", runEvents},
		{"status", "how a gateway is, and what it stands on", runStatus},
		{"diagnostics", "a file to attach to a report, without secrets", runDiagnostics},
	}
}

// Main is the command. It ends with
//
//	0  done; also what ends by Ctrl-C or by q
//	1  anything else that went wrong
//	2  the command line is wrong, or the gateway refuses what it asks for
//	3  the token is missing, not good, or does not allow it
//	4  no gateway answers, or none is able to
//	5  what was named is not there, or nothing matches and --fail-empty is given
func Main(ctx context.Context, args, env []string, std Streams) error {
	if len(args) == 0 {
		return usageFault("a command is missing: " + strings.Join(names(), ", "))
	}
	if slices.Contains([]string{"help", "-h", "-help", "--help"}, args[0]) {
		return &daemon.HelpError{Usage: usage()}
	}
	for _, c := range commands() {
		if c.name == args[0] {
			return withCodes(c.run(ctx, args[1:], env, std))
		}
	}
	return usageFault(fmt.Sprintf("unknown command %q, not one of %s", clean(args[0]), strings.Join(names(), ", ")))
}

func names() []string {
	var out []string
	for _, c := range commands() {
		out = append(out, c.name)
	}
	return out
}

func usageFault(text string) error {
	return &daemon.SettingsError{Process: "rollcall", Faults: []string{text}}
}

const exitCodes = `exit codes:
  0  done; also what ends by Ctrl-C or by q
  1  anything else that went wrong
  2  the command line is wrong, or the gateway refuses what it asks for
  3  the token is missing, not good, or does not allow it
  4  no gateway answers, or none is able to
  5  what was named is not there, or nothing matches and --fail-empty is given`

func usage() string {
	var b strings.Builder
	b.WriteString("usage: rollcall COMMAND [flags]\n\nAsks a gateway about the fleet. Commands, each with --help:\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-12s %s\n", c.name, c.does)
	}
	b.WriteString(`
After make up nothing more is needed. Elsewhere: where the gateway is comes from --url or ROLLCALL_URL, the token from --token-file, ROLLCALL_TOKEN_FILE
or ROLLCALL_TOKEN. A token is never an argument: those are for everybody on the machine to read.

` + exitCodes)
	return b.String()
}

// withCodes adds the exit codes to a subcommand's usage.
func withCodes(err error) error {
	if help, ok := errors.AsType[*daemon.HelpError](err); ok {
		return &daemon.HelpError{Usage: help.Usage + "\n\n" + exitCodes}
	}
	return err
}
