package up

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"rollcall/scripts/broker"
	"rollcall/scripts/demo"
	"rollcall/scripts/internal/file"
	"rollcall/scripts/keys"
	"rollcall/scripts/token"
	"rollcall/scripts/trust"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

const (
	readyTimeout = 30 * time.Second
	// operatorTTL outlasts any session at a desk; each start issues new tokens.
	operatorTTL = 30 * 24 * time.Hour
	// gatewaysFile is where bin/rollcall looks for gateways.
	gatewaysFile = "gateway.urls"
)

// stack is everything that runs.
type stack struct {
	config  Config
	ring    *keys.Ring
	ports   ports
	nats    *broker.Broker // nil when NATS is elsewhere, or in nodes
	nodes   []*process
	natsLog *os.File
	crew    *crew
	demo    *issued

	gateways, presence, lease []*process
	instances                 []ed25519.PublicKey // of the gateways
	tokens                    map[string]string   // of the tenants' operators
	agents                    sync.WaitGroup
	// told is done when the gateways have been told whose tokens count.
	told sync.WaitGroup
}

// Run starts everything, says so on stdout and runs until ctx ends.
func Run(ctx context.Context, c Config, stdout, stderr io.Writer) error {
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return fmt.Errorf("find directory: %w", err)
	}
	c.Dir = dir
	if err := findBinaries(c); err != nil {
		return err
	}
	lock, err := acquire(c.Dir)
	if err != nil {
		return err
	}
	defer lock.release()
	s := &stack{config: c, tokens: map[string]string{}, crew: newCrew(ctx, c, stderr), demo: newIssued()}
	defer s.crew.dismiss()
	if err := s.run(ctx, stdout); err != nil && ctx.Err() == nil {
		return err
	}
	return nil
}

// findBinaries looks for what is going to be started, before anything is.
func findBinaries(c Config) error {
	var faults []error
	for binary, count := range map[string]int{"gateway": c.Gateways, "presence": c.Presence, "lease": c.Lease} {
		if count == 0 {
			continue
		}
		if _, err := os.Stat(filepath.Join(c.Bin, binary)); err != nil {
			faults = append(faults, fmt.Errorf("find binary %s (make build makes it): %w", binary, err))
		}
	}
	return errors.Join(faults...)
}

func (s *stack) run(ctx context.Context, stdout io.Writer) error {
	// In reverse order of the starts, whatever of them has happened.
	defer s.stop()
	if err := s.prepare(ctx); err != nil {
		return err
	}
	if err := s.start(ctx); err != nil {
		return err
	}
	telling, stopTelling := context.WithTimeout(ctx, readyTimeout)
	defer s.told.Wait()
	defer stopTelling()
	s.told.Go(func() { s.tell(telling) })
	if err := s.await(ctx); err != nil {
		return err
	}
	fleet, cancel := context.WithCancel(ctx)
	defer s.agents.Wait()
	defer cancel()
	if err := s.populate(fleet); err != nil {
		return err
	}
	if err := s.writeGateways(); err != nil {
		return err
	}
	if err := s.announce(stdout); err != nil {
		return fmt.Errorf("print: %w", err)
	}
	<-ctx.Done()
	return nil
}

