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
)

// runRevoke ends what was issued, here and wherever it is obeyed.
func runRevoke(ctx context.Context, args, env []string, stdout io.Writer) error {
	var (
		dir                    string
		ids, subjects, devices []string
		tenants                []string
		to                     delivery
	)
	settings := newCommand("revoke")
	dirSetting(settings, &dir)
	settings.Strings(&ids, "id", nil, "id of a token or of credentials, as bin/token list shows it; what else its device holds of that time or earlier ends too")
	settings.Strings(&subjects, "subject", nil, "public key (U…) whose tokens and credentials end")
	settings.Strings(&devices, "device", nil, "pubkey of a device whose tokens end, as in connect.init")
	settings.Strings(&tenants, "tenant", nil, "tenant all of whose tokens and credentials end")
	to.settings(settings)
	settings.Check("subject", func() error { return each(subjects, checkSubject) })
	settings.Check("device", func() error {
		return each(devices, func(text string) error { _, err := ParseDevice(text); return err })
	})
	settings.Check("tenant", func() error { return each(tenants, checkTenant) })
	settings.Check("id", func() error {
		if len(ids)+len(subjects)+len(devices)+len(tenants) == 0 {
			return errors.New("say what: --id, --subject, --device or --tenant")
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
	until, err := revoked(ring, ids, subjects, devices)
	if err == nil && len(until) > 0 {
		err = ring.Revoke(until)
	}
	for _, tenant := range tenants {
		if err == nil {
			err = ring.RevokeTenant(tenant, time.Now())
		}
	}
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	return to.deliver(ctx, ring, stdout, "revoked")
}

// revoked finds the subjects that are meant, and up to when each ends.
func revoked(ring *keys.Ring, ids, subjects, devices []string) (map[string]time.Time, error) {
	now, until := time.Now(), map[string]time.Time{}
	for _, subject := range subjects {
		until[subject] = now
	}
	for _, text := range devices {
		device, err := ParseDevice(text)
		if err != nil {
			return nil, err
		}
		subject, err := nkeys.Encode(nkeys.PrefixByteUser, device)
		if err != nil {
			return nil, err
		}
		until[string(subject)] = now
	}
	issued, err := ring.Issued()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		at := slices.IndexFunc(issued, func(e keys.Record) bool { return e.ID == id })
		if at < 0 {
			return nil, fmt.Errorf("revoke --id %q: %w", id, keys.ErrUnknown)
		}
		// A later token of the same subject stands; a longer revocation wins.
		if e := issued[at]; e.IssuedAt.After(until[e.Subject]) {
			until[e.Subject] = e.IssuedAt
		}
	}
	return until, nil
}

func checkSubject(text string) error {
	if !nkeys.IsValidPublicUserKey(text) {
		// It is not quoted: a seed ends up here by mistake sooner or later.
		return errors.New("must be the public key of a user (U…)")
	}
	return nil
}

func each(values []string, check func(string) error) error {
	faults := make([]error, 0, len(values))
	for _, value := range values {
		faults = append(faults, check(value))
	}
	return errors.Join(faults...)
}
