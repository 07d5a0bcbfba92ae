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

// Main is the command: it prints one token, or returns an error and prints
// nothing.
func Main(_ context.Context, args, env []string, stdout io.Writer) error {
	var (
		dir    string
		device string
		grant  Grant
	)
	settings := daemon.NewSettings("token")
	settings.String(&dir, "dir", ".rollcall", "directory of the stack, as given to up")
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
		return err
	}
	return issue(stdout, dir, grant)
}

func issue(stdout io.Writer, dir string, grant Grant) error {
	ring, err := keys.Open(dir)
	if err != nil {
		return fmt.Errorf("token: --dir: %w", err)
	}
	text, err := Mint(ring, grant, time.Now())
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	if _, err := fmt.Fprintln(stdout, text); err != nil {
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
