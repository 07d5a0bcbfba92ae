package e2e

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects/access"
)

// parts are the three of a token.
type parts [3]string

func partsOf(t *testing.T, text string) parts {
	t.Helper()
	split := strings.Split(text, ".")
	require.Len(t, split, 3)
	return parts(split)
}

func (p parts) String() string { return strings.Join(p[:], ".") }

// with replaces one part.
func (p parts) with(i int, data []byte) string {
	p[i] = base64.RawURLEncoding.EncodeToString(data)
	return p.String()
}

func (p parts) decode(t *testing.T, i int) []byte {
	t.Helper()
	data, err := base64.RawURLEncoding.DecodeString(p[i])
	require.NoError(t, err)
	return data
}

// keyPair reads a key of the stack.
func (s *stack) keyPair(t *testing.T, file string) nkeys.KeyPair {
	t.Helper()
	seed, err := os.ReadFile(filepath.Join(s.Dir, file))
	require.NoError(t, err)
	pair, err := nkeys.FromSeed(bytes.TrimSpace(seed))
	require.NoError(t, err)
	return pair
}

// signRaw signs claims that no library would: whatever is in them, by whichever key.
func signRaw(t *testing.T, header string, claims map[string]any, key nkeys.KeyPair) string {
	t.Helper()
	data, err := json.Marshal(claims)
	require.NoError(t, err)
	text := base64.RawURLEncoding.EncodeToString([]byte(header)) + "." + base64.RawURLEncoding.EncodeToString(data)
	signature, err := key.Sign([]byte(text))
	require.NoError(t, err)
	return text + "." + base64.RawURLEncoding.EncodeToString(signature)
}

const goodHeader = `{"typ":"JWT","alg":"ed25519-nkey"}`

// claimsOf reads a token's claims as bare JSON.
func claimsOf(t *testing.T, text string) map[string]any {
	t.Helper()
	var claims map[string]any
	decode(t, partsOf(t, text).decode(t, 1), &claims)
	return claims
}

// by makes claims name the key that signs them.
func by(t *testing.T, claims map[string]any, key nkeys.KeyPair) map[string]any {
	t.Helper()
	issuer, err := key.PublicKey()
	require.NoError(t, err)
	out := maps.Clone(claims)
	out["iss"] = issuer
	return out
}

// tampered is a good token with each of its claims, its header and its signature
// changed in every way that keeps the rest.
func tampered(t *testing.T, good, another string) map[string]string {
	t.Helper()
	p := partsOf(t, good)
	out := map[string]string{
		"signature of another token": parts{p[0], p[1], partsOf(t, another)[2]}.String(),
		"claims of another token":    parts{p[0], partsOf(t, another)[1], p[2]}.String(),
		"no signature":               p[0] + "." + p[1] + ".",
		"two parts":                  p[0] + "." + p[1],
		"four parts":                 good + "." + p[2],
		"empty parts":                "..",
		"padded":                     good + "==",
		"line feed at the end":       good + "\n",
		"line feed inside":           p[0] + "." + p[1] + "." + p[2][:10] + "\r\n" + p[2][10:],
		"space in front":             " " + good,
		"NUL at the end":             good + "\x00",
		"twice":                      good + good,
		"longer than any":            good + strings.Repeat("A", 9000),
	}
	var claims any
	decode(t, p.decode(t, 1), &claims)
	for path, changed := range mutations("claims", claims) {
		data, err := json.Marshal(changed)
		require.NoError(t, err)
		out["changed "+path] = p.with(1, data)
	}
	signature := p.decode(t, 2)
	for i := range signature {
		flipped := bytes.Clone(signature)
		flipped[i] ^= 1 << (i % 8)
		out[fmt.Sprintf("bit of byte %d of the signature", i)] = p.with(2, flipped)
	}
	out["signature cut"] = p.with(2, signature[:63])
	out["signature grown"] = p.with(2, append(bytes.Clone(signature), 0))
	out["signature of zeros"] = p.with(2, make([]byte, 64))
	out["signature plus the group's order"] = p.with(2, plusOrder(signature))
	// The last character of 86 carries two bits of the signature and four of
	// nothing, which a lenient decoder does not look at.
	out["signature spelt otherwise"] = good[:len(good)-1] + nextLetter(good[len(good)-1])
	return out
}

