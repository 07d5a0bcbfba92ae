package up

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"rollcall/scripts/broker"
	"rollcall/scripts/internal/file"
	"rollcall/scripts/keys"
	"rollcall/scripts/token"
	"rollcall/scripts/trust"
	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

const (
	adminName  = "admin"
	systemName = "system"
	// replayName is where bin/replay looks for its credentials.
	replayName = "replay"
	// adminContext is the operator's context; no tenant can be called that.
	adminContext = "_admin"
	// tailTTL outlasts any session at a desk, as operatorTTL does; credentials
	// past half of it are made again at a start.
	tailTTL = 30 * 24 * time.Hour
)

func processName(kind string, n int) string { return kind + "-" + strconv.Itoa(n) }

// tailName names a tenant's credentials for listening.
func tailName(tenant string) string { return tenant + ".tail" }

// prepareCreds makes the credentials of every process, of the operator and of
// whoever listens to a tenant. A server that is not ours gets those it knows.
func (s *stack) prepareCreds() error {
	users := map[string]keys.User{adminName: {Role: access.Admin}, systemName: {Role: keys.System}, replayName: {Role: access.Replay}}
	for kind, count := range map[access.Role]int{access.Presence: s.config.Presence, access.Lease: s.config.Lease} {
		for n := range count {
			users[processName(string(kind), n)] = keys.User{Role: kind}
		}
	}
	for n := range s.config.Gateways {
		_, public, err := s.ring.Gateway(n)
		if err != nil {
			return err
		}
		id, err := subjects.InstanceID(public)
		if err != nil {
			return err
		}
		users[processName("gateway", n)] = keys.User{Role: access.Gateway, Name: id}
	}
	for _, tenant := range s.config.Tenants {
		users[tailName(tenant)] = keys.User{Role: access.Tail, Tenant: tenant, TTL: tailTTL}
	}
	for name, user := range users {
		if err := s.ring.KeepCreds(s.ring.CredsFile(name), user, time.Now()); err != nil {
			return err
		}
	}
	return s.checkCreds()
}

// checkCreds looks for the credentials of a server that is not ours, before
// anything starts.
func (s *stack) checkCreds() error {
	if s.config.NATSCredsDir == "" {
		return nil
	}
	names := []string{adminName}
	for kind, count := range map[string]int{"gateway": s.config.Gateways, "presence": s.config.Presence, "lease": s.config.Lease} {
		for n := range count {
			names = append(names, processName(kind, n))
		}
	}
	var faults []error
	for _, name := range names {
		if _, err := bus.UserOf(s.credsFile(name)); err != nil {
			faults = append(faults, err)
		}
	}
	return errors.Join(faults...)
}

// credsFile is where a process's credentials are; empty when NATS asks for none.
func (s *stack) credsFile(name string) string {
	switch {
	case s.config.NATSURL == "":
		return s.ring.CredsFile(name)
	case s.config.NATSCredsDir != "":
		return filepath.Join(s.config.NATSCredsDir, name+".creds")
	default:
		return ""
	}
}

// natsArgs tell a process where NATS is and who it is there.
func (s *stack) natsArgs(name string) []string {
	args := []string{"--nats-url", s.natsURL()}
	if replicas := s.replicas(); replicas > 1 {
		args = append(args, "--replicas", strconv.Itoa(replicas))
	}
	if s.config.NATSURL == "" {
		args = append(args, "--nats-sync", s.config.NATSSync)
	}
	if s.config.NATSCA != "" {
		args = append(args, "--nats-ca", s.config.NATSCA)
	}
	if creds := s.credsFile(name); creds != "" {
		args = append(args, "--nats-creds", creds)
	}
	return args
}

// startBroker runs the embedded server with its store and log in the directory.
func (s *stack) startBroker() (*broker.Broker, error) {
	var err error
	if s.natsLog, err = openLog(s.config.Dir, "nats"); err != nil {
		return nil, err
	}
	log, err := daemon.Logger(s.natsLog, "info", "nats")
	if err != nil {
		return nil, err
	}
	return broker.Start(broker.Config{
		Host: loopback, Client: s.ports.nats, WebSocket: s.ports.websocket, Monitor: s.ports.monitor,
		Store: storeOf(s.config.Dir, ""), Ring: s.ring, Log: log, SyncAlways: s.config.NATSSync == syncAlways,
	})
}

