package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/nats-io/nkeys"

	"rollcall/scripts/keys"
	"rollcall/subjects/access"
)

// runRotate signs with a new key for a role, or stops trusting an old one. The
// new key is known everywhere before anything is signed with it: when it cannot
// be delivered the old one goes on, and the next try goes on with the new one.
func runRotate(ctx context.Context, args, env []string, stdout io.Writer) error {
	var (
		dir, role, remove string
		to                delivery
	)
	settings := newCommand("rotate")
	dirSetting(settings, &dir)
	settings.String(&role, "role", "", "role to sign for with a new key; bin/token list --keys shows the roles")
	settings.String(&remove, "remove", "", "old key (A…) whose tokens and credentials end")
	to.settings(settings)
	settings.Check("role", func() error {
		switch {
		case (role == "") == (remove == ""):
			return errors.New("say --role to make a new key, or --remove to end an old one")
		case role != "" && !slices.Contains(access.Roles(), access.Role(role)):
			return fmt.Errorf("%q is not one of %v", role, access.Roles())
		default:
			return nil
		}
	})
	settings.Check("remove", func() error {
		if remove != "" && !nkeys.IsValidPublicAccountKey(remove) {
			return errors.New("must be the public key of an account (A…)")
		}
		return nil
	})
	if err := settings.Parse(args, env); err != nil {
		return err
	}
	ring, err := open(dir)
	if err != nil {
		return err
	}
	if remove != "" {
		if err := ring.Remove(remove); err != nil {
			return fmt.Errorf("token: %w", err)
		}
		return to.deliver(ctx, ring, stdout, "removed")
	}
	return rotate(ctx, ring, access.Role(role), to, stdout)
}

func rotate(ctx context.Context, ring *keys.Ring, role access.Role, to delivery, stdout io.Writer) error {
	public, err := ring.Prepare(role)
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	if err := to.deliver(ctx, ring, stdout, "trusted: "+public); err != nil {
		return err
	}
	if err := ring.Switch(role); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	// Whoever connects with these files goes on as the same user with the next
	// connection, and so outlives the removal of the old key.
	renewed, err := ring.RenewCreds(role, time.Now())
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	for _, file := range renewed {
		if err := say(stdout, "signed anew: %s", file); err != nil {
			return err
		}
	}
	return say(stdout, "signs for %s: %s", role, public)
}