// nextLetter is the one whose lowest bit alone differs.
func nextLetter(c byte) string {
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	return string(alphabet[strings.IndexByte(alphabet, c)^1])
}

// plusOrder is the other number that a verifier which does not look would take for
// the same: S + L.
func plusOrder(signature []byte) []byte {
	l, _ := new(big.Int).SetString("7237005577332262213973186563042994240857116359379907606001950938285454250989", 10)
	s := bytes.Clone(signature[32:])
	slices.Reverse(s)
	sum := new(big.Int).Add(new(big.Int).SetBytes(s), l).FillBytes(make([]byte, 32))
	slices.Reverse(sum)
	return append(bytes.Clone(signature[:32]), sum...)
}

// mutations are copies of a JSON value, each with one thing in it changed, by where.
func mutations(path string, v any) map[string]any {
	out := map[string]any{}
	switch v := v.(type) {
	case map[string]any:
		for key, value := range v {
			for where, changed := range mutations(path+"."+key, value) {
				copied := maps.Clone(v)
				copied[key] = changed
				out[where] = copied
			}
			without := maps.Clone(v)
			delete(without, key)
			out[path+"."+key+" removed"] = without
		}
		added := maps.Clone(v)
		added["admin"] = true
		out[path+" with another key"] = added
	case []any:
		for i, value := range v {
			for where, changed := range mutations(fmt.Sprintf("%s[%d]", path, i), value) {
				copied := slices.Clone(v)
				copied[i] = changed
				out[where] = copied
			}
		}
		out[path+" with another value"] = append(slices.Clone(v), "tenant:globex")
		out[path+" emptied"] = []any{}
	case string:
		out[path] = v + "x"
		out[path+" emptied"] = ""
	case float64:
		out[path] = v + 1_000_000
	case bool:
		out[path] = !v
	}
	return out
}

// otherAlgorithms are headers that would have a careless verifier do something
// else, each with the signature as it was, without one, and with a MAC by what is
// public.
func otherAlgorithms(t *testing.T, good string) map[string]string {
	t.Helper()
	p := partsOf(t, good)
	issuer, is := claimsOf(t, good)["iss"].(string)
	require.True(t, is)
	raw, err := nkeys.Decode(nkeys.PrefixByteAccount, []byte(issuer))
	require.NoError(t, err)
	out := map[string]string{}
	for _, header := range []string{
		`{"typ":"JWT","alg":"none"}`, `{"typ":"JWT","alg":"None"}`, `{"typ":"JWT","alg":"NONE"}`, `{"typ":"JWT","alg":""}`, `{"typ":"JWT"}`,
		`{"typ":"JWT","alg":"HS256"}`, `{"typ":"JWT","alg":"HS512"}`, `{"typ":"JWT","alg":"RS256"}`, `{"typ":"JWT","alg":"ES256"}`, `{"typ":"JWT","alg":"EdDSA"}`,
		`{"typ":"JWT","alg":"ed25519"}`, `{"typ":"JWT","alg":"ED25519-NKEY"}`, `{"typ":"JWT","alg":"ed25519-nkey "}`, `{"typ":"JWT","alg":"ed25519-nkey-none"}`,
		`{"alg":"none","typ":"JWT","alg":"ed25519-nkey"}`, `{"typ":"JWT","alg":"ed25519-nkey","alg":"none"}`, `{"typ":"JWT","alg":"ed25519-nkey","ALG":"none"}`,
		`{"typ":"JWT","alg":"ed25519-nkey","kid":"../../dev/null"}`, `{"typ":"JWT","alg":"ed25519-nkey","jku":"http://127.0.0.1:1/keys"}`,
		`{"typ":"JWT","alg":"ed25519-nkey","jwk":{"kty":"OKP","crv":"Ed25519","x":"AAAA"}}`, `{"typ":"JWT","alg":"ed25519-nkey","crit":["exp"]}`,
		`{"typ":"JWT","alg":["ed25519-nkey"]}`, `{"typ":"JWT","alg":null}`, `{"typ":"JWE","alg":"ed25519-nkey"}`, `{"typ":"jwt","alg":"ed25519-nkey"}`,
		` {"typ":"JWT","alg":"ed25519-nkey"}`, `{}`, `[]`, `null`, `"none"`, ``, `{`, "\x00",
	} {
		if header == goodHeader {
			continue
		}
		out["header "+header] = p.with(0, []byte(header))
		other := parts{base64.RawURLEncoding.EncodeToString([]byte(header)), p[1], ""}
		out["header "+header+" unsigned"] = other.String()
		for what, key := range map[string][]byte{"its issuer": []byte(issuer), "the issuer's key": raw, "nothing": nil} {
			mac := hmac.New(sha256.New, key)
			mac.Write([]byte(other[0] + "." + other[1]))
			out["header "+header+" with a MAC by "+what] = other.with(2, mac.Sum(nil))
		}
	}
	return out
}

