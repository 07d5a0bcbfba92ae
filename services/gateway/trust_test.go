package gateway

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// realm is a world whose gateways ask an operator whose tokens count.
type realm struct {
	*world
	operator, account nkeys.KeyPair
	claims            *jwt.AccountClaims
}

func newRealm(t *testing.T) *realm {
	t.Helper()
	operator, err := nkeys.CreateOperator()
	require.NoError(t, err)
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	r := &realm{world: newWorld(t), operator: operator, account: account}
	r.claims = jwt.NewAccountClaims(publicKey(t, account))
	r.claims.Revocations = jwt.RevocationList{}
	r.trustIn(t, r.issuer)
	return r
}

func publicKey(t *testing.T, key nkeys.KeyPair) string {
	t.Helper()
	public, err := key.PublicKey()
	require.NoError(t, err)
	return public
}

func (r *realm) trustIn(t *testing.T, issuer nkeys.KeyPair) {
	t.Helper()
	scope := jwt.NewUserScope()
	scope.Key, scope.Role = publicKey(t, issuer), string(access.Operator)
	r.claims.SigningKeys.AddScopedSigner(scope)
}

// say puts the operator's word into SETTINGS.
func (r *realm) say(t *testing.T) {
	t.Helper()
	text, err := r.claims.Encode(r.operator)
	require.NoError(t, err)
	r.put(t, text)
}

func (r *realm) put(t *testing.T, text string) {
	t.Helper()
	require.NoError(t, r.bus.EnsureBucket(t.Context(), bus.Bucket(subjects.Bucket{Name: subjects.BucketSettings, Fixed: true, MarkerTTL: time.Hour}), 1))
	kv, err := r.bus.Bucket(t.Context(), subjects.BucketSettings)
	require.NoError(t, err)
	entry, err := kv.Get(t.Context(), subjects.SettingsAccount)
	require.NoError(t, err)
	_, err = kv.Save(t.Context(), subjects.SettingsAccount, []byte(text), entry.Revision, 0)
	require.NoError(t, err)
}

// pinned makes a gateway trust the operator.
func (r *realm) pinned(t *testing.T) func(*Config) {
	t.Helper()
	return func(c *Config) {
		c.TrustedIssuers, c.OperatorKeys, c.AccountKey = nil, []string{publicKey(t, r.operator)}, publicKey(t, r.account)
	}
}

// token mints one for the realm's account.
func (r *realm) token(t *testing.T, issuer nkeys.KeyPair) (text string, claims *jwt.UserClaims) {
	t.Helper()
	first, err := jwt.DecodeUserClaims(r.world.token(t, grant{agent: "a1", scopes: []string{"presence.read"}}))
	require.NoError(t, err)
	first.IssuerAccount = publicKey(t, r.account)
	text, err = first.Encode(issuer)
	require.NoError(t, err)
	return text, first
}

func (g *gatewayRun) enter(t *testing.T, text string) *testClient {
	t.Helper()
	c := g.dial(t, text)
	c.handshake(newTestDevice(t), "client")
	return c
}

func TestNotReadyBeforeAnybodyIsTrusted(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	cfg := r.config(t)
	r.pinned(t)(&cfg)
	g := r.launch(t, cfg)
	require.Eventually(t, func() bool {
		status, body := g.get(t, "/readyz", "")
		failing, _ := body["failing"].(map[string]any)
		return status == http.StatusServiceUnavailable && failing["trust"] != nil && g.view.presenceSynced.is()
	}, patience, 5*time.Millisecond)

	r.put(t, "not the operator's word")
	r.say(t)
	require.Eventually(t, func() bool { return g.ready(t) == http.StatusOK }, patience, 5*time.Millisecond)
	text, _ := r.token(t, r.issuer)
	g.enter(t, text)
}

// TestRevokedSocketsClose holds that a revocation ends the sockets of one token
// and no other, whether they have authenticated or not, and keeps the token out.
func TestRevokedSocketsClose(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.say(t)
	g := r.gateway(t, r.pinned(t))
	text, claims := r.token(t, r.issuer)
	spared, _ := r.token(t, r.issuer)
	revoked, waiting, other := g.enter(t, text), g.dial(t, text), g.enter(t, spared)
	waiting.ok("connect.init", newTestDevice(t).init("client"), nil)

	r.claims.Revocations.Revoke(claims.Subject, time.Now())
	r.say(t)
	for _, c := range []*testClient{revoked, waiting} {
		c.requireClosed(machine.CodeUnauthorized, "token revoked")
	}
	require.Eventually(t, func() bool {
		closes := r.events(t, "tenant.acme.agent.a1.connection.closed")
		return len(closes) == 1 && closes[0].event.Type == "connection.closed" && payloadReason(t, closes[0]) == subjects.ClosedTokenRevoked
	}, patience, 10*time.Millisecond)
	other.ok("ping", map[string]any{}, nil)
	g.dial(t, text).requireClosed(machine.CodeUnauthorized, "unauthorized")
	status, _ := g.get(t, "/presence", text)
	require.Equal(t, http.StatusUnauthorized, status)
	status, _ = g.get(t, "/presence", spared)
	require.Equal(t, http.StatusOK, status)
}

func payloadReason(t *testing.T, s stored) string {
	t.Helper()
	closed, err := subjects.Decode[subjects.ConnectionClosed](s.event.Payload)
	require.NoError(t, err)
	return closed.Reason
}

// TestKeysRotate holds that a new key counts and an old one stops counting
// without a restart, and that nothing but the operator's word changes that.
func TestKeysRotate(t *testing.T) {
	t.Parallel()
	r := newRealm(t)
	r.say(t)
	g := r.gateway(t, r.pinned(t))
	next, err := nkeys.CreateAccount()
	require.NoError(t, err)
	text, _ := r.token(t, r.issuer)
	young, _ := r.token(t, next)
	old := g.enter(t, text)
	g.dial(t, young).requireClosed(machine.CodeUnauthorized, "unauthorized")

	r.trustIn(t, next)
	r.say(t)
	require.Eventually(t, func() bool {
		status, _ := g.get(t, "/presence", young)
		return status == http.StatusOK
	}, patience, 5*time.Millisecond)
	fresh := g.enter(t, young)
	old.ok("ping", map[string]any{}, nil)

	r.claims.SigningKeys.Remove(publicKey(t, r.issuer))
	r.say(t)
	old.requireClosed(machine.CodeUnauthorized, "token revoked")
	fresh.ok("ping", map[string]any{}, nil)

	// Somebody else's word, and no word at all, leave things as they are.
	kv, err := r.bus.Bucket(t.Context(), subjects.BucketSettings)
	require.NoError(t, err)
	r.operator, err = nkeys.CreateOperator()
	require.NoError(t, err)
	r.claims.SigningKeys.Remove(publicKey(t, next))
	r.say(t)
	entry, err := kv.Get(t.Context(), subjects.SettingsAccount)
	require.NoError(t, err)
	require.NoError(t, kv.Purge(t.Context(), subjects.SettingsAccount, entry.Revision, nil))
	require.Eventually(t, func() bool { return strings.Count(g.log.String(), "account refused") == 2 }, patience, 5*time.Millisecond)
	fresh.ok("ping", map[string]any{}, nil)
	g.enter(t, young)
}