// prepare makes directories, keys, tokens and credentials, and chooses the
// ports.
func (s *stack) prepare(ctx context.Context) error {
	for _, name := range []string{"logs", "tokens", "nats", filepath.Join("nats-cli", "nats", "context")} {
		if err := os.MkdirAll(filepath.Join(s.config.Dir, name), 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	var err error
	if s.ring, err = keys.Create(s.config.Dir); err != nil {
		return err
	}
	for _, tenant := range s.config.Tenants {
		grant := token.Grant{Tenant: tenant, Role: "client", Scopes: []string{"operator.read", "operator.write"}, TTL: operatorTTL}
		if s.tokens[tenant], err = token.Mint(s.ring, grant, time.Now()); err != nil {
			return err
		}
		if err := file.Replace(s.tokenFile(tenant), []byte(s.tokens[tenant]+"\n")); err != nil {
			return err
		}
	}
	if err := s.prepareCreds(); err != nil {
		return err
	}
	if err := errors.Join(s.checkStore(), s.keepSecret()); err != nil {
		return err
	}
	s.ports, err = assign(ctx, s.config)
	if err != nil {
		return err
	}
	if err := file.Replace(filepath.Join(s.config.Dir, trust.URLFile), []byte(s.natsURL()+"\n")); err != nil {
		return err
	}
	return s.writeContexts()
}

func (s *stack) tokenFile(tenant string) string {
	return filepath.Join(s.config.Dir, "tokens", tenant+".operator")
}

// start starts NATS and every process, in the order in which they stop in
// reverse. The services wait for no other.
func (s *stack) start(ctx context.Context) error {
	switch {
	case s.config.NATSNodes > 0:
		if err := s.startNodes(ctx); err != nil {
			return err
		}
	case s.config.NATSURL == "":
		var err error
		if s.nats, err = s.startBroker(); err != nil {
			return err
		}
	}
	if err := s.startAll(&s.lease, "lease", s.ports.lease); err != nil {
		return err
	}
	if err := s.startAll(&s.presence, "presence", s.ports.presence); err != nil {
		return err
	}
	for n, port := range s.ports.gateways {
		path, public, err := s.ring.Gateway(n)
		if err != nil {
			return err
		}
		name := processName("gateway", n)
		args := append(s.natsArgs(name), "--key-file", path, "--operator-key", s.ring.Operator(), "--account-key", s.ring.Account())
		p, err := s.crew.start(name, "gateway", port, append(args, s.tailArgs()...)...)
		if err != nil {
			return err
		}
		s.gateways, s.instances = append(s.gateways, p), append(s.instances, public)
	}
	return nil
}

func (s *stack) startAll(into *[]*process, binary string, ports []int) error {
	for n, port := range ports {
		name := processName(binary, n)
		p, err := s.crew.start(name, binary, port, s.natsArgs(name)...)
		if err != nil {
			return err
		}
		*into = append(*into, p)
	}
	return nil
}

func (s *stack) natsURL() string {
	if s.config.NATSURL != "" {
		return s.config.NATSURL
	}
	if len(s.ports.nodes) == 0 {
		return "nats://" + address(s.ports.nats)
	}
	var urls []string
	for _, n := range s.ports.nodes {
		urls = append(urls, "nats://"+address(n.client))
	}
	return strings.Join(urls, ",")
}

// replicas is how many copies there are of everything.
func (s *stack) replicas() int { return max(s.config.NATSNodes, 1) }

// await waits until every process is ready. When one is not, its last words
// are shown.
func (s *stack) await(ctx context.Context) error {
	return s.awaitAll(ctx, s.lease, s.presence, s.gateways)
}

func (s *stack) awaitAll(ctx context.Context, groups ...[]*process) error {
	bounded, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	for _, group := range groups {
		for i := range group {
			err := s.awaitOne(bounded, &group[i])
			p := group[i]
			if err != nil && ctx.Err() == nil {
				s.crew.say("up: %s wrote last (%s):\n%s", p.name, p.log, p.lastLines())
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// portTries is how often a process gets another port because the one that was
// found free for it was taken before it listened.
const portTries = 3

// writeGateways says where the gateways are. A port may have changed until now.
func (s *stack) writeGateways() error {
	var urls strings.Builder
	for _, p := range s.gateways {
		urls.WriteString(p.url + "\n")
	}
	return file.Replace(filepath.Join(s.config.Dir, gatewaysFile), []byte(urls.String()))
}

// awaitOne waits until a process is ready. With automatic ports one that found
// its port taken is started again on another.
func (s *stack) awaitOne(ctx context.Context, p **process) error {
	for try := 1; ; try++ {
		err := (*p).ready(ctx)
		taken := err != nil && !(*p).alive() && strings.Contains((*p).lastLines(), "address already in use")
		if !taken || (*p).again == nil || s.config.Ports != portsAuto || try == portTries {
			return err
		}
		next, err := assign(ctx, Config{Ports: portsAuto, NATSURL: "none", Lease: 1})
		if err != nil {
			return err
		}
		again, err := (*p).again(next.lease[0])
		if err != nil {
			return err
		}
		*p = again
	}
}

// populate starts the demo agents, if there are to be any.
func (s *stack) populate(ctx context.Context) error {
	if s.config.Agents == 0 {
		return nil
	}
	output, err := openLog(s.config.Dir, "agents")
	if err != nil {
		return err
	}
	log, err := daemon.Logger(output, "info", "agents")
	if err != nil {
		return err
	}
	fleet := demo.Fleet{Size: s.config.Agents, Tenants: s.config.Tenants, Pace: 1, Log: log, Token: s.agentToken}
	for _, g := range s.gateways {
		fleet.URLs = append(fleet.URLs, socketURL(g))
	}
	s.agents.Go(func() {
		defer func() { _ = output.Close() }()
		fleet.Run(ctx)
	})
	return nil
}

// agentToken is a token for a demo agent, who comes back with the same one for
// half its life, unless it is revoked.
func (s *stack) agentToken(tenant, agent string) (string, error) {
	grant := token.Grant{
		Tenant: tenant, Agent: agent, Role: subjects.RoleClient, Scopes: []string{"lease.use", "events.publish"}, TTL: token.DefaultTTL,
	}
	return s.demo.get(s.ring, tenant+"/"+agent, time.Now(), func(now time.Time) (string, error) { return token.Mint(s.ring, grant, now) })
}

// stop ends what runs, dependents first. Demo agents are gone by then.
func (s *stack) stop() {
	for _, group := range [][]*process{s.gateways, s.presence, s.lease, s.nodes} {
		s.crew.stop(group)
	}
	if s.nats != nil {
		s.nats.Stop()
	}
	if s.natsLog != nil {
		_ = s.natsLog.Close()
	}
}