// publicAccount is what everybody may know, and what lets nobody in.
const publicAccount = "the account itself"

// foreignSigned are tokens by keys that may not issue any, the stack's own among
// them, and other things that those have signed.
func (s *stack) foreignSigned(t *testing.T, good string) map[string]string {
	t.Helper()
	claims := claimsOf(t, good)
	out := map[string]string{}
	for _, role := range access.Roles() {
		if role.Issues() {
			continue
		}
		key := s.keyPair(t, filepath.Join("signing", string(role)+".nk"))
		out["signed by the key of "+string(role)] = signRaw(t, goodHeader, by(t, claims, key), key)
	}
	for _, file := range []string{"operator.nk", "account.nk", "producers.nk", "system.nk"} {
		key := s.keyPair(t, file)
		out["signed by "+file] = signRaw(t, goodHeader, by(t, claims, key), key)
	}
	user, err := nkeys.CreateUser()
	require.NoError(t, err)
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	self := maps.Clone(claims)
	self["sub"], err = user.PublicKey()
	require.NoError(t, err)
	out["signed by its own subject"] = signRaw(t, goodHeader, by(t, self, user), user)
	out["signed by a stranger"] = signRaw(t, goodHeader, by(t, claims, account), account)
	out["signed by a stranger in the issuer's name"] = signRaw(t, goodHeader, claims, account)
	out["signed by a stranger, as version 1"] = versionOne(t, claims, account)

	agent := s.keyPair(t, "signing/agent.nk")
	out["signed by the key of agents for an operator"] = signRaw(t, goodHeader, by(t, tagged(claims, "tenant:"+acme, "role:client", "scope:operator.write"), agent), agent)
	out["signed by the key of agents for OPERATOR.READ"] = signRaw(t, goodHeader, by(t, tagged(claims, "tenant:"+acme, "role:client", "SCOPE:OPERATOR.READ"), agent), agent)
	for _, kind := range []string{"account", "operator", "activation", "generic", "authorization_request", "authorization_response", ""} {
		other := natsOf(claims)
		other["type"] = kind
		out["signed as "+kind] = signRaw(t, goodHeader, by(t, withNATS(claims, other), agent), agent)
	}
	for what, subject := range map[string]string{"an account": s.ring.Account(), "the operator": s.ring.Operator(), "nobody": "", "noise": "U123"} {
		other := maps.Clone(claims)
		other["sub"] = subject
		out["signed for "+what] = signRaw(t, goodHeader, by(t, other, agent), agent)
	}
	for _, name := range []string{"admin", acme + ".tail", "gateway-0"} {
		data, err := os.ReadFile(s.ring.CredsFile(name))
		require.NoError(t, err)
		text, err := jwt.ParseDecoratedJWT(data)
		require.NoError(t, err)
		out["credentials of "+name] = text
	}
	described, err := s.ring.AccountJWT()
	require.NoError(t, err)
	out[publicAccount] = described
	return out
}