// tell puts the account where gateways read whose tokens count; they are not
// ready before. It tries until ctx ends, like them.
func (s *stack) tell(ctx context.Context) {
	err := trust.PushSettings(ctx, s.ring, trust.Target{URL: s.natsURL(), CA: s.config.NATSCA, Admin: s.credsFile(adminName), Replicas: s.replicas()})
	if err != nil && !errors.Is(ctx.Err(), context.Canceled) {
		s.crew.say("up: the gateways could not be told whose tokens count: %v", err)
	}
}

// vouches reports whether the server takes the word of this directory's keys.
func (s *stack) vouches() bool {
	return s.config.NATSURL == "" || filepath.Clean(s.config.NATSCredsDir) == filepath.Dir(s.ring.CredsFile(adminName))
}

// tailArgs let a gateway give credentials for listening.
func (s *stack) tailArgs() []string {
	if !s.vouches() {
		return nil
	}
	args := []string{"--tail-key-file", s.ring.SigningFile(access.Tail)}
	if s.nats != nil {
		args = append(args, "--tail-url", "ws://"+address(s.ports.websocket))
	}
	return args
}

// tailCreds are a tenant's credentials for listening; empty where they would not
// be known, or not be asked for.
func (s *stack) tailCreds(tenant string) (string, error) {
	if !s.vouches() {
		return "", nil
	}
	data, err := os.ReadFile(s.ring.CredsFile(tailName(tenant)))
	if err != nil {
		return "", fmt.Errorf("read creds: %w", err)
	}
	return string(data), nil
}

// cliHome is what XDG_CONFIG_HOME has to be for the nats command to find the
// contexts below.
func (s *stack) cliHome() string { return filepath.Join(s.config.Dir, "nats-cli") }

// natsContext is a context of the nats command.
type natsContext struct {
	Description string `json:"description"`
	URL         string `json:"url"`
	Creds       string `json:"creds"`
	InboxPrefix string `json:"inbox_prefix"`
}

// writeContexts writes a context for each tenant's listener and one for the
// operator.
func (s *stack) writeContexts() error {
	for _, name := range append([]string{adminContext}, s.config.Tenants...) {
		creds := s.contextCreds(name)
		about := natsContext{Description: "rollcall " + name, URL: s.natsURL(), Creds: creds}
		if creds != "" {
			user, err := bus.UserOf(creds)
			if errors.Is(err, os.ErrNotExist) {
				continue // of another server, which has no such user
			}
			if err != nil {
				return err
			}
			about.InboxPrefix = access.InboxPrefix(user)
		}
		data, err := json.MarshalIndent(about, "", "  ")
		if err != nil {
			return fmt.Errorf("encode context: %w", err)
		}
		if err := file.Replace(filepath.Join(s.cliHome(), "nats", "context", name+".json"), append(data, '\n')); err != nil {
			return err
		}
	}
	return nil
}

// contextCreds are the credentials of a context: a tenant's are its tail's.
func (s *stack) contextCreds(name string) string {
	if name == adminContext {
		return s.credsFile(adminName)
	}
	return s.credsFile(tailName(name))
}

// contextOf is the context that hears a tenant: its own, or the operator's where
// the server knows no user who may do no more.
func (s *stack) contextOf(tenant string) string {
	if creds := s.contextCreds(tenant); creds != "" {
		if _, err := os.Stat(creds); err != nil {
			return adminContext
		}
	}
	return tenant
}

// issued are tokens that are used again for half of their life.
type issued struct {
	mu     sync.Mutex
	tokens map[string]issuedToken
}

type issuedToken struct {
	text  string
	until time.Time
}

func newIssued() *issued { return &issued{tokens: map[string]issuedToken{}} }

func (i *issued) get(ring *keys.Ring, who string, now time.Time, mint func(now time.Time) (string, error)) (string, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if t, ok := i.tokens[who]; ok && now.Before(t.until) && ring.Counts(t.text) {
		return t.text, nil
	}
	text, err := mint(now)
	if err == nil {
		i.tokens[who] = issuedToken{text: text, until: now.Add(token.DefaultTTL / 2)}
	}
	return text, err
}
