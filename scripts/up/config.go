package up

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// Config is what one instance is told.
type Config struct {
	// JSON prints one line for programs instead of a screen for people.
	JSON bool
	// Ports is fixed (the documented ones) or auto (free ones).
	Ports string
	// Dir is the directory of this instance.
	Dir string
	// Gateways, Presence and Lease count processes, Agents demo agents; -1 is
	// 20 agents, or none with JSON.
	Gateways, Presence, Lease, Agents int
	Tenants                           []string
	// NATSNodes is how many NATS servers run as processes of their own, 1 or 3;
	// 0 is one within up itself.
	NATSNodes int
	// NATSSync is when what those store is on the disk: "always" before it is
	// acknowledged, or "interval".
	NATSSync string
	// NATSURL is a server to use instead of an embedded one, and NATSCredsDir the
	// folder with the credentials for it, empty when it asks for none.
	NATSURL, NATSCredsDir string
	// NATSCA is the file with who vouches for that server.
	NATSCA string

	// Bin is where the binaries are, Env the environment of the processes.
	Bin string
	Env []string
}

const (
	portsFixed = "fixed"
	portsAuto  = "auto"

	syncAlways   = "always"
	syncInterval = "interval"

	// clusterNodes is how many servers a cluster has: one may be lost.
	clusterNodes = 3

	// maxProcesses keeps fixed ports of one kind below those of the next, of which
	// NATS's monitor on 8222 is one.
	maxProcesses  = 40
	defaultAgents = 20
)

// Main is the command.
func Main(ctx context.Context, args, env []string, stdout, stderr io.Writer) error {
	if len(args) > 0 && args[0] == nodeCommand {
		return runNode(ctx, args[1:], env, stderr)
	}
	config, err := parse(args, env)
	if err != nil {
		return err
	}
	executable, err := os.Executable()
	if err != nil {
		return fmt.Errorf("up: find the binaries: %w", err)
	}
	config.Bin, config.Env = filepath.Dir(executable), childEnv(env)
	if err := Run(ctx, config, stdout, stderr); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	return nil
}

func parse(args, env []string) (Config, error) {
	var c Config
	s := daemon.NewSettings("up")
	s.Bool(&c.JSON, "json", false, "print one JSON line when all is ready")
	s.String(&c.Ports, "ports", portsFixed, "fixed (NATS 4222, its websocket 4223, its monitor 8222, gateways from 8080, presence from 8180, lease from 8280) or auto")
	s.String(&c.Dir, "dir", ".rollcall", "directory for keys, tokens, logs and JetStream")
	s.Int(&c.Gateways, "gateways", 1, "gateway processes")
	s.Int(&c.Presence, "presence", 1, "presence processes")
	s.Int(&c.Lease, "lease", 1, "lease processes")
	s.Int(&c.Agents, "agents", -1, "demo agents; -1 is 20, or none with --json")
	s.Strings(&c.Tenants, "tenant", []string{"acme"}, "tenant to issue an operator token for")
	s.Int(&c.NATSNodes, "nats-nodes", 0, "NATS servers as processes of their own, 1, or 3 as a cluster; 0 is one within up itself")
	s.String(&c.NATSSync, "nats-sync", syncInterval, "when what NATS stores is on the disk: always (before it is acknowledged) or interval (within two minutes)")
	s.String(&c.NATSURL, "nats-url", "", "NATS server to use instead of an embedded one")
	s.NATSCA(&c.NATSCA)
	s.String(&c.NATSCredsDir, "nats-creds-dir", "", "folder with <process>.creds for that server, such as gateway-0.creds, and admin.creds; empty when it asks for none")

	s.Check("ports", func() error {
		if c.Ports != portsFixed && c.Ports != portsAuto {
			return fmt.Errorf("%q is neither fixed nor auto", c.Ports)
		}
		return nil
	})
	s.Check("dir", func() error { return notEmpty(c.Dir) })
	for name, count := range map[string]*int{"gateways": &c.Gateways, "presence": &c.Presence, "lease": &c.Lease} {
		s.Check(name, func() error { return between(*count, 0, maxProcesses) })
	}
	s.Check("agents", func() error { return between(c.Agents, -1, 10_000) })
	s.Check("tenant", func() error { return checkTenants(c.Tenants) })
	s.Check("nats-nodes", func() error {
		if !slices.Contains([]int{0, 1, clusterNodes}, c.NATSNodes) {
			return fmt.Errorf("%d is not 0, 1 or %d", c.NATSNodes, clusterNodes)
		}
		if c.NATSNodes > 0 && c.NATSURL != "" {
			return errors.New("does not go with --nats-url")
		}
		return nil
	})
	s.Check("nats-sync", func() error { return checkSync(c.NATSSync) })
	s.Check("nats-url", func() error { return checkURL(c.NATSURL) })
	s.Check("nats-ca", func() error {
		if c.NATSCA != "" && c.NATSURL == "" {
			return errors.New("goes with --nats-url only; the embedded server speaks no TLS")
		}
		return nil
	})
	s.Check("nats-creds-dir", func() error {
		if c.NATSCredsDir != "" && c.NATSURL == "" {
			return errors.New("goes with --nats-url only; the embedded server's are in --dir")
		}
		return nil
	})
	if err := s.Parse(args, env); err != nil {
		return Config{}, err
	}
	if c.Agents < 0 {
		c.Agents = defaultAgents
		if c.JSON {
			c.Agents = 0
		}
	}
	return c, nil
}

func checkSync(text string) error {
	if text != syncAlways && text != syncInterval {
		return fmt.Errorf("%q is neither %s nor %s", text, syncAlways, syncInterval)
	}
	return nil
}

func notEmpty(text string) error {
	if text == "" {
		return errors.New("must not be empty")
	}
	return nil
}

func between(n, least, most int) error {
	if n < least || n > most {
		return fmt.Errorf("%d is not between %d and %d", n, least, most)
	}
	return nil
}

func checkTenants(tenants []string) error {
	if len(tenants) == 0 {
		return errors.New("must not be empty")
	}
	var faults []error
	for i, tenant := range tenants {
		if err := subjects.CheckTenant("tenant", tenant); err != nil {
			problem, _ := errors.AsType[*subjects.Problem](err)
			faults = append(faults, fmt.Errorf("%q %v", tenant, problem.Details["rule"]))
		}
		if slices.Contains(tenants[:i], tenant) {
			faults = append(faults, fmt.Errorf("%q comes twice", tenant))
		}
	}
	return errors.Join(faults...)
}

// checkURL refuses a password: the URL becomes an argument of every process,
// for everybody on the machine to read.
func checkURL(text string) error {
	u, err := url.Parse(text)
	if err != nil {
		return errors.New("is not a URL")
	}
	if u.User != nil {
		return errors.New("must not hold a user or password")
	}
	return nil
}
