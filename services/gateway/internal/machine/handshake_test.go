package machine_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/machine"
	"rollcall/subjects"
)

const (
	idA = "0195f3a0-0000-7000-8000-000000000001"
	idB = "0195f3a0-0000-7000-8000-000000000002"
)

// device is a peer's device in a test.
type device struct {
	key ed25519.PrivateKey
	der []byte
	id  string
}

func newDevice(t *testing.T) device {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(pub)
	require.NoError(t, err)
	return device{key: key, der: der, id: subjects.InstanceIDOfSPKI(der)}
}

func (d device) pubkey() string { return base64.RawURLEncoding.EncodeToString(d.der) }

func (d device) payload() map[string]any {
	return map[string]any{
		"protocol_rev": 2, "role": "client",
		"device": map[string]any{"device_id": d.id, "pubkey": d.pubkey(), "label": "box", "version": "1.2", "mode": "cli"},
	}
}

func (d device) sign(role, connection, challenge string) string {
	return d.signUnder("rollcall-connect-proof", role, connection, challenge)
}

func (d device) signUnder(heading, role, connection, challenge string) string {
	transcript := fmt.Sprintf("%s\nprotocol_rev=2\nrole=%s\ndevice_id=%s\nconnection_id=%s\nchallenge=%s\n",
		heading, role, d.id, connection, challenge)
	return base64.RawURLEncoding.EncodeToString(ed25519.Sign(d.key, []byte(transcript)))
}

func frame(t *testing.T, kind string, payload any) []byte {
	t.Helper()
	data, err := json.Marshal(map[string]any{"request_id": "r1", "type": kind, "payload": payload})
	require.NoError(t, err)
	return data
}

func received(data []byte, id string) machine.Received {
	return machine.Received{Data: data, ConnectionID: id, Challenge: []byte(strings.Repeat(id[35:], 32))}
}

func bearer() machine.State {
	return machine.State{Peer: machine.Peer{Role: "client", Bearer: true}}
}

// start sends a good init and returns the challenge.
func start(t *testing.T, s machine.State, d device, id string) (machine.State, machine.Challenge) {
	t.Helper()
	s, effects := machine.Step(s, received(frame(t, machine.TypeInit, d.payload()), id))
	require.Len(t, effects, 1)
	challenge, ok := effects[0].(machine.Challenge)
	require.True(t, ok, "%#v", effects[0])
	return s, challenge
}

func proof(t *testing.T, connection, text string) []byte {
	t.Helper()
	return frame(t, machine.TypeProof, map[string]any{"connection_id": connection, "proof": text})
}

func requireClose(t *testing.T, effects []machine.Effect, code int, reason string) {
	t.Helper()
	require.Equal(t, []machine.Effect{machine.Close{Code: code, Reason: reason}}, effects)
}

func TestHandshakeSucceeds(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s, challenge := start(t, bearer(), d, idA)
	require.Equal(t, "r1", challenge.RequestID)
	require.Equal(t, idA, challenge.ConnectionID)
	require.Len(t, challenge.Challenge, 43)

	s, effects := machine.Step(s, received(proof(t, idA, d.sign("client", idA, challenge.Challenge)), idB))
	require.Len(t, effects, 1)
	authenticated, ok := effects[0].(machine.Authenticated)
	require.True(t, ok, "%#v", effects[0])
	require.Equal(t, idA, authenticated.ConnectionID)
	require.Equal(t, "box", authenticated.Init.Device.Label)

	_, effects = machine.Step(s, machine.TimedOut{})
	require.Empty(t, effects, "a handshake that is done cannot time out")
}

func TestBoundToken(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	key, ok := d.key.Public().(ed25519.PublicKey)
	require.True(t, ok)
	start(t, machine.State{Peer: machine.Peer{Role: "client", Key: key}}, d, idA)

	other := newDevice(t)
	_, effects := machine.Step(machine.State{Peer: machine.Peer{Role: "client", Key: key}},
		received(frame(t, machine.TypeInit, other.payload()), idA))
	requireClose(t, effects, 4008, "token bound to another device")
}

