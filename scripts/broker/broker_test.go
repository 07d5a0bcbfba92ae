package broker_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/broker"
	"rollcall/scripts/keys"
	"rollcall/scripts/trust"
	"rollcall/shared/bus"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

const (
	patience = 30 * time.Second
	// own and other are instance_ids; the gateway's user is named by the first.
	own   = "dev_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	other = "dev_beaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
)

// house is a server in operator mode with rollcall's streams and buckets.
type house struct {
	*broker.Broker
	ring  *keys.Ring
	admin *bus.Conn
}

func newHouse(t *testing.T) *house {
	t.Helper()
	ring, err := keys.Create(t.TempDir())
	require.NoError(t, err)
	h := &house{ring: ring}
	h.Broker, err = broker.Start(config(t, ring, t.TempDir()))
	require.NoError(t, err)
	t.Cleanup(h.Stop)
	h.admin, err = bus.Connect(t.Context(), bus.Options{
		URL: h.URL(), Name: "test", CredsFile: h.creds(t, keys.User{Role: access.Admin}), Log: zerolog.Nop(),
	})
	require.NoError(t, err)
	t.Cleanup(h.admin.NC().Close)
	for _, s := range subjects.Streams(subjects.DefaultEventsMaxAge) {
		require.NoError(t, h.admin.EnsureStream(t.Context(), bus.Stream(s), 1))
	}
	for _, b := range subjects.Buckets() {
		require.NoError(t, h.admin.EnsureBucket(t.Context(), bus.Bucket(b), 1))
	}
	return h
}

func config(t *testing.T, ring *keys.Ring, store string) broker.Config {
	t.Helper()
	return broker.Config{Host: "127.0.0.1", Client: -1, WebSocket: -1, Monitor: -1, Store: store, Ring: ring, Log: zerolog.Nop()}
}

// creds makes credentials and returns their file.
func (h *house) creds(t *testing.T, u keys.User) string {
	t.Helper()
	path := h.ring.CredsFile(string(u.Role) + u.Tenant + u.Name)
	require.NoError(t, h.ring.KeepCreds(path, u, time.Now()))
	return path
}

// guest is somebody connected.
type guest struct {
	*nats.Conn
	user string
}

