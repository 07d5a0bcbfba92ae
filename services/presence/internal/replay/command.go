package replay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// Exit codes.
const (
	exitDiffers = 1
	exitUnable  = 2
)

const (
	// natsFile is where bin/up says where its NATS is, credsFile who this is there.
	natsFile  = "nats.url"
	credsFile = "creds/replay.creds" //nolint:gosec // where they are, not what they are
)

// config is what the command is told.
type config struct {
	Options
	dir, natsURL, natsCA, natsCreds, inboxPrefix string
	timeout                                      time.Duration
	json                                         bool
}

// coded ends the command with a code.
type coded struct {
	code int
	err  error
}

func (e *coded) Error() string { return "replay: " + e.err.Error() }
func (e *coded) Unwrap() error { return e.err }

// ExitCode makes it a [daemon.Coded].
func (e *coded) ExitCode() int { return e.code }

// errDiffers says that there are differences, which stdout names.
var errDiffers = errors.New("PRESENCE is not what EVENTS gives")

// Main runs the command: 0 when all that can be proven is equal, 1 when something
// differs, 2 when it could not compare.
func Main(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	var c config
	if err := c.parse(args, env); err != nil {
		return err
	}
	report, err := c.run(ctx, stderr)
	if err != nil {
		return &coded{exitUnable, err}
	}
	out := bufio.NewWriter(stdout)
	if c.json {
		err = json.NewEncoder(out).Encode(report)
	} else {
		report.print(out)
	}
	if err = errors.Join(err, out.Flush()); err != nil {
		return &coded{exitUnable, err}
	}
	if len(report.Differences) > 0 {
		return &coded{exitDiffers, errDiffers}
	}
	return nil
}

func (c *config) parse(args, env []string) error {
	s := daemon.NewCommand("replay", "nats-url", "nats-ca", "nats-creds", "nats-inbox-prefix", "dir", "presence-retention", "replicas")
	s.String(&c.dir, "dir", ".rollcall", "directory of a stack, as given to up; taken where --nats-url says nothing")
	s.String(&c.natsURL, "nats-url", "", "NATS server URLs, comma separated")
	s.NATSCA(&c.natsCA)
	s.String(&c.natsCreds, "nats-creds", "", "NATS creds file, of the role replay; with --dir the one in it")
	s.String(&c.inboxPrefix, "nats-inbox-prefix", "", "what NATS inboxes start with; with a creds file _INBOX_<user> by default")
	s.Duration(&c.Retention, "presence-retention", 5*time.Minute, "what the presence processes are told")
	s.Duration(&c.Settle, "settle", 10*time.Second, "how long rows that do not agree may take until they do")
	s.Duration(&c.timeout, "timeout", 10*time.Minute, "how long all of it may take")
	s.String(&c.Tenant, "tenant", "", "only this tenant's rows; those of gateways are the tenant system's")
	s.Int(&c.Replicas, "replicas", 1, "JetStream replicas of the scratch bucket")
	s.Bool(&c.Keep, "keep", false, "leave the scratch bucket "+subjects.BucketReplay)
	s.Bool(&c.Replace, "replace", false, "remove a scratch bucket that was left")
	s.Bool(&c.json, "json", false, "one JSON object")
	s.Check("tenant", func() error {
		if c.Tenant == "" || c.Tenant == subjects.SystemTenant {
			return nil
		}
		return subjects.CheckTenant("tenant", c.Tenant)
	})
	s.Check("presence-retention", func() error { return daemon.AtLeast(c.Retention, time.Second) })
	s.Check("settle", func() error { return daemon.AtLeast(c.Settle, 0) })
	s.Check("timeout", func() error { return daemon.AtLeast(c.timeout, time.Second) })
	s.Check("replicas", func() error {
		if c.Replicas < 1 || c.Replicas > 5 {
			return fmt.Errorf("%d is not between 1 and 5", c.Replicas)
		}
		return nil
	})
	return s.Parse(args, env)
}

// find takes NATS from the directory of a stack where nothing else is said.
func (c *config) find() error {
	if c.natsURL != "" {
		return nil
	}
	data, err := os.ReadFile(filepath.Join(c.dir, natsFile))
	if err != nil {
		return fmt.Errorf("no --nats-url, and no stack in --dir: %w", err)
	}
	c.natsURL = strings.TrimSpace(string(data))
	creds := filepath.Join(c.dir, credsFile)
	if _, err := os.Stat(creds); err == nil && c.natsCreds == "" {
		c.natsCreds = creds
	}
	return nil
}

func (c *config) run(ctx context.Context, stderr io.Writer) (Report, error) {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	log, err := daemon.Logger(stderr, "warn", "replay")
	if err != nil {
		return Report{}, err
	}
	if err := c.find(); err != nil {
		return Report{}, err
	}
	conn, err := bus.Connect(ctx, bus.Options{
		URL: c.natsURL, Name: "rollcall replay", Log: log, CAFile: c.natsCA, CredsFile: c.natsCreds, InboxPrefix: c.inboxPrefix,
		LeaderReads: true,
	})
	if err != nil {
		return Report{}, fmt.Errorf("connect to NATS: %w", err)
	}
	report, err := Run(ctx, conn, c.Options)
	closing, done := context.WithTimeout(context.WithoutCancel(ctx), removeWithin)
	defer done()
	return report, errors.Join(err, conn.Close(closing))
}

// print writes a line for each finding, and one that sums up.
func (r Report) print(out io.Writer) {
	for _, d := range r.Differences {
		fmt.Fprintf(out, "DIFFERS %s", d.Key)
		for _, part := range []struct{ name, value string }{{"field", d.Field}, {"live", d.Live}, {"replayed", d.Replayed}} {
			if part.value != "" || part.name != "field" {
				fmt.Fprintf(out, " %s=%s", part.name, shown(part.value))
			}
		}
		if d.Evidence.Seq > 0 {
			fmt.Fprintf(out, " by %s seq=%d event_id=%s", d.Evidence.Type, d.Evidence.Seq, d.Evidence.EventID)
		}
		if d.Detail != "" {
			fmt.Fprintf(out, " (%s)", shown(d.Detail))
		}
		fmt.Fprintln(out)
	}
	for _, u := range r.NotProvable {
		fmt.Fprintf(out, "NOT PROVABLE %s: %s\n", u.Key, u.Reason)
	}
	fmt.Fprintf(out, "events %d to %d, %d rows: %d equal (%d of them in part), %d not provable, %d differences\n",
		r.First, r.Last, r.Rows, r.Equal, r.Partly, len(r.NotProvable), len(r.Differences))
	if r.Kept != "" {
		fmt.Fprintf(out, "kept: bucket %s\n", r.Kept)
	}
}

// shown is a value on one line that no terminal obeys: rows hold what peers chose.
func shown(value string) string {
	if value == "" {
		return "-"
	}
	quoted := strconv.QuoteToASCII(value)
	plain := strings.ReplaceAll(quoted[1:len(quoted)-1], `\"`, `"`)
	return plain
}
