package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

const patience = 30 * time.Second

// world is a NATS server and an issuer of tokens.
type world struct {
	nats   *bustest.Server
	bus    *bus.Conn
	issuer nkeys.KeyPair
}

func newWorld(t *testing.T) *world {
	t.Helper()
	issuer, err := nkeys.CreateAccount()
	require.NoError(t, err)
	server := bustest.Start(t)
	return &world{nats: server, bus: server.Connect(t), issuer: issuer}
}

// gatewayRun is a gateway that serves.
type gatewayRun struct {
	*Gateway
	world *world
	log   *safeBuffer
	end   context.CancelFunc
	done  chan error
}

// stop ends the gateway and returns what Run returned.
func (g *gatewayRun) stop(t *testing.T) error {
	t.Helper()
	g.end()
	select {
	case err := <-g.done:
		g.done <- err
		return err
	case <-time.After(30 * time.Second):
		require.FailNow(t, "the gateway does not stop")
		return nil
	}
}

func keyFile(t *testing.T) string {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "gateway.pem")
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	return file
}

func (w *world) config(t *testing.T) Config {
	t.Helper()
	issuer, err := w.issuer.PublicKey()
	require.NoError(t, err)
	cfg, _, err := ParseConfig([]string{
		"--nats-url", w.nats.URL(), "--listen", "127.0.0.1:0", "--key-file", keyFile(t), "--trusted-issuer", issuer,
		"--gateway-drain", "200ms",
	}, nil)
	require.NoError(t, err)
	return cfg
}

// gateway starts a gateway and waits until it is ready.
func (w *world) gateway(t *testing.T, change ...func(*Config)) *gatewayRun {
	t.Helper()
	cfg := w.config(t)
	for _, c := range change {
		c(&cfg)
	}
	g := w.launch(t, cfg)
	require.Eventually(t, func() bool { return g.ready(t) == http.StatusOK }, patience, 5*time.Millisecond)
	return g
}

// launch starts a gateway and does not wait.
func (w *world) launch(t *testing.T, cfg Config) *gatewayRun {
	t.Helper()
	log := &safeBuffer{}
	out := io.Writer(log)
	if cfg.recent == nil {
		cfg.recent = newRecentLog(log)
		out = cfg.recent
	}
	logger, err := daemon.Logger(out, "debug", "gateway")
	require.NoError(t, err)
	inner, err := New(t.Context(), cfg, logger)
	require.NoError(t, err)
	ctx, end := context.WithCancel(context.Background())
	g := &gatewayRun{Gateway: inner, world: w, log: log, end: end, done: make(chan error, 1)}
	go func() { g.done <- inner.Run(ctx) }()
	t.Cleanup(func() {
		_ = g.stop(t)
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return g
}

func (g *gatewayRun) ready(t *testing.T) int {
	t.Helper()
	status, _ := g.get(t, "/readyz", "")
	return status
}

// get asks the gateway over HTTP.
func (g *gatewayRun) get(t *testing.T, path, token string) (int, map[string]any) {
	t.Helper()
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, "http://"+g.Addr()+path, nil)
	require.NoError(t, err)
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}
	answer, err := client.Do(request)
	if err != nil {
		return 0, nil
	}
	defer answer.Body.Close()
	var body map[string]any
	if err := json.NewDecoder(answer.Body).Decode(&body); err != nil {
		body = nil
	}
	return answer.StatusCode, body
}

// grant describes a token.
type grant struct {
	tenant, agent, role string
	scopes              []string
	device              *testDevice // bound to it; else bearer
	expires             time.Time
	issuer              nkeys.KeyPair
}

