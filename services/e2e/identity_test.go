package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/broker"
	"rollcall/scripts/keys"
	"rollcall/scripts/token"
	"rollcall/shared/bus"
	"rollcall/shared/client"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// tool runs a subcommand of bin/token, which must succeed, and returns what it
// says.
func (s *stack) tool(t *testing.T, command string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "token"), append([]string{command, "--dir", s.Dir}, args...)...)
	cmd.Env = environment()
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s %q: %s", command, args, stderr.String())
	return strings.TrimSpace(string(out))
}

// issued is a line of bin/token list --json.
type issued struct {
	ID      string `json:"id"`
	Kind    string `json:"kind"`
	Tenant  string `json:"tenant"`
	Agent   string `json:"agent"`
	Revoked bool   `json:"revoked"`
}

// listed asks bin/token for what was issued to an agent of acme last.
func (s *stack) listed(t *testing.T, agent string) issued {
	t.Helper()
	var last issued
	for line := range strings.Lines(s.tool(t, "list", "--json", "--all")) {
		var one issued
		decode(t, []byte(line), &one)
		if one.Agent == agent {
			last = one
		}
	}
	require.NotEmpty(t, last.ID, "nothing was issued to %s", agent)
	return last
}

// enter connects with a token as it is.
func (s *stack) enter(t *testing.T, g gateway, text string, o client.Options) *client.Conn {
	t.Helper()
	o.URL, o.Token = g.WSURL, text
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := client.Dial(ctx, o)
	require.NoError(t, err)
	t.Cleanup(func() { cut(conn) })
	return conn
}

// requireThrownOut waits until the gateway closes a connection for its token.
func requireThrownOut(t *testing.T, conn *client.Conn) {
	t.Helper()
	await(t, "end of a revoked connection", func() bool {
		select {
		case <-conn.Done():
			return true
		default:
			return false
		}
	})
	var closed *client.CloseError
	require.ErrorAs(t, conn.Err(), &closed)
	require.Equal(t, 4001, closed.Code)
	require.Equal(t, "token revoked", closed.Reason)
}

// requireShut waits until no gateway lets a token in.
func (s *stack) requireShut(t *testing.T, text string) {
	t.Helper()
	for _, g := range s.Gateways {
		await(t, "a revoked token is refused", func() bool { return s.raw(t, g, text).code() == 4001 })
	}
}

// TestRevocation holds that bin/token ends tokens on all gateways at once, one,
// those of a device, or a whole tenant's, and nothing else.
func TestRevocation(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "1", "--lease", "1", "--tenant", acme, "--tenant", "globex"}})
	a, b := s.Gateways[0], s.Gateways[1]
	j := s.journal()
	key := newKey(t)
	one := s.token(t, "--tenant", acme, "--agent", "one")
	spared := s.token(t, "--tenant", acme, "--agent", "spared")
	bound := s.token(t, "--tenant", acme, "--agent", "bound", "--device", client.EncodePublicKey(public(key)))
	here, there := s.enter(t, a, one, client.Options{}), s.enter(t, b, one, client.Options{})
	safe, device := s.enter(t, b, spared, client.Options{}), s.enter(t, b, bound, client.Options{Key: key})

	require.Contains(t, s.tool(t, "revoke", "--id", s.listed(t, "one").ID), "in force at "+s.NATSURL)
	requireThrownOut(t, here)
	requireThrownOut(t, there)
	require.Equal(t, subjects.ClosedTokenRevoked, j.awaitClosed(here.Welcome().ClientID).Reason)
	s.requireShut(t, one)
	require.True(t, s.listed(t, "one").Revoked)
	require.False(t, s.listed(t, "spared").Revoked)

	s.tool(t, "revoke", "--device", client.EncodePublicKey(public(key)))
	requireThrownOut(t, device)
	again := s.token(t, "--tenant", acme, "--agent", "bound", "--device", client.EncodePublicKey(public(key)))
	back := s.enter(t, b, again, client.Options{Key: key})

	// What is revoked stays so for a gateway that starts later.
	restarted := s.kill(a.PID)
	s.run(restarted, a.URL)
	s.requireShut(t, one)
	s.enter(t, a, spared, client.Options{})

	globex := s.connect(t, b, token.Grant{Tenant: "globex", Agent: "neighbor"}, client.Options{})
	s.tool(t, "revoke", "--tenant", acme)
	requireThrownOut(t, safe)
	requireThrownOut(t, back)
	s.requireShut(t, s.Tenants[acme].OperatorToken)
	_, err := globex.Beacon(t.Context(), client.Report{})
	require.NoError(t, err)
	var page listing
	require.Equal(t, 200, s.get(t, a, "/presence", s.Tenants["globex"].OperatorToken, &page))
	_, err = nats.Connect(s.NATSURL, nats.UserCredentials(s.ring.CredsFile(acme+".tail")))
	require.ErrorIs(t, err, nats.ErrAuthorization, "the tenant's credentials for NATS end too")
	s.enter(t, a, s.token(t, "--tenant", acme, "--agent", "new"), client.Options{})
}