// connect lets somebody in.
func (h *house) connect(t *testing.T, u keys.User) guest {
	t.Helper()
	path := h.creds(t, u)
	user, err := bus.UserOf(path)
	require.NoError(t, err)
	nc, err := nats.Connect(h.URL(), nats.UserCredentials(path), nats.CustomInboxPrefix(access.InboxPrefix(user)),
		nats.NoReconnect(), nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	require.NoError(t, err)
	t.Cleanup(nc.Close)
	return guest{nc, user}
}

// refused reports whether the last thing done on a subject was refused.
func (g guest) refused(t *testing.T, subject string) bool {
	t.Helper()
	// The refusal, if there is one, comes before the answer to the flush.
	require.NoError(t, g.FlushTimeout(patience))
	err := g.LastError()
	return err != nil && strings.Contains(strings.ToLower(err.Error()), "permissions violation") && strings.Contains(err.Error(), `"`+subject+`"`)
}

// mayPublish tries to.
func (g guest) mayPublish(t *testing.T, subject string) bool {
	t.Helper()
	require.NoError(t, g.Publish(subject, nil))
	return !g.refused(t, subject)
}

// maySubscribe tries to.
func (g guest) maySubscribe(t *testing.T, subject string) bool {
	t.Helper()
	sub, err := g.SubscribeSync(subject)
	require.NoError(t, err)
	defer func() { _ = sub.Unsubscribe() }()
	return !g.refused(t, subject)
}

// row reads a row of LEASES.
func (h *house) row(t *testing.T, key string) string {
	t.Helper()
	kv, err := h.admin.Bucket(t.Context(), subjects.BucketLeases)
	require.NoError(t, err)
	entry, err := kv.Get(t.Context(), key)
	require.NoError(t, err)
	return string(entry.Value)
}

func TestNobodyGetsInWithoutCredentials(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	_, err := nats.Connect(h.URL())
	require.ErrorIs(t, err, nats.ErrAuthorization)

	// Access tokens are for gateways, whoever holds them.
	device, err := nkeys.CreateUser()
	require.NoError(t, err)
	subject, err := device.PublicKey()
	require.NoError(t, err)
	for _, bearer := range []bool{true, false} {
		for _, scope := range []string{"lease.use", "operator.write"} {
			claims := jwt.NewUserClaims(subject)
			claims.BearerToken = bearer
			claims.Tags = jwt.TagList{"tenant:acme", "role:client", "scope:" + scope}
			token, err := h.ring.Sign(claims)
			require.NoError(t, err)
			_, err = nats.Connect(h.URL(), nats.UserJWT(func() (string, error) { return token, nil }, device.Sign))
			require.ErrorIs(t, err, nats.ErrAuthorization, "bearer %v, %s", bearer, scope)
		}
	}

	// Nor does a key that issues tokens let anybody in by way of its account.
	claims := jwt.NewUserClaims(subject)
	claims.SetScoped(true)
	token, err := h.ring.Sign(claims)
	require.NoError(t, err)
	_, err = nats.Connect(h.URL(), nats.UserJWT(func() (string, error) { return token, nil }, device.Sign))
	require.ErrorIs(t, err, nats.ErrAuthorization)
}

// TestOlderStoreIsAdopted holds that the streams of a server without accounts
// are there after the operator has come.
func TestOlderStoreIsAdopted(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	old, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: store, NoSigs: true, NoLog: true})
	require.NoError(t, err)
	old.Start()
	require.True(t, old.ReadyForConnections(patience))
	nc, err := nats.Connect(old.ClientURL())
	require.NoError(t, err)
	js, err := jetstream.New(nc)
	require.NoError(t, err)
	_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "EVENTS", Subjects: []string{"tenant.*.event.>"}})
	require.NoError(t, err)
	_, err = js.Publish(t.Context(), "tenant.acme.event.run.started", []byte("long ago"))
	require.NoError(t, err)
	nc.Close()
	old.Shutdown()
	old.WaitForShutdown()

	ring, err := keys.Create(t.TempDir())
	require.NoError(t, err)
	for range 2 {
		b, err := broker.Start(config(t, ring, store))
		require.NoError(t, err)
		h := &house{Broker: b, ring: ring}
		admin := h.connect(t, keys.User{Role: access.Admin})
		js, err := jetstream.New(admin.Conn)
		require.NoError(t, err)
		stream, err := js.Stream(t.Context(), "EVENTS")
		require.NoError(t, err)
		msg, err := stream.GetMsg(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "long ago", string(msg.Data))
		admin.Close()
		b.Stop()
	}
}

func TestStartSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	ring, err := keys.Create(t.TempDir())
	require.NoError(t, err)
	store := filepath.Join(t.TempDir(), "nats")
	require.NoError(t, os.MkdirAll(store, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(store, "jetstream"), nil, 0o600), "a file where a folder should be")
	_, err = broker.Start(config(t, ring, store))
	require.ErrorContains(t, err, "start NATS: ")
}

// closed waits until somebody is thrown out.
func (g guest) closed(t *testing.T) {
	t.Helper()
	require.Eventually(t, g.IsClosed, patience, 5*time.Millisecond)
}

func (h *house) push(t *testing.T) {
	t.Helper()
	require.NoError(t, trust.Push(t.Context(), h.ring, trust.Target{
		URL: h.URL(), System: h.creds(t, keys.User{Role: keys.System}), Admin: h.creds(t, keys.User{Role: access.Admin}),
	}))
}

