package token

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rollcall/scripts/keys"
	"rollcall/scripts/trust"
	"rollcall/shared/daemon"
)

// pushTimeout bounds a delivery.
const pushTimeout = 10 * time.Second

// delivery says where changed accounts are taken to.
type delivery struct {
	url   string
	ca    string
	creds string
	no    bool
}

func (d *delivery) settings(s *daemon.Settings) {
	d.placeSettings(s)
	s.Bool(&d.no, "no-push", false, "only change the directory; bin/token push tells the rest")
}

func (d *delivery) placeSettings(s *daemon.Settings) {
	s.String(&d.url, "nats-url", "", "NATS server to tell; that of the stack by default")
	s.NATSCA(&d.ca)
	s.String(&d.creds, "nats-creds", "", "creds file that may write SETTINGS on a server that trusts another operator; then only the gateways are told")
}

// deliver takes the accounts to NATS and to the gateways, and says so. What was
// changed stays changed when that fails: it counts from the next push or start.
func (d *delivery) deliver(ctx context.Context, ring *keys.Ring, stdout io.Writer, done string) error {
	if d.no {
		return say(stdout, "%s in %s; nobody was told", done, ring.Dir())
	}
	if err := d.push(ctx, ring); err != nil {
		return fmt.Errorf("token: %s in %s, but in force nowhere yet, bin/token push repeats that: %w", done, ring.Dir(), err)
	}
	return say(stdout, "%s, and in force at %s", done, d.url)
}

func (d *delivery) push(ctx context.Context, ring *keys.Ring) error {
	if d.url == "" {
		data, err := os.ReadFile(filepath.Join(ring.Dir(), trust.URLFile))
		if err != nil {
			return errors.New("where NATS is must be said with --nats-url: no stack was started in this directory")
		}
		d.url = strings.TrimSpace(string(data))
	}
	ctx, cancel := context.WithTimeout(ctx, pushTimeout)
	defer cancel()
	if d.creds != "" {
		return trust.Push(ctx, ring, trust.Target{URL: d.url, CA: d.ca, Admin: d.creds})
	}
	if err := keepOperators(ring); err != nil {
		return err
	}
	return trust.Push(ctx, ring, trust.Target{URL: d.url, CA: d.ca, System: ring.CredsFile("system"), Admin: ring.CredsFile("admin")})
}

// runPush delivers the accounts as they are.
func runPush(ctx context.Context, args, env []string, stdout io.Writer) error {
	var (
		dir string
		to  delivery
	)
	settings := newCommand("push")
	dirSetting(settings, &dir)
	to.placeSettings(settings)
	if err := settings.Parse(args, env); err != nil {
		return err
	}
	ring, err := open(dir)
	if err != nil {
		return err
	}
	return to.deliver(ctx, ring, stdout, "pushed")
}
