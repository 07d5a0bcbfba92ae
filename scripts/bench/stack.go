package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"rollcall/scripts/keys"
	"rollcall/scripts/token"
)

const (
	startTimeout = time.Minute
	// stopTimeout is more than up gives its processes.
	stopTimeout = 40 * time.Second
	// gateways: one for those who act, one for those who watch.
	gatewayCount = "2"
)

// stack is a running bin/up.
type stack struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	ring   *keys.Ring
	said   saved
	// foreign says that NATS is not the stack's own.
	foreign bool

	NATSURL  string `json:"nats_url"`
	Gateways []struct {
		PID   int    `json:"pid"`
		WSURL string `json:"ws_url"`
	} `json:"gateways"`
}

// saved keeps the first bytes of what up writes to stderr.
type saved struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const savedMost = 16 << 10

// Write implements io.Writer; what is over the bound is dropped.
func (s *saved) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.text.Write(p[:min(len(p), max(0, savedMost-s.text.Len()))])
	return len(p), nil
}

func (s *saved) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// startStack runs up in dir and waits until all is ready.
func startStack(ctx context.Context, c Config, dir string) (*stack, error) {
	args := []string{"--json", "--ports", "auto", "--dir", dir, "--gateways", gatewayCount, "--tenant", tenant}
	if c.NATSURL != "" {
		args = append(args, "--nats-url", c.NATSURL)
	}
	life, cancel := context.WithCancel(ctx)
	s := &stack{cancel: cancel, foreign: c.NATSURL != "", cmd: exec.CommandContext(life, filepath.Join(c.Bin, "up"), args...)}
	s.cmd.Env, s.cmd.Stderr, s.cmd.SysProcAttr = c.Env, &s.said, stackAttr()
	s.cmd.Cancel = func() error { return s.cmd.Process.Signal(syscall.SIGTERM) }
	s.cmd.WaitDelay = stopTimeout
	stdout, err := s.cmd.StdoutPipe()
	if err == nil {
		err = s.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start the stack (make build makes its binaries): %w", err)
	}
	// A stack that says nothing in time is stopped, which ends the reading.
	late := time.AfterFunc(startTimeout, cancel)
	line, err := bufio.NewReader(stdout).ReadBytes('\n')
	late.Stop()
	if err == nil {
		err = s.open(line, dir)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the stack: %w", err), s.stop())
	}
	return s, nil
}

func (s *stack) open(line []byte, dir string) error {
	if err := json.Unmarshal(line, s); err != nil {
		return fmt.Errorf("read what up printed: %w", err)
	}
	var err error
	s.ring, err = keys.Open(dir)
	return err
}

// nats is where the stack's NATS is.
func (s *stack) nats() place {
	if s.foreign {
		return place{url: s.NATSURL}
	}
	return place{url: s.NATSURL, creds: s.ring.CredsFile("admin")}
}

// stop ends the stack and waits for it. Its error holds what up said.
func (s *stack) stop() error {
	s.cancel()
	// How it ended is of no interest: it was told to.
	_ = s.cmd.Wait()
	if said := s.said.String(); said != "" {
		return errors.New(said)
	}
	return nil
}

// mint issues a token to somebody of a tenant.
func (s *stack) mint(tenantID, agentID string, scopes ...string) (string, error) {
	return token.Mint(s.ring, token.Grant{
		Tenant: tenantID, Agent: agentID, Role: "client", Scopes: scopes, TTL: token.DefaultTTL,
	}, time.Now())
}

// killGateway ends the n-th gateway as a crash would.
func (s *stack) killGateway(n int) error {
	if err := syscall.Kill(s.Gateways[n].PID, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill gateway %d: %w", n, err)
	}
	return nil
}