// TestRevokedWhileConnected holds that whoever is revoked, or was let in by a
// key that is removed, is thrown out at once and others are not.
func TestRevokedWhileConnected(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	tail := h.connect(t, keys.User{Role: access.Tail, Tenant: "acme"})
	neighbor := h.connect(t, keys.User{Role: access.Tail, Tenant: "globex"})
	producer := h.connect(t, keys.User{Role: access.Producer, Tenant: "acme"})
	presence := h.connect(t, keys.User{Role: access.Presence})

	require.NoError(t, h.ring.RevokeTenant("acme", time.Now()))
	h.push(t)
	tail.closed(t)
	producer.closed(t)
	require.NoError(t, neighbor.FlushTimeout(patience))

	old, err := h.ring.Issuer(access.Tail)
	require.NoError(t, err)
	_, err = h.ring.Prepare(access.Tail)
	require.NoError(t, err)
	h.push(t)
	require.NoError(t, h.ring.Switch(access.Tail))
	renewed, err := h.ring.RenewCreds(access.Tail, time.Now())
	require.NoError(t, err)
	require.Len(t, renewed, 1, "those of globex; the ones of acme are revoked")
	require.NoError(t, neighbor.FlushTimeout(patience), "the old key counts")
	require.NoError(t, h.ring.Remove(old))
	h.push(t)
	neighbor.closed(t)
	require.NoError(t, presence.FlushTimeout(patience))
	again := h.connect(t, keys.User{Role: access.Tail, Tenant: "globex"})
	require.Equal(t, neighbor.user, again.user)
}

// TestChangedWhileDown holds that what was changed while no server ran counts
// from its start, and that a copy of the keys that was left behind changes
// nothing.
func TestChangedWhileDown(t *testing.T) {
	t.Parallel()
	dir, store := t.TempDir(), t.TempDir()
	ring, err := keys.Create(dir)
	require.NoError(t, err)
	b, err := broker.Start(config(t, ring, store))
	require.NoError(t, err)
	h := &house{Broker: b, ring: ring}
	tail := h.connect(t, keys.User{Role: access.Tail, Tenant: "acme"})
	creds := h.creds(t, keys.User{Role: access.Tail, Tenant: "acme"})
	tail.Close()
	h.push(t)
	behind, err := os.ReadFile(filepath.Join(dir, "account.jwt"))
	require.NoError(t, err)
	b.Stop()

	require.NoError(t, ring.RevokeTenant("acme", time.Now()))
	h.Broker, err = broker.Start(config(t, ring, store))
	require.NoError(t, err)
	defer h.Stop()
	_, err = nats.Connect(h.URL(), nats.UserCredentials(creds))
	require.ErrorIs(t, err, nats.ErrAuthorization)
	h.push(t)

	require.NoError(t, os.WriteFile(filepath.Join(dir, "account.jwt"), behind, 0o600))
	err = trust.PushSettings(t.Context(), ring, trust.Target{URL: h.URL(), Admin: h.creds(t, keys.User{Role: access.Admin})})
	require.ErrorContains(t, err, "a newer version of the account is there")
}

// TestPushToAServerOfOthers holds that where another operator is trusted the
// gateways are told all the same, with credentials of that server.
func TestPushToAServerOfOthers(t *testing.T) {
	t.Parallel()
	theirs := newHouse(t)
	ours, err := keys.Create(t.TempDir())
	require.NoError(t, err)
	admin := theirs.creds(t, keys.User{Role: access.Admin})
	require.NoError(t, trust.Push(t.Context(), ours, trust.Target{URL: theirs.URL(), Admin: admin}))
	rows, err := theirs.admin.Bucket(t.Context(), subjects.BucketSettings)
	require.NoError(t, err)
	entry, err := rows.Get(t.Context(), subjects.SettingsAccount)
	require.NoError(t, err)
	text, err := ours.AccountJWT()
	require.NoError(t, err)
	require.Equal(t, text, string(entry.Value))

	system := ours.CredsFile("system")
	require.NoError(t, ours.KeepCreds(system, keys.User{Role: keys.System}, time.Now()))
	err = trust.Push(t.Context(), ours, trust.Target{URL: theirs.URL(), System: system, Admin: admin})
	require.ErrorIs(t, err, nats.ErrAuthorization, "their server does not take our word")
}