// TestRotation holds that every key is replaced while everything runs: the
// processes go on as the same users, and peers with old tokens until the old key
// is removed.
func TestRotation(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"}})
	g := s.Gateways[0]
	j := s.journal()
	operator := s.Tenants[acme].OperatorToken
	old := s.token(t, "--tenant", acme, "--agent", "old")
	conn := s.enter(t, g, old, client.Options{})
	before := s.signers(t)
	for _, role := range []access.Role{access.Agent, access.Gateway, access.Presence, access.Lease} {
		s.tool(t, "rotate", "--role", string(role))
	}
	s.enter(t, g, old, client.Options{})
	young := s.enter(t, g, s.token(t, "--tenant", acme, "--agent", "young"), client.Options{})
	for _, role := range []access.Role{access.Gateway, access.Presence, access.Lease} {
		s.tool(t, "rotate", "--remove", before[role])
	}

	// The processes were thrown out of NATS, and are back.
	await(t, "the processes are ready again", func() bool {
		return ready(t, g.URL) && ready(t, s.Presence[0].URL) && ready(t, s.Lease[0].URL)
	})
	j.awaitStatuses("old", subjects.StatusOnline)
	_, err := conn.Beacon(t.Context(), client.Report{})
	require.NoError(t, err)
	s.tool(t, "rotate", "--remove", before[access.Agent])
	requireThrownOut(t, conn)
	j.awaitStatuses("old", subjects.StatusOnline, subjects.StatusOffline)
	_, err = young.Beacon(t.Context(), client.Report{})
	require.NoError(t, err)
	var page listing
	require.Equal(t, 200, s.get(t, g, "/presence", operator, &page), "operators have a key of their own")
}

// signers are the keys that sign, by role.
func (s *stack) signers(t *testing.T) map[access.Role]string {
	t.Helper()
	out := map[access.Role]string{}
	for line := range strings.Lines(s.tool(t, "list", "--keys", "--json")) {
		var one keys.Signer
		decode(t, []byte(line), &one)
		if one.Current {
			out[one.Role] = one.Public
		}
	}
	require.Len(t, out, len(access.Roles()))
	return out
}

// TestProducersAndListeners holds that a program outside of rollcall can store
// events of its tenant and hear what is said there, with credentials of bin/token
// and of up's line.
func TestProducersAndListeners(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "1", "--lease", "1", "--tenant", acme, "--tenant", "globex"}})
	heard, err := s.core(t).SubscribeSync("tenant." + acme + ".>")
	require.NoError(t, err)
	file := s.tool(t, "creds", "--role", "producer", "--tenant", acme, "--ttl", "1h")
	user, err := bus.UserOf(file)
	require.NoError(t, err)
	nc, err := nats.Connect(s.NATSURL, nats.UserCredentials(file), nats.CustomInboxPrefix(access.InboxPrefix(user)))
	require.NoError(t, err)
	defer nc.Close()
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	event, err := subjects.NewEvent(subjects.NewID(), "run.started", time.Now(), subjects.Scope{Kind: "global"}, map[string]string{"run": "1"})
	require.NoError(t, err)
	data, err := json.Marshal(event)
	require.NoError(t, err)
	ack, err := js.PublishMsg(t.Context(), &nats.Msg{
		Subject: subjects.ProducerEvent(acme, event.Type).String(), Data: data, Header: nats.Header{nats.MsgIdHdr: {event.EventID}},
	})
	require.NoError(t, err)
	require.Equal(t, subjects.StreamEvents, ack.Stream)
	msg, err := heard.NextMsg(patience)
	require.NoError(t, err)
	require.JSONEq(t, string(data), string(msg.Data))

	for _, subject := range []string{"tenant.globex.event.run.started", "$JS.API.STREAM.INFO.EVENTS", "$JS.API.INFO", "tenant." + acme + ".presence.agent.a.changed"} {
		_, err := nc.Request(subject, data, 300*time.Millisecond)
		require.Error(t, err, subject)
		require.Contains(t, nc.LastError().Error(), subject)
	}
}

