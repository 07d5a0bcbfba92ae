package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"rollcall/scripts/keys"
	"rollcall/shared/daemon"
)

// process is what prints tokens; its subcommands are called after it.
const process = "token"

// command is a subcommand.
type command func(ctx context.Context, args, env []string, stdout io.Writer) error

func commands() map[string]command {
	return map[string]command{
		"init": runInit, "creds": runCreds, "list": runList, "revoke": runRevoke, "rotate": runRotate, "push": runPush,
	}
}

// Main is the command. Without a subcommand it prints one token, or returns an
// error and prints nothing.
func Main(ctx context.Context, args, env []string, stdout io.Writer) error {
	if len(args) > 0 {
		if run, known := commands()[args[0]]; known {
			return run(ctx, args[1:], env, stdout)
		}
	}
	var (
		dir    string
		device string
		grant  Grant
	)
	settings := daemon.NewSettings(process)
	dirSetting(settings, &dir)
	settings.String(&grant.Tenant, "tenant", "", "tenant the token is for (required)")
	settings.String(&grant.Agent, "agent", "", "agent the bearer acts for; none when empty")
	settings.String(&grant.Role, "role", "client", "client or node")
	settings.Strings(&grant.Scopes, "scope", nil, "scope of the token, such as operator.read")
	settings.String(&device, "device", "", "pubkey of the only device that may present the token, as in connect.init; any when empty")
	settings.Duration(&grant.TTL, "ttl", DefaultTTL, "how long the token is good for, from 1s")

	settings.Check("tenant", func() error { return checkTenant(grant.Tenant) })
	settings.Check("agent", func() error { return checkAgent(grant.Agent) })
	settings.Check("role", func() error { return checkRole(grant.Role) })
	settings.Check("scope", func() error { return checkScopes(grant.Scopes) })
	settings.Check("ttl", func() error { return checkTTL(grant.TTL) })
	settings.Check("device", func() (err error) {
		if device != "" {
			grant.Device, err = ParseDevice(device)
		}
		return err
	})
	if err := settings.Parse(args, env); err != nil {
		return withCommands(err)
	}
	return issue(stdout, dir, grant)
}

// newCommand returns the settings of a subcommand. Of the environment it reads where the
// stack is, and no more: a variable meant for another program must not revoke a tenant.
func newCommand(name string) *daemon.Settings {
	return daemon.NewCommand(process+" "+name, "dir", "nats-url")
}

// withCommands adds the subcommands to the usage.
func withCommands(err error) error {
	var help *daemon.HelpError
	if !errors.As(err, &help) {
		return err
	}
	return &daemon.HelpError{Usage: help.Usage + `

Prints an access token. Subcommands, each with --help:

  init    make the keys of a stack
  creds   make credentials for a NATS user
  list    show what was issued and is good now, or the keys that sign
  revoke  end tokens and credentials before their time
  rotate  sign with a new key, or stop trusting an old one
  push    take the accounts to NATS and to the gateways again`}
}

func issue(stdout io.Writer, dir string, grant Grant) error {
	ring, err := open(dir)
	if err != nil {
		return err
	}
	text, err := Mint(ring, grant, time.Now())
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	return say(stdout, "%s", text)
}

func dirSetting(settings *daemon.Settings, dir *string) {
	settings.String(dir, "dir", ".rollcall", "directory of the stack, as given to up")
}

func open(dir string) (*keys.Ring, error) {
	ring, err := keys.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("token: --dir: %w", err)
	}
	return ring, nil
}

func say(stdout io.Writer, format string, args ...any) error {
	if _, err := fmt.Fprintf(stdout, format+"\n", args...); err != nil {
		return fmt.Errorf("token: print: %w", err)
	}
	return nil
}

func checkScopes(scopes []string) error {
	faults := make([]error, 0, len(scopes))
	for _, scope := range scopes {
		faults = append(faults, checkScope(scope))
	}
	return errors.Join(faults...)
}