func TestSecondInitReplacesTheFirst(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s, first := start(t, bearer(), d, idA)
	s, second := start(t, s, d, idB)
	require.NotEqual(t, first.Challenge, second.Challenge)

	_, effects := machine.Step(s, received(proof(t, idA, d.sign("client", idA, first.Challenge)), idA))
	requireClose(t, effects, 4003, "connection_id mismatch")
	_, effects = machine.Step(s, received(proof(t, idB, d.sign("client", idB, second.Challenge)), idA))
	require.IsType(t, machine.Authenticated{}, effects[0])
}

// change returns d's init payload after an edit.
func change(d device, edit func(payload, device map[string]any)) map[string]any {
	payload := d.payload()
	inner, _ := payload["device"].(map[string]any)
	edit(payload, inner)
	return payload
}

func TestInitRefusals(t *testing.T) {
	t.Parallel()
	const shape = "expected connect.init/connect.proof"
	d := newDevice(t)
	set := func(key string, value any) map[string]any {
		return change(d, func(p, _ map[string]any) { p[key] = value })
	}
	setDevice := func(key string, value any) map[string]any {
		return change(d, func(_, in map[string]any) { in[key] = value })
	}
	tests := map[string]struct {
		payload any
		code    int
		reason  string
	}{
		"unknown key":            {set("agent_id", "a1"), 4003, shape},
		"unknown device key":     {setDevice("token", "x"), 4003, shape},
		"null":                   {set("capabilities", nil), 4003, shape},
		"null in device":         {setDevice("label", nil), 4003, shape},
		"no revision":            {change(d, func(p, _ map[string]any) { delete(p, "protocol_rev") }), 4003, shape},
		"no device":              {change(d, func(p, _ map[string]any) { delete(p, "device") }), 4003, shape},
		"no pubkey":              {change(d, func(_, in map[string]any) { delete(in, "pubkey") }), 4003, shape},
		"revision is text":       {set("protocol_rev", "2"), 4003, shape},
		"payload is a list":      {[]int{1}, 4003, shape},
		"bad role":               {set("role", "admin"), 4003, shape + ": role must be client or node"},
		"bad label":              {setDevice("label", strings.Repeat("x", 257)), 4003, shape + ": device.label must be at most 256 bytes"},
		"empty capability":       {set("capabilities", []any{map[string]any{"id": ""}}), 4003, shape + ": capabilities[0].id is required"},
		"older revision":         {set("protocol_rev", 1), 4005, "protocol_rev mismatch"},
		"revision before device": {change(d, func(p, in map[string]any) { p["protocol_rev"] = 3; in["device_id"] = "dev_x" }), 4005, "protocol_rev mismatch"},
		"another id":             {setDevice("device_id", newDevice(t).id), 4006, "device_id mismatch"},
		"pubkey no base64":       {setDevice("pubkey", "%%%"), 4006, "device_id mismatch"},
		"another role":           {set("role", "node"), 4001, "unauthorized"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, effects := machine.Step(bearer(), received(frame(t, machine.TypeInit, test.payload), idA))
			requireClose(t, effects, test.code, test.reason)
		})
	}
}

func TestBadModeIsNamed(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	payload := change(d, func(_, in map[string]any) { in["mode"] = "toaster" })
	_, effects := machine.Step(bearer(), received(frame(t, machine.TypeInit, payload), idA))
	refused, ok := effects[0].(machine.Close)
	require.True(t, ok)
	require.Equal(t, 4003, refused.Code)
	require.Contains(t, refused.Reason, "device.mode")
	require.LessOrEqual(t, len(refused.Reason), 123)
}

func TestFrameRefusals(t *testing.T) {
	t.Parallel()
	const shape = "expected connect.init/connect.proof"
	tests := map[string]struct{ data, reason string }{
		"no json":          {"hello", "invalid json"},
		"no utf-8":         {"{\"a\":\"\xff\"}", "invalid json"},
		"two values":       {"{} {}", "invalid json"},
		"a list":           {"[]", shape},
		"another type":     {`{"request_id":"1","type":"ping","payload":{}}`, shape},
		"a response":       {`{"request_id":"1","type":"connect.init","ok":true,"result":{}}`, shape},
		"extra key":        {`{"request_id":"1","type":"connect.init","payload":{},"x":1}`, shape},
		"no request id":    {`{"type":"connect.init","payload":{}}`, shape},
		"long request id":  {`{"request_id":"` + strings.Repeat("é", 129) + `","type":"connect.init","payload":{}}`, shape},
		"proof first":      {`{"request_id":"1","type":"connect.proof","payload":{"connection_id":"a","proof":"b"}}`, "expected connect.init first"},
		"proof extra key":  {`{"request_id":"1","type":"connect.proof","payload":{"connection_id":"a","proof":"b","c":1}}`, shape},
		"proof incomplete": {`{"request_id":"1","type":"connect.proof","payload":{"connection_id":"a"}}`, shape},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, effects := machine.Step(bearer(), received([]byte(test.data), idA))
			requireClose(t, effects, 4003, test.reason)
		})
	}
}

