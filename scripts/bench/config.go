package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"rollcall/shared/daemon"
)

// errInterrupted is a run that was told to stop.
var errInterrupted = errors.New("bench: interrupted")

// Config is what one run is told.
type Config struct {
	// JSON prints one document for programs instead of a table.
	JSON bool
	// Run names the measures to take; empty is all.
	Run []string
	// Agents is the size of the fleet, Subscribers that of the fan-out's audience,
	// Listeners that of events.
	Agents, Subscribers, Listeners int
	// Rounds is how often each side of a measure takes its turn, Duration how
	// long one turn is.
	Rounds   int
	Duration time.Duration
	// NATSURL is a server to use instead of up's embedded one.
	NATSURL string

	// Bin is where the binaries are, Env the environment of the stack.
	Bin string
	Env []string
}

// The measures, in the order in which they are taken. The last one costs a
// gateway.
const (
	runConnect = "connect"
	runBeacon  = "beacon"
	runFanout  = "fanout"
	runEvents  = "events"
	runSlow    = "slow"
	runLease   = "lease"
	runLoss    = "gateway-loss"
)

func runNames() []string {
	return []string{runConnect, runBeacon, runFanout, runEvents, runSlow, runLease, runLoss}
}

// Main is the command.
func Main(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	config, err := parse(args, env)
	if err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("bench: find the binaries: %w", err)
	}
	config.Bin, config.Env = filepath.Dir(executable), stackEnv(env)
	report, err := Run(ctx, config, stderr)
	if err != nil && ctx.Err() != nil {
		return errInterrupted
	}
	if err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	if err := report.print(stdout, config.JSON); err != nil {
		return fmt.Errorf("bench: print: %w", err)
	}
	return nil
}

func parse(args, env []string) (Config, error) {
	var c Config
	s := daemon.NewSettings("bench")
	s.Bool(&c.JSON, "json", false, "print one JSON document")
	s.Strings(&c.Run, "run", nil, "measure to take, commas between several: "+strings.Join(runNames(), ", ")+"; all when left out")
	s.Int(&c.Agents, "agents", 256, "agents of the fleet")
	s.Int(&c.Subscribers, "subscribers", 100, "sockets that a change is fanned out to")
	s.Int(&c.Listeners, "listeners", 1000, "sockets that an event is fanned out to")
	s.Int(&c.Rounds, "rounds", 5, "turns of each side")
	s.Duration(&c.Duration, "duration", time.Second, "length of one turn")
	s.String(&c.NATSURL, "nats-url", "", "NATS server to use instead of an embedded one")
	s.Check("run", func() error { c.Run = split(c.Run); return checkRun(c.Run) })
	for name, count := range map[string]*int{"agents": &c.Agents, "subscribers": &c.Subscribers, "listeners": &c.Listeners, "rounds": &c.Rounds} {
		s.Check(name, func() error {
			if *count < 1 || *count > 5000 {
				return fmt.Errorf("%d is not between 1 and 5000", *count)
			}
			return nil
		})
	}
	s.Check("duration", func() error {
		if c.Duration <= 0 {
			return fmt.Errorf("%s is not positive", c.Duration)
		}
		return nil
	})
	s.Check("nats-url", func() error { return checkURL(c.NATSURL) })
	if err := s.Parse(args, env); err != nil {
		return Config{}, err
	}
	return c, nil
}

func split(names []string) []string {
	var out []string
	for _, name := range names {
		out = append(out, strings.Split(name, ",")...)
	}
	return out
}

func checkRun(names []string) error {
	for _, name := range names {
		if !slices.Contains(runNames(), name) {
			return fmt.Errorf("%q is not one of %s", name, strings.Join(runNames(), ", "))
		}
	}
	return nil
}

func checkURL(text string) error {
	if _, err := url.Parse(text); err != nil {
		return errors.New("is not a URL")
	}
	return nil
}

// wants reports whether a measure is to be taken.
func (c Config) wants(name string) bool { return len(c.Run) == 0 || slices.Contains(c.Run, name) }

// stackEnv is the environment of the stack: this one without bench's own
// settings, and with the rate limits of sockets out of the way unless somebody
// set them.
func stackEnv(env []string) []string {
	own := []string{"JSON", "RUN", "AGENTS", "SUBSCRIBERS", "LISTENERS", "ROUNDS", "DURATION", "NATS_URL"}
	out := slices.DeleteFunc(slices.Clone(env), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		setting, found := strings.CutPrefix(name, "ROLLCALL_")
		return found && (slices.Contains(own, setting) || strings.HasPrefix(setting, "BENCH_"))
	})
	for _, limit := range []string{"BEACON_RATE", "REQUEST_RATE", "REQUEST_BURST"} {
		if name := "ROLLCALL_GATEWAY_" + limit; lookup(out, name) == "" {
			out = append(out, name+"=1000000")
		}
	}
	return out
}

func lookup(env []string, name string) string {
	for _, pair := range slices.Backward(env) {
		if value, found := strings.CutPrefix(pair, name+"="); found {
			return value
		}
	}
	return ""
}

// span reads a duration that the stack was given, or takes its default.
func span(env []string, name string, otherwise time.Duration) time.Duration {
	if d, err := time.ParseDuration(lookup(env, name)); err == nil {
		return d
	}
	return otherwise
}
