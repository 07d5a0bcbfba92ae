package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// planted are secrets of every kind that there is, by what they are in.
func planted(t *testing.T, w *world) map[string]string {
	t.Helper()
	out := map[string]string{}
	for name, make := range map[string]func() (nkeys.KeyPair, error){
		"operator": nkeys.CreateOperator, "account": nkeys.CreateAccount, "user": nkeys.CreateUser, "server": nkeys.CreateServer, "curve": nkeys.CreateCurveKeys,
	} {
		key, err := make()
		require.NoError(t, err)
		seed, err := key.Seed()
		require.NoError(t, err)
		out["seed of "+name] = string(seed)
	}
	out["token"] = operator(t, w)
	user, err := nkeys.FromSeed([]byte(out["seed of user"]))
	require.NoError(t, err)
	subject, err := user.PublicKey()
	require.NoError(t, err)
	claims, err := jwt.NewUserClaims(subject).Encode(w.issuer)
	require.NoError(t, err)
	creds, err := jwt.FormatUserConfig(claims, []byte(out["seed of user"]))
	require.NoError(t, err)
	out["creds"] = string(creds)
	return out
}

func TestDiagnosticsHoldNoSecrets(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	secret := planted(t, w)
	recent := newRecentLog(io.Discard)
	log, err := daemon.Logger(recent, "info", "gateway")
	require.NoError(t, err)
	for name, text := range secret {
		log.Error().Err(errors.New("could not use "+text)).Str("field", text).Msg("planted " + name)
		log.Warn().Str("subprotocol", "rollcall.auth."+text).Str("header", "Authorization: Bearer "+text).Msg("planted in a header")
		log.Warn().Str("token", "opaque-hunter2").Str("cookie", "rollcall_token=hunter2x; Path=/").Msg("planted by name")
	}
	log.Error().Err(errors.New("dial nats://alice:s3cr3t-pass@127.0.0.1:4222, nats://t0ken-alone@h: refused")).Msg("planted in an address")
	log.Info().Msg("an ordinary line is not remembered")
	g := w.gateway(t, func(c *Config) {
		c.recent = recent
		c.shown = map[string]string{"nats-url": "nats://bob:hunter3@127.0.0.1:4222", "odd": secret["seed of account"]}
	})
	body := newContract(t, g).get("/diagnostics", secret["token"], http.StatusOK)
	doc := decodeInto[diagnosticsDoc](t, body)
	require.NotEmpty(t, doc.Log.Lines)
	require.Zero(t, doc.Log.Withheld)
	require.Contains(t, string(body), "planted in an address")
	require.NotContains(t, string(body), "ordinary line")
	for name, text := range secret {
		for part := range strings.FieldsSeq(text) {
			if len(part) > 24 && !strings.HasPrefix(part, "---") && !strings.HasPrefix(part, "***") {
				require.NotContains(t, string(body), part, name)
				require.NotContains(t, string(body), part[:24], "%s, cut", name)
			}
		}
	}
	for _, text := range []string{"alice", "s3cr3t-pass", "t0ken-alone", "bob", "hunter"} {
		require.NotContains(t, string(body), text)
	}
}

func TestDiagnosticsSayWhatIsAsked(t *testing.T) {
	t.Parallel()
	w, g, _, _ := surfaces(t)
	op := operator(t, w)
	c := newContract(t, g)
	doc := decodeInto[diagnosticsDoc](t, c.get("/diagnostics", op, http.StatusOK))
	require.Equal(t, g.id, doc.Status.InstanceID)
	require.Equal(t, "127.0.0.1:0", doc.Settings["listen"])
	require.Positive(t, doc.Process.Goroutines)
	require.NotEmpty(t, doc.Build.Go)
	names := []string{}
	for _, s := range doc.Streams {
		require.Empty(t, s.Error)
		names = append(names, s.Name)
	}
	require.Equal(t, []string{"EVENTS", "EDGE", "KV_PRESENCE", "KV_GATEWAYS", "KV_SETTINGS"}, names)
	c.get("/diagnostics", w.token(t, grant{scopes: []string{"presence.read"}}), http.StatusForbidden)

	// It answers when it is needed most.
	w.nats.Stop(t)
	within(t, func() bool { return !g.conn.Connected() })
	doc = decodeInto[diagnosticsDoc](t, c.get("/diagnostics", op, http.StatusOK))
	require.Contains(t, doc.Failing, "nats")
	require.NotEmpty(t, doc.Streams[0].Error)
}

