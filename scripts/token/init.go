package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"time"

	"rollcall/scripts/keys"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// runInit makes the keys that are missing, and credentials for whoever operates
// the stack.
func runInit(_ context.Context, args, env []string, stdout io.Writer) error {
	var dir string
	settings := newCommand("init")
	dirSetting(settings, &dir)
	if err := settings.Parse(args, env); err != nil {
		return err
	}
	ring, err := keys.Create(dir)
	if err != nil {
		return fmt.Errorf("token: init: %w", err)
	}
	if err := keepOperators(ring); err != nil {
		return fmt.Errorf("token: init: %w", err)
	}
	return say(stdout, "operator  %s\naccount   %s\nnats      include %s in the server's configuration",
		ring.Operator(), ring.Account(), filepath.Join(dir, keys.ConfFile))
}

// keepOperators keeps the credentials that accounts are delivered with good.
func keepOperators(ring *keys.Ring) error {
	for name, role := range map[string]access.Role{"admin": access.Admin, "system": keys.System} {
		if err := ring.KeepCreds(ring.CredsFile(name), keys.User{Role: role}, time.Now()); err != nil {
			return err
		}
	}
	return nil
}

// runCreds writes credentials for a NATS user and prints where they are.
func runCreds(_ context.Context, args, env []string, stdout io.Writer) error {
	var (
		dir, role, keyFile, out string
		user                    keys.User
	)
	settings := newCommand("creds")
	dirSetting(settings, &dir)
	settings.String(&role, "role", "", "gateway, presence, lease, producer, tail, replay, admin or system (required)")
	settings.String(&user.Tenant, "tenant", "", "tenant of a producer or a tail")
	settings.String(&user.Name, "name", "", "a word to tell users of the same role apart")
	settings.String(&keyFile, "key-file", "", "PEM file with the key of a gateway, whose row the user may write")
	settings.String(&out, "out", "", "file to write; in --dir by default")
	settings.Duration(&user.TTL, "ttl", 0, "how long the credentials are good for, from 1s; 0 is for ever")
	settings.Check("role", func() error {
		user.Role = access.Role(role)
		if user.Role != keys.System && (user.Role.Issues() || !slices.Contains(access.Roles(), user.Role)) {
			return errors.New("must be gateway, presence, lease, producer, tail, replay, admin or system")
		}
		return nil
	})
	settings.Check("tenant", func() error {
		switch {
		case user.Role.OfTenant():
			return checkTenant(user.Tenant)
		case user.Tenant != "":
			return errors.New("goes with a producer or a tail only")
		default:
			return nil
		}
	})
	settings.Check("name", func() error {
		if user.Role == access.Gateway && user.Name != "" {
			return errors.New("is a gateway's instance_id, which follows from --key-file")
		}
		return checkAgent(user.Name)
	})
	settings.Check("key-file", func() error { return nameByKey(&user, keyFile) })
	settings.Check("ttl", func() error {
		if user.TTL == 0 {
			return nil
		}
		return checkTTL(user.TTL)
	})
	if err := settings.Parse(args, env); err != nil {
		return err
	}
	ring, err := open(dir)
	if err != nil {
		return err
	}
	if out == "" {
		out = ring.CredsFile(credsName(user))
	}
	if err := ring.Creds(out, user, time.Now()); err != nil {
		return fmt.Errorf("token: %w", err)
	}
	return say(stdout, "%s", out)
}

// nameByKey names a gateway's user by the gateway's key.
func nameByKey(user *keys.User, keyFile string) error {
	if user.Role != access.Gateway {
		if keyFile != "" {
			return errors.New("goes with a gateway only")
		}
		return nil
	}
	if keyFile == "" {
		return errors.New("is required for a gateway")
	}
	public, err := keys.ReadPEM(keyFile)
	if err != nil {
		return err
	}
	user.Name, err = subjects.InstanceID(public)
	return err
}

// credsName is a file's name for a user.
func credsName(u keys.User) string {
	name := string(u.Role)
	if u.Tenant != "" {
		name = u.Tenant + "." + name
	}
	if u.Name != "" {
		name += "-" + u.Name
	}
	return name
}