func TestProofRefusals(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	tests := map[string]func(machine.Challenge) string{
		"another challenge":  func(machine.Challenge) string { return d.sign("client", idA, "AAAA") },
		"another connection": func(c machine.Challenge) string { return d.sign("client", idB, c.Challenge) },
		"another role":       func(c machine.Challenge) string { return d.sign("node", idA, c.Challenge) },
		"another key":        func(c machine.Challenge) string { return newDevice(t).sign("client", idA, c.Challenge) },
		"short":              func(machine.Challenge) string { return "AAAA" },
		"no base64":          func(machine.Challenge) string { return "!!" },
	}
	for name, sign := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, challenge := start(t, bearer(), d, idA)
			s, effects := machine.Step(s, received(proof(t, idA, sign(challenge)), idB))
			requireClose(t, effects, 4007, "invalid proof")
			_, effects = machine.Step(s, received(proof(t, idA, d.sign("client", idA, challenge.Challenge)), idB))
			require.Empty(t, effects, "there is no second try")
		})
	}
}

func TestKeyOfAnotherKind(t *testing.T) {
	t.Parallel()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	require.NoError(t, err)
	d := newDevice(t)
	d.der, d.id = der, subjects.InstanceIDOfSPKI(der)

	s, challenge := start(t, bearer(), d, idA)
	_, effects := machine.Step(s, received(proof(t, idA, d.sign("client", idA, challenge.Challenge)), idB))
	requireClose(t, effects, 4007, "invalid proof")

	bound := machine.State{Peer: machine.Peer{Role: "client", Key: make([]byte, 32)}}
	_, effects = machine.Step(bound, received(frame(t, machine.TypeInit, d.payload()), idA))
	requireClose(t, effects, 4008, "token bound to another device")
}

func TestOverflow(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := bearer()
	for range 8 {
		s, _ = start(t, s, d, idA)
	}
	_, effects := machine.Step(s, received(frame(t, machine.TypeInit, d.payload()), idA))
	requireClose(t, effects, 4003, "handshake overflow")

	s = bearer()
	padded := func() []byte {
		return append(frame(t, machine.TypeInit, d.payload()), []byte(strings.Repeat(" ", 33<<10))...)
	}
	s, effects = machine.Step(s, received(padded(), idA))
	require.IsType(t, machine.Challenge{}, effects[0])
	_, effects = machine.Step(s, received(padded(), idA))
	requireClose(t, effects, 4003, "handshake overflow")
}

func TestTimeout(t *testing.T) {
	t.Parallel()
	s, effects := machine.Step(bearer(), machine.TimedOut{})
	requireClose(t, effects, 4002, "handshake timeout")
	_, effects = machine.Step(s, machine.TimedOut{})
	require.Empty(t, effects)
}

// FuzzStep holds that no frame makes a machine do anything but answer a
// challenge, or close within what a close frame carries.
func FuzzStep(f *testing.F) {
	f.Add([]byte(`{"request_id":"1","type":"connect.init","payload":{"protocol_rev":2,"role":"client","device":{"device_id":"a","pubkey":"b"}}}`))
	f.Add([]byte(`{"request_id":"1","type":"connect.proof","payload":{"connection_id":"a","proof":"b"}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, dialect := range []machine.Dialect{machine.Native, machine.Tyrum} {
			s := bearer()
			s.Dialect = dialect
			_, effects := machine.Step(s, received(data, idA))
			require.Len(t, effects, 1)
			switch effect := effects[0].(type) {
			case machine.Challenge:
			case machine.Close:
				require.LessOrEqual(t, len(effect.Reason), 123)
			case machine.Authenticated:
				t.Fatal("authenticated without a challenge")
			}
		}
	})
}