func TestDiagnosticsNameNoOtherTenant(t *testing.T) {
	t.Parallel()
	line := func(text string) []byte { return []byte(text) }
	others := map[string]bool{"globex": true}
	for _, own := range []string{
		`{"tenant_id":"acme","message":"x"}`, `{"subject":"tenant.acme.agent.a"}`, `{"message":"the tenant has as many"}`, `{"subject":"tenant.system.audit"}`,
		`{"key":"acme.agent.a"}`, `{"key":"system.account"}`, `{"error":"row \"acme.agent.a\": gone"}`,
	} {
		require.False(t, namesOther(line(own), "acme", others), own)
	}
	for _, other := range []string{
		`{"tenant_id":"globex"}`, `{"tenant":"unheard-of"}`, `{"error":"row \"globex.agent.a\": gone"}`, `{"subject":"tenant.unheard-of.agent.a"}`,
		`{"key":"unheard-of.presence"}`, `{"key":"unheard-of"}`, `{"error":"row \"unheard-of.instance.a\": gone"}`,
	} {
		require.True(t, namesOther(line(other), "acme", others), other)
	}
}

// TestDiagnosticsOfOneTenant holds that what goes wrong for one tenant is shown to that
// one alone, wherever the gateway meets it.
func TestDiagnosticsOfOneTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) {
		c.shown = map[string]string{"allowed-origin": "https://ui.globex.example", "listen": "127.0.0.1:0"}
	})
	put := func(bucket, key, value string) {
		kv, err := w.bus.JS().KeyValue(t.Context(), bucket)
		require.NoError(t, err)
		_, err = kv.Put(t.Context(), key, []byte(value))
		require.NoError(t, err)
	}
	// Of these tenants nothing is known but what is wrong; globex has an agent, too.
	require.NoError(t, w.presence(t).status(t.Context(), "globex", "secret-agent", subjects.StatusOnline, subjects.StatusOffline))
	put(subjects.BucketSettings, "globex.presence", `{"max_connections":-1}`)
	put(subjects.BucketSettings, "initech.presence", `{`)
	put(subjects.BucketPresence, "umbrella.agent.secret-two", `{`)
	put(subjects.BucketPresence, "hooli.what.secret-three", `{}`)
	put(subjects.BucketGateways, "vandelay.x", `{}`)
	listener := g.connect(t, grant{tenant: "globex", scopes: []string{"operator.read"}})
	listener.ok("events.subscribe", map[string]any{"types": []string{"*"}}, nil)
	_, err := w.bus.Publish(t.Context(), bus.Message{Subject: "tenant.globex.event.task.secret-four", ID: subjects.NewID(), Data: []byte(`{"secret-five":1}`)})
	require.NoError(t, err)

	read := func(tenant string) string {
		status, _ := g.get(t, "/diagnostics", "")
		require.Equal(t, http.StatusUnauthorized, status)
		answer, text := call(t, fresh(), http.MethodGet, g.url("/diagnostics"), "", http.Header{
			"Authorization": {"Bearer " + w.token(t, grant{tenant: tenant, scopes: []string{"operator.read"}})},
		})
		require.Equal(t, http.StatusOK, answer.status)
		return text
	}
	var own string
	within(t, func() bool {
		own = read("globex")
		logged := g.log.String()
		return strings.Contains(own, `"globex.presence"`) && strings.Contains(own, "event kept out of delivery") &&
			strings.Contains(logged, "initech.presence") && strings.Contains(logged, "hooli.what.secret-three") && strings.Contains(logged, "vandelay.x")
	})
	foreign := read("acme")
	require.Contains(t, foreign, "127.0.0.1:0")
	for _, text := range []string{"globex", "initech", "umbrella", "hooli", "vandelay", "secret", "not well-formed"} {
		require.NotContains(t, foreign, text)
	}
	require.Equal(t, 6, decodeInto[diagnosticsDoc](t, []byte(foreign)).Log.Withheld)
	for _, text := range []string{"initech", "umbrella", "hooli", "vandelay", "secret-two", "secret-three"} {
		require.NotContains(t, own, text)
	}
}

func TestRecentLogIsBounded(t *testing.T) {
	t.Parallel()
	var all bytes.Buffer
	recent := newRecentLog(&all)
	log := zerolog.New(recent)
	for i := range maxRecent + 50 {
		log.Warn().Int("n", i).Msg("x")
	}
	log.Error().Str("long", strings.Repeat("x", maxRecentLine)).Msg("x")
	lines, dropped := recent.read()
	require.Len(t, lines, maxRecent)
	require.Equal(t, 51, dropped)
	require.Equal(t, float64(50), decodeInto[map[string]any](t, lines[0])["n"], "the oldest go")
	require.Equal(t, maxRecent+51, bytes.Count(all.Bytes(), []byte("\n")), "the log itself has them all")
	require.True(t, json.Valid(lines[0]))
}