// token mints an access token.
func (w *world) token(t *testing.T, g grant) string {
	t.Helper()
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	subject, err := user.PublicKey()
	require.NoError(t, err)
	if g.device != nil {
		encoded, err := nkeys.Encode(nkeys.PrefixByteUser, g.device.public)
		require.NoError(t, err)
		subject = string(encoded)
	}
	claims := jwt.NewUserClaims(subject)
	claims.BearerToken = g.device == nil
	claims.Tags = jwt.TagList{"tenant:" + or(g.tenant, "acme"), "role:" + or(g.role, "client")}
	if g.agent != "" {
		claims.Tags = append(claims.Tags, "agent:"+g.agent)
	}
	for _, scope := range g.scopes {
		claims.Tags = append(claims.Tags, "scope:"+scope)
	}
	if !g.expires.IsZero() {
		claims.Expires = g.expires.Unix()
	}
	issuer := g.issuer
	if issuer == nil {
		issuer = w.issuer
	}
	text, err := claims.Encode(issuer)
	require.NoError(t, err)
	return text
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// stored is a message of EVENTS.
type stored struct {
	subject, id string
	seq         uint64
	event       subjects.Event
}

// events returns what is stored on subjects that match the filter.
func (w *world) events(t *testing.T, filter string) []stored {
	t.Helper()
	stream, err := w.bus.JS().Stream(t.Context(), subjects.StreamEvents)
	require.NoError(t, err)
	info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(filter))
	require.NoError(t, err)
	want := uint64(0)
	for _, n := range info.State.Subjects {
		want += n
	}
	if want == 0 {
		return nil
	}
	consumer, err := stream.OrderedConsumer(t.Context(), jetstream.OrderedConsumerConfig{FilterSubjects: []string{filter}})
	require.NoError(t, err)
	var out []stored
	for range want {
		msg, err := consumer.Next(jetstream.FetchMaxWait(patience))
		require.NoError(t, err)
		event, err := subjects.DecodeEvent(msg.Data())
		require.NoError(t, err)
		meta, err := msg.Metadata()
		require.NoError(t, err)
		out = append(out, stored{msg.Subject(), msg.Headers().Get(jetstream.MsgIDHeader), meta.Sequence.Stream, event})
	}
	return out
}

// lastSeq is the end of EVENTS.
func (w *world) lastSeq(t *testing.T) uint64 {
	t.Helper()
	stream, err := w.bus.JS().Stream(t.Context(), subjects.StreamEvents)
	require.NoError(t, err)
	return stream.CachedInfo().State.LastSeq
}

// presence plays the presence service: it writes rows and announces them.
type presence struct {
	bus  *bus.Conn
	kv   *bus.KV
	rows map[string]uint64
}

func (w *world) presence(t *testing.T) *presence {
	t.Helper()
	kv, err := w.bus.Bucket(t.Context(), subjects.BucketPresence)
	require.NoError(t, err)
	return &presence{bus: w.bus, kv: kv, rows: map[string]uint64{}}
}

// write stores a row and returns its revision.
func (p *presence) write(ctx context.Context, key string, row any) (uint64, error) {
	data, err := json.Marshal(row)
	if err != nil {
		return 0, err
	}
	revision, err := p.kv.Save(ctx, key, data, p.rows[key], 0)
	p.rows[key] = revision
	return revision, err
}

// status gives an agent a status and announces the change.
func (p *presence) status(ctx context.Context, tenant, agent string, status, previous subjects.Status) error {
	row := subjects.OfflineAgent(agent)
	row.Status, row.Previous, row.Since = status, previous, time.Now().UTC()
	revision, err := p.write(ctx, subjects.AgentKey(tenant, agent), row)
	if err != nil {
		return err
	}
	return p.announce(ctx, tenant, agent, status, previous, revision)
}

func (p *presence) announce(ctx context.Context, tenant, agent string, status, previous subjects.Status, revision uint64) error {
	subject := subjects.AgentPresence(tenant, agent)
	event, err := subjects.NewEvent(subjects.NewID(), subject.Type(), time.Now(), subjects.Scope{Kind: subjects.ScopeAgent, ID: agent},
		subjects.PresenceChanged{AgentID: agent, Status: status, Previous: previous, Reason: "connected", Since: time.Now().UTC()})
	if err != nil {
		return err
	}
	data, err := json.Marshal(event)
	if err != nil {
		return err
	}
	_, err = p.bus.Publish(ctx, bus.Message{
		Subject: subject.String(), ID: event.EventID, Data: data,
		Header: nats.Header{subjects.HeaderRowRevision: {strconv.FormatUint(revision, 10)}},
	})
	return err
}

// safeBuffer is a log that may be read while it is written.
type safeBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func quietLog() zerolog.Logger { return zerolog.Nop() }