// TestOlderDirectoryGetsAnOperator holds that tokens of a time before there was
// one are good still.
func TestOlderDirectoryGetsAnOperator(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "stack")
	require.NoError(t, os.Mkdir(dir, 0o700))
	pairs := map[string]nkeys.KeyPair{}
	for _, name := range []string{"account.nk", "signing.nk"} {
		pair, err := nkeys.CreateAccount()
		require.NoError(t, err)
		seed, err := pair.Seed()
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), append(seed, '\n'), 0o600))
		pairs[name] = pair
	}
	account, err := pairs["account.nk"].PublicKey()
	require.NoError(t, err)
	sign := func(tags ...string) string {
		claims := acmeClaims(t)
		claims.IssuerAccount = account
		claims.Tags.Add(tags...)
		claims.Pub.Deny.Add(">")
		claims.Sub.Deny.Add(">")
		text, err := claims.Encode(pairs["signing.nk"])
		require.NoError(t, err)
		return text
	}

	s := newStack(t, options{dir: dir, args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"}})
	s.enter(t, s.Gateways[0], sign("agent:veteran"), client.Options{})
	operator := sign("scope:operator.read")
	await(t, "the veteran in the listing", func() bool {
		var page listing
		return s.get(t, s.Gateways[0], "/presence", operator, &page) == 200 && page.Total == 1
	})
	_, err = nats.Connect(s.NATSURL, nats.UserJWT(func() (string, error) { return operator, nil }, func([]byte) ([]byte, error) { return nil, nil }))
	require.ErrorIs(t, err, nats.ErrAuthorization, "on NATS it is useless, as ever")
}

// TestUpWithAServerThatAsks holds that up can use a server of others that asks
// who comes, given credentials for it.
func TestUpWithAServerThatAsks(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "stack")
	ring, err := keys.Create(dir)
	require.NoError(t, err)
	server, err := broker.Start(broker.Config{
		Host: "127.0.0.1", Client: -1, WebSocket: -1, Monitor: -1, Store: t.TempDir(), Ring: ring, Log: zerolog.Nop(),
	})
	require.NoError(t, err)
	t.Cleanup(server.Stop)
	creds := filepath.Dir(ring.CredsFile("admin"))

	// Without them nothing comes up, and up says why.
	refused := upCommand(options{dir: filepath.Join(t.TempDir(), "other"), args: []string{"--nats-url", server.URL(), "--nats-creds-dir", t.TempDir()}})
	var stderr strings.Builder
	refused.Stderr = &stderr
	require.NotZero(t, start(t, refused).exit(t))
	require.Contains(t, stderr.String(), "gateway-0.creds")

	s := newStack(t, options{dir: dir, external: true, args: []string{
		"--nats-url", server.URL(), "--nats-creds-dir", creds, "--gateways", "1", "--presence", "1", "--lease", "1", "--agents", "2",
	}})
	require.NotEmpty(t, s.Tenants[acme].TailCreds)
	await(t, "two demo agents", func() bool { return s.total(t, s.Gateways[0], acme) == 2 })
	text := s.token(t, "--tenant", acme, "--agent", "guest")
	conn := s.enter(t, s.Gateways[0], text, client.Options{})
	s.tool(t, "revoke", "--id", s.listed(t, "guest").ID)
	requireThrownOut(t, conn)
}

// TestRevokeSaysWhenNobodyHears holds that a revocation that could not be
// delivered fails, and counts from the next start on.
func TestRevokeSaysWhenNobodyHears(t *testing.T) {
	t.Parallel()
	o := options{dir: filepath.Join(t.TempDir(), "stack"), args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"}}
	first := newStack(t, o)
	text := first.token(t, "--tenant", acme, "--agent", "late")
	id := first.listed(t, "late").ID
	first.enter(t, first.Gateways[0], text, client.Options{})
	first.stop()

	cmd := exec.CommandContext(t.Context(), filepath.Join(binaries, "token"), "revoke", "--dir", o.dir, "--id", id)
	cmd.Env = environment()
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	require.True(t, errors.As(err, &exit), "%s", out)
	require.Contains(t, string(out), "in force nowhere yet")

	again := newStack(t, o)
	again.requireShut(t, text)
	claims, err := jwt.DecodeUserClaims(text)
	require.NoError(t, err)
	require.True(t, again.ring.Counts(first.Tenants[acme].OperatorToken))
	require.NotEmpty(t, claims.Subject)
}