// versionOne is a token in the older shape, which signs its claims alone.
func versionOne(t *testing.T, claims map[string]any, key nkeys.KeyPair) string {
	t.Helper()
	old := by(t, claims, key)
	old["type"], old["tags"] = "user", []string{"tenant:" + acme, "role:client"}
	data, err := json.Marshal(old)
	require.NoError(t, err)
	payload := base64.RawURLEncoding.EncodeToString(data)
	signature, err := key.Sign([]byte(payload))
	require.NoError(t, err)
	return base64.RawURLEncoding.EncodeToString([]byte(`{"typ":"jwt","alg":"ed25519"}`)) + "." + payload + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// natsOf is a copy of what NATS reads of claims.
func natsOf(claims map[string]any) map[string]any {
	nats, _ := claims["nats"].(map[string]any)
	return maps.Clone(nats)
}

func withNATS(claims, nats map[string]any) map[string]any {
	out := maps.Clone(claims)
	out["nats"] = nats
	return out
}

// tagged are claims with other tags.
func tagged(claims map[string]any, tags ...string) map[string]any {
	nats := natsOf(claims)
	nats["tags"] = tags
	return withNATS(claims, nats)
}

// misdated and mistagged are what no tool of ours would sign, signed by the key
// that signs.
func (s *stack) misdated(t *testing.T, good string) map[string]string {
	t.Helper()
	agent := s.keyPair(t, "signing/agent.nk")
	claims := by(t, claimsOf(t, good), agent)
	now := time.Now().Unix()
	out := map[string]string{}
	for what, change := range map[string]map[string]any{
		"expired":                       {"exp": now - 1},
		"expired long ago":              {"exp": 1},
		"expired before there was time": {"exp": -1},
		"expires as text":               {"exp": "9999999999"},
		"expires in a fraction":         {"exp": 9999999999.5},
		"expires beyond numbers":        {"exp": 1e300},
		"not yet good":                  {"nbf": now + 3600},
		"not before a text":             {"nbf": "0"},
		"not before its end":            {"nbf": now + 7200, "exp": now + 3600},
		"issued as text":                {"iat": "now"},
		"newer than the library":        {"nats": map[string]any{"type": "user", "version": 3, "tags": []string{"tenant:" + acme, "role:client"}}},
		"without anything":              {"nats": nil},
	} {
		other := maps.Clone(claims)
		maps.Copy(other, change)
		out[what] = signRaw(t, goodHeader, other, agent)
	}
	return out
}

func (s *stack) mistagged(t *testing.T, good string) map[string]string {
	t.Helper()
	agent := s.keyPair(t, "signing/agent.nk")
	claims := by(t, claimsOf(t, good), agent)
	out := map[string]string{}
	sign := func(tags ...string) {
		out[fmt.Sprintf("tags %q", tags)] = signRaw(t, goodHeader, tagged(claims, tags...), agent)
	}
	for _, tenant := range []string{
		"", "*", ">", "acme.>", "acme.globex", "acme,globex", "acme globex", " acme", "acme ", "acme\x00", "acme\n", "system", "SYSTEM", "{{tag(tenant)}}",
		"_acme", "-acme", "äcme", "acme:globex", "ſystem", strings.Repeat("a", 65),
	} {
		sign("tenant:"+tenant, "role:client")
	}
	for _, agent := range []string{"", "*", ">", "a.>", "a.b", "a b", "{{name()}}", "_a", "a:b", "a\x00", strings.Repeat("a", 65)} {
		sign("tenant:"+acme, "role:client", "agent:"+agent)
	}
	for _, role := range []string{"", "*", "gateway", "admin", "operator", "client node", "client,node"} {
		sign("tenant:"+acme, "role:"+role)
	}
	sign()
	sign("tenant:"+acme, "tenant:"+acme, "role:client")
	sign("tenant:"+acme, "tenant:globex", "role:client")
	sign("tenant:"+acme, "TENANT:globex", "role:client")
	sign("tenant:"+acme, "Tenant:*", "role:client")
	sign("tenant:"+acme, "role:client", "role:node")
	sign("tenant:"+acme, "role:client", "ROLE:client")
	sign("tenant:"+acme, "role:client", "agent:a", "agent:b")
	sign("tenant:"+acme, "role:client", "agent:a", "AGENT:A")
	sign("tenant", acme, "role:client")
	sign(" tenant:"+acme, "role:client")
	sign("tenant="+acme, "role:client")
	return out
}

// TestAttackTokens tries every token that must not be good, on every way in.
func TestAttackTokens(t *testing.T) {
	t.Parallel()
	s, j := badStack(t)
	g := s.Gateways[0]
	good, err := s.mint(token.Grant{Agent: "ada", Scopes: []string{"presence.read"}})
	require.NoError(t, err)
	another, err := s.mint(token.Grant{Agent: "bob", Scopes: []string{"presence.read"}})
	require.NoError(t, err)
	s.settle(t, j)

	for class, tokens := range map[string]map[string]string{
		"tampered": tampered(t, good, another), "algorithms": otherAlgorithms(t, good), "foreign": s.foreignSigned(t, good),
		"dates": s.misdated(t, good), "tags": s.mistagged(t, good), "forged": s.forged(t),
	} {
		t.Logf("%s: %d tokens", class, len(tokens))
		s.untouched(t, class, func() {
			for what, text := range tokens {
				if what != publicAccount {
					s.secret(class+": "+what, text)
				}
				s.tryToken(t, g, class+": "+what, text)
			}
		})
	}
	require.Equal(t, http.StatusOK, status(t, g.URL+"/presence", good), "the token itself is good")
	s.raw(t, g, good).enter(newKey(t))
	s.attackUnknownClaims(t, g)
}

func status(t *testing.T, url, text string) int {
	t.Helper()
	code, _ := call(t, http.MethodGet, url, bearer(text))
	return code
}

// tryToken sees that a token is refused on every way in.
func (s *stack) tryToken(t *testing.T, g gateway, what, text string) {
	t.Helper()
	require.Equal(t, 4001, knock(t, g, nil, "rollcall.v1", entryOf("rollcall.auth.", text)), what)
	if strings.ContainsAny(text, "\r\n\x00") {
		return // no header can hold it
	}
	require.Equal(t, 4001, knock(t, g, bearer(text), "tyrum-v1"), what)
	code, body := call(t, http.MethodGet, g.URL+"/presence", bearer(text))
	require.Equal(t, http.StatusUnauthorized, code, what)
	if len(text) > 20 {
		require.NotContains(t, body, text[:20], what)
	}
}

// attackUnknownClaims holds that claims nobody knows give nobody anything, even under
// a good signature.
func (s *stack) attackUnknownClaims(t *testing.T, g gateway) {
	t.Helper()
	plain, err := s.mint(token.Grant{Agent: "ada"})
	require.NoError(t, err)
	agent := s.keyPair(t, "signing/agent.nk")
	claims := by(t, claimsOf(t, plain), agent)
	maps.Copy(claims, map[string]any{
		"admin": true, "tenant": "globex", "tenant_id": "globex", "agent_id": "root", "scope": "operator.write", "scopes": []string{"operator.write"},
		"tags": []string{"tenant:globex", "scope:operator.write"}, "role": "gateway", "aud": "*", "issuer_account": s.ring.Account(),
	})
	nats := natsOf(claims)
	maps.Copy(nats, map[string]any{
		"scopes": []string{"operator.write"}, "tenant": "globex", "permissions": map[string]any{"pub": map[string]any{"allow": []string{">"}}},
		"tags": []string{
			"tenant:" + acme, "role:client", "agent:ada", "tenants:globex", "scope", "scope:", "scope:*", "scope:>", "scope:operator", "scope: operator.write",
			"scope:operator.write ", "scope:operator.write.more", "scopes:operator.write", "scope:lease.*", "scope:tenant:globex", "admin:true",
		},
	})
	// The key of agents may not grant what looks like an operator's scope, whatever
	// becomes of it.
	tags, _ := nats["tags"].([]string)
	require.Equal(t, 4001, knock(t, g, bearer(signRaw(t, goodHeader, withNATS(claims, nats), agent)), "rollcall.v1"))
	nats["tags"] = slices.DeleteFunc(tags, func(tag string) bool { return strings.HasPrefix(tag, "scope:operator.") })
	text := signRaw(t, goodHeader, withNATS(claims, nats), agent)
	s.secret("token with unknown claims", text)

	conn := s.enter(t, g, text, client.Options{})
	require.Equal(t, acme, conn.Welcome().TenantID)
	require.Equal(t, "ada", conn.Welcome().AgentID)
	for kind, payload := range map[string]any{
		"presence.subscribe": map[string]any{"all": true},
		"events.subscribe":   map[string]any{"types": []string{"*"}},
		"event.publish":      map[string]any{"type": "x.y", "payload": map[string]any{}},
		"peer.request":       map[string]any{"to": map[string]any{"kind": "agent", "id": "ada"}, "type": "task.execute", "payload": map[string]any{}},
		"lease.request":      map[string]any{"resource": "r"},
		"lease.moderate":     map[string]any{"resources": []string{"r"}},
	} {
		requireRefused(t, conn.Request(t.Context(), kind, payload, nil), "forbidden")
	}
	for _, path := range []string{"/presence", "/events"} {
		require.Equal(t, http.StatusForbidden, status(t, g.URL+path, text), path)
	}
	s.intact(t, "unknown claims")
}

// TestAttackReplay uses proofs and challenges where they do not belong.
func TestAttackReplay(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "2", "--presence", "1", "--lease", "1"}})
	j := s.journal()
	a, b := s.Gateways[0], s.Gateways[1]
	good, err := s.mint(token.Grant{})
	require.NoError(t, err)
	key := newKey(t)
	s.settle(t, j)
	prove := func(c challenge) string { return client.Prove(key, client.RoleClient, c.ConnectionID, c.Challenge) }

	for _, attack := range []struct {
		name string
		code int
		do   func() *rawSocket
	}{
		{"the challenge of another connection", 4007, func() *rawSocket {
			one, two := s.raw(t, a, good), s.raw(t, a, good)
			lent, own := one.begin(key), two.begin(key)
			two.prove(own.ConnectionID, prove(challenge{own.ConnectionID, lent.Challenge}))
			return two
		}},
		{"the challenge and the name of another connection", 4003, func() *rawSocket {
			one, two := s.raw(t, a, good), s.raw(t, a, good)
			lent := one.begin(key)
			two.begin(key)
			two.prove(lent.ConnectionID, prove(lent))
			return two
		}},
		{"a proof for another gateway", 4007, func() *rawSocket {
			one, two := s.raw(t, a, good), s.raw(t, b, good)
			lent, own := one.begin(key), two.begin(key)
			two.prove(own.ConnectionID, prove(lent))
			return two
		}},
		{"a challenge that was replaced", 4007, func() *rawSocket {
			r := s.raw(t, a, good)
			old := r.begin(key)
			young := r.begin(key)
			r.prove(young.ConnectionID, prove(challenge{young.ConnectionID, old.Challenge}))
			return r
		}},
		{"a connection that was replaced", 4003, func() *rawSocket {
			r := s.raw(t, a, good)
			old := r.begin(key)
			r.begin(key)
			r.prove(old.ConnectionID, prove(old))
			return r
		}},
		{"another device's proof for a replaced claim", 4007, func() *rawSocket {
			r := s.raw(t, a, good)
			other := newKey(t)
			r.begin(other)
			c := r.begin(key)
			r.prove(c.ConnectionID, client.Prove(other, client.RoleClient, c.ConnectionID, c.Challenge))
			return r
		}},
		{"the other dialect's transcript", 4007, func() *rawSocket {
			r := s.raw(t, a, good)
			c := r.begin(key)
			text := fmt.Sprintf("tyrum-connect-proof\nprotocol_rev=2\nrole=client\ndevice_id=%s\nconnection_id=%s\nchallenge=%s\n", client.DeviceID(public(key)), c.ConnectionID, c.Challenge)
			r.prove(c.ConnectionID, base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(text))))
			return r
		}},
		{"a proof of nothing", 4003, func() *rawSocket {
			r := s.raw(t, a, good)
			r.prove(r.begin(key).ConnectionID, "")
			return r
		}},
		{"the challenge as its own proof", 4007, func() *rawSocket {
			r := s.raw(t, a, good)
			c := r.begin(key)
			// Not by prove: what the gateway has said itself is no secret.
			r.ask("connect.proof", map[string]string{"connection_id": c.ConnectionID, "proof": c.Challenge})
			return r
		}},
		{"the transcript's lines in the connection_id", 4003, func() *rawSocket {
			r := s.raw(t, a, good)
			c := r.begin(key)
			r.prove(c.ConnectionID+"\nchallenge="+c.Challenge, prove(c))
			return r
		}},
	} {
		s.untouched(t, attack.name, func() { require.Equal(t, attack.code, attack.do().code(), attack.name) })
	}

	// Once in, the handshake cannot be done again, as anybody.
	r := s.raw(t, a, good)
	c, proof := r.enter(key)
	s.secret("a proof", proof)
	s.settle(t, j)
	s.untouched(t, "a handshake after the handshake", func() {
		r.prove(c.ConnectionID, proof)
		require.Equal(t, client.CodeUnsupportedRequest, r.frame().Error.Code)
		r.ask("connect.init", initOf(newKey(t), nil, nil))
		require.Equal(t, client.CodeUnsupportedRequest, r.frame().Error.Code)
		r.ask("ping", struct{}{})
		require.True(t, *r.frame().OK)
	})
}
