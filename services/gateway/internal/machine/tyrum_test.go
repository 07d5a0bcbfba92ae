package machine_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/machine"
	"rollcall/subjects"
)

const shape = "expected connect.init/connect.proof"

// speaker is a peer in one dialect.
type speaker struct {
	dialect machine.Dialect
	heading string
}

func speakers() map[string]speaker {
	return map[string]speaker{
		"rollcall.v1": {machine.Native, "rollcall-connect-proof"},
		"tyrum-v1":    {machine.Tyrum, "tyrum-connect-proof"},
	}
}

// with is a handshake of a peer with a token.
func (s speaker) with(p machine.Peer) machine.State {
	return machine.State{Peer: p, Dialect: s.dialect}
}

func (d device) public(t *testing.T) ed25519.PublicKey {
	t.Helper()
	key, ok := d.key.Public().(ed25519.PublicKey)
	require.True(t, ok)
	return key
}

// TestCheckOrder goes through everything a handshake is refused for, in the order
// in which it is looked at, in both dialects. Each frame is also wrong in every way
// that comes later in the list, as far as one frame can be.
func TestCheckOrder(t *testing.T) {
	t.Parallel()
	d, other := newDevice(t), newDevice(t)
	client := machine.Peer{Role: "client", Bearer: true}
	boundClient := machine.Peer{Role: "client", Key: other.public(t)}
	boundNode := machine.Peer{Role: "node", Key: other.public(t)}
	wrong := func(edit func(p, in map[string]any)) []byte {
		return frame(t, machine.TypeInit, change(d, edit))
	}
	worst := func(p, in map[string]any) { p["protocol_rev"], p["role"], in["device_id"] = 3, "node", other.id }
	elsewhere := func(p, in map[string]any) { p["role"], in["device_id"] = "node", other.id }
	asNode := func(p, _ map[string]any) { p["role"] = "node" }

	type refusal struct {
		code   int
		reason string
	}
	same := func(code int, reason string) map[string]refusal {
		return map[string]refusal{"rollcall.v1": {code, reason}, "tyrum-v1": {code, reason}}
	}
	rows := []struct {
		name  string
		peer  machine.Peer
		frame []byte
		want  map[string]refusal
	}{
		{"1 no JSON", client, []byte("hello"), same(4003, "invalid json")},
		{"2 another type", client, []byte(`{"request_id":"1","type":"ping","payload":{}}`), same(4003, shape)},
		{"2 a key too many", client, wrong(func(p, in map[string]any) { worst(p, in); p["agent_id"] = "a1" }), same(4003, shape)},
		{"2 null", client, wrong(func(p, in map[string]any) { worst(p, in); in["label"] = nil }), same(4003, shape)},
		{"2b the request of the past", client, []byte(`{"request_id":"1","type":"connect","payload":{"capabilities":[]}}`), map[string]refusal{
			"rollcall.v1": {4003, shape},
			"tyrum-v1":    {4003, "legacy connect is deprecated; use connect.init/connect.proof"},
		}},
		{"3 revision", client, wrong(worst), same(4005, "protocol_rev mismatch")},
		{"4 paired, not as a node", boundNode, wrong(func(_, in map[string]any) { in["device_id"] = other.id }), map[string]refusal{
			"rollcall.v1": {4006, "device_id mismatch"},
			"tyrum-v1":    {4001, "unauthorized"},
		}},
		{"5 device id", client, wrong(elsewhere), same(4006, "device_id mismatch")},
		{"6 role", client, wrong(asNode), same(4001, "unauthorized")},
		{"6 bound to another device", boundClient, wrong(func(_, _ map[string]any) {}), map[string]refusal{
			"rollcall.v1": {4008, "token bound to another device"},
			"tyrum-v1":    {4001, "unauthorized"},
		}},
		{"7 paired with another node", boundNode, wrong(asNode), map[string]refusal{
			"rollcall.v1": {4008, "token bound to another device"},
			"tyrum-v1":    {4008, "scoped token mismatch"},
		}},
		{"8 proof before init", client, proof(t, idA, "AAAA"), same(4003, "expected connect.init first")},
	}
	for name, s := range speakers() {
		for _, row := range rows {
			t.Run(name+"/"+row.name, func(t *testing.T) {
				t.Parallel()
				_, effects := machine.Step(s.with(row.peer), received(row.frame, idA))
				requireClose(t, effects, row.want[name].code, row.want[name].reason)
			})
		}
		t.Run(name+"/9 and 10", func(t *testing.T) {
			t.Parallel()
			started, challenge := start(t, s.with(client), d, idA)
			_, effects := machine.Step(started, received(proof(t, idB, "AAAA"), idA))
			requireClose(t, effects, 4003, "connection_id mismatch")
			for _, bad := range []string{
				"AAAA", "!!", d.signUnder(s.heading, "client", idA, "another challenge"),
				d.signUnder("connect-proof", "client", idA, challenge.Challenge),
			} {
				_, effects = machine.Step(started, received(proof(t, idA, bad), idA))
				requireClose(t, effects, 4007, "invalid proof")
			}
			_, effects = machine.Step(started, received(proof(t, idA, d.signUnder(s.heading, "client", idA, challenge.Challenge)), idA))
			require.IsType(t, machine.Authenticated{}, effects[0])
		})
	}
}

// TestDialectsDoNotMix holds that a proof of one dialect is none in the other.
func TestDialectsDoNotMix(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	for name, s := range speakers() {
		for heading, signed := range speakers() {
			started, challenge := start(t, s.with(machine.Peer{Role: "client", Bearer: true}), d, idA)
			_, effects := machine.Step(started, received(proof(t, idA, d.signUnder(signed.heading, "client", idA, challenge.Challenge)), idA))
			if name == heading {
				require.IsType(t, machine.Authenticated{}, effects[0])
			} else {
				requireClose(t, effects, 4007, "invalid proof")
			}
		}
	}
}

func TestTranscript(t *testing.T) {
	t.Parallel()
	require.Equal(t, "tyrum-connect-proof\nprotocol_rev=2\nrole=node\ndevice_id=dev_a\nconnection_id=c\nchallenge=x\n",
		string(machine.Tyrum.Transcript("node", "dev_a", "c", "x")))
	require.Equal(t, "rollcall-connect-proof\nprotocol_rev=2\nrole=client\ndevice_id=dev_a\nconnection_id=c\nchallenge=x\n",
		string(machine.Native.Transcript("client", "dev_a", "c", "x")))
}

// admitted goes through a handshake in tyrum-v1 and returns what was understood.
func admitted(t *testing.T, d device, payload any, edit func(init, proof map[string]any)) machine.Init {
	t.Helper()
	begin := map[string]any{"request_id": strings.Repeat("r", 500), "type": machine.TypeInit, "payload": payload}
	finish := map[string]any{"request_id": " ", "type": machine.TypeProof}
	send := func(s machine.State, frame map[string]any) (machine.State, machine.Effect) {
		data, err := json.Marshal(frame)
		require.NoError(t, err)
		s, effects := machine.Step(s, received(data, idA))
		require.Len(t, effects, 1)
		return s, effects[0]
	}
	edit(begin, finish)
	s, effect := send(machine.State{Peer: machine.Peer{Role: "client", Bearer: true}, Dialect: machine.Tyrum}, begin)
	challenge, ok := effect.(machine.Challenge)
	require.True(t, ok, "%#v", effect)
	require.Equal(t, begin["request_id"], challenge.RequestID)
	signature := d.signUnder("tyrum-connect-proof", "client", idA, challenge.Challenge)
	finish["payload"] = map[string]any{"connection_id": " " + idA + "\n", "proof": "\ufeff" + signature + "="}
	_, effect = send(s, finish)
	done, ok := effect.(machine.Authenticated)
	require.True(t, ok, "%#v", effect)
	require.Equal(t, " ", done.RequestID)
	return done.Init
}

// TestTyrumLeniencies holds that the dialect takes what its own gateway takes.
func TestTyrumLeniencies(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	standard := strings.NewReplacer("-", "+", "_", "/").Replace(d.pubkey())
	payload := map[string]any{
		"protocol_rev": 2, "role": "client",
		"device": map[string]any{
			"device_id": "\t" + d.id + "\u00a0", "pubkey": " " + standard[:7] + "\n " + standard[7:] + "==",
			"label": "  box ", "platform": strings.Repeat("p", 5000), "version": "1.2", "mode": " ui ",
			"device_type": "tablet", "device_platform": "ios", "device_model": "m",
		},
		"capabilities": []any{
			map[string]any{"id": " tyrum.camera.capture-photo "},
			map[string]any{"id": "a.b1", "version": "2.0.0-rc.1+x-1"},
			map[string]any{"id": "a.b1", "version": "3.0.0"},
		},
	}
	init := admitted(t, d, payload, func(init, proof map[string]any) { init["trace"], proof["trace"] = nil, []any{1} })
	require.Equal(t, d.id, init.Device.DeviceID)
	require.Equal(t, "box", init.Device.Label)
	require.Equal(t, "ui", init.Device.Mode)
	require.Equal(t, "tablet", init.Device.DeviceType)
	require.Equal(t, []subjects.Capability{
		{ID: "tyrum.camera.capture-photo", Version: "1.0.0"}, {ID: "a.b1", Version: "3.0.0"},
	}, init.Capabilities)
}

// TestTyrumFitsRows holds that whatever that client may say of itself becomes
// something that an event can hold.
func TestTyrumFitsRows(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	var many []any
	for i := range 100 {
		many = append(many, map[string]any{"id": "a.b" + strings.Repeat("c", i*10)})
	}
	init := admitted(t, d, change(d, func(p, in map[string]any) {
		in["label"] = "a\tb" + strings.Repeat("é", 300)
		in["version"] = strings.Repeat("v", 300)
		p["capabilities"] = many
	}), func(_, _ map[string]any) {})
	require.NoError(t, subjects.CheckText("label", init.Device.Label))
	require.Equal(t, "a b"+strings.Repeat("é", 126), init.Device.Label)
	require.Equal(t, strings.Repeat("v", 256), init.Device.Version)
	require.NoError(t, subjects.CheckCapabilities("capabilities", init.Capabilities))
	require.Len(t, init.Capabilities, 26, "ids that are too long are left out")
}

func TestTyrumRefusals(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	set := func(key string, value any) map[string]any {
		return change(d, func(p, _ map[string]any) { p[key] = value })
	}
	setDevice := func(key string, value any) map[string]any {
		return change(d, func(_, in map[string]any) { in[key] = value })
	}
	capability := func(id, version string) map[string]any {
		return set("capabilities", []any{map[string]any{"id": id, "version": version}})
	}
	tests := map[string]struct {
		payload any
		code    int
		reason  string
	}{
		"revision 0":          {set("protocol_rev", 0), 4003, shape},
		"no revision":         {change(d, func(p, _ map[string]any) { delete(p, "protocol_rev") }), 4003, shape},
		"unknown role":        {set("role", "admin"), 4003, shape},
		"role is not trimmed": {set("role", " client"), 4003, shape},
		"blank id":            {setDevice("device_id", "  "), 4003, shape},
		"no pubkey":           {change(d, func(_, in map[string]any) { delete(in, "pubkey") }), 4003, shape},
		"empty label":         {setDevice("label", ""), 4003, shape},
		"blank version":       {setDevice("version", "\u2003"), 4003, shape},
		"null mode":           {setDevice("mode", nil), 4003, shape},
		"unknown type":        {setDevice("device_type", "fridge"), 4003, shape},
		"unknown platform":    {setDevice("device_platform", "beos"), 4003, shape},
		"unknown device key":  {setDevice("token", "x"), 4003, shape},
		"no capabilities":     {set("capabilities", nil), 4003, shape},
		"one word":            {capability("desktop", "1.0.0"), 4003, shape},
		"upper case":          {capability("Tyrum.desktop", "1.0.0"), 4003, shape},
		"empty word":          {capability("tyrum..x", "1.0.0"), 4003, shape},
		"no semver":           {capability("tyrum.x", "1.0"), 4003, shape},
		"leading zero":        {capability("tyrum.x", "01.0.0"), 4003, shape},
		"odd pre-release":     {capability("tyrum.x", "1.0.0-"), 4003, shape},
		"odd build":           {capability("tyrum.x", "1.0.0+ä"), 4003, shape},
		"capability key":      {set("capabilities", []any{map[string]any{"id": "a.b", "metadata": 1}}), 4003, shape},
		"pubkey is noise":     {setDevice("pubkey", "%%%"), 4006, "device_id mismatch"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := machine.State{Peer: machine.Peer{Role: "client", Bearer: true}, Dialect: machine.Tyrum}
			_, effects := machine.Step(s, received(frame(t, machine.TypeInit, test.payload), idA))
			requireClose(t, effects, test.code, test.reason)
		})
	}
}

// TestTyrumModeIsNamed holds that nobody gets in with a mode that would make other
// clients drop what they list.
func TestTyrumModeIsNamed(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	s := machine.State{Peer: machine.Peer{Role: "client", Bearer: true}, Dialect: machine.Tyrum}
	payload := change(d, func(_, in map[string]any) { in["mode"] = "toaster" })
	_, effects := machine.Step(s, received(frame(t, machine.TypeInit, payload), idA))
	refused, ok := effects[0].(machine.Close)
	require.True(t, ok)
	require.Equal(t, 4003, refused.Code)
	require.True(t, strings.HasPrefix(refused.Reason, shape+": device.mode must be one of"), refused.Reason)
}

// TestTyrumProofShapes holds the frame of connect.proof to its shape.
func TestTyrumProofShapes(t *testing.T) {
	t.Parallel()
	d := newDevice(t)
	for _, payload := range []string{`{}`, `{"connection_id":"a"}`, `{"connection_id":" ","proof":"b"}`, `{"connection_id":"a","proof":"b","c":1}`, `[]`} {
		s, _ := start(t, machine.State{Peer: machine.Peer{Role: "client", Bearer: true}, Dialect: machine.Tyrum}, d, idA)
		_, effects := machine.Step(s, received(frame(t, machine.TypeProof, json.RawMessage(payload)), idA))
		requireClose(t, effects, 4003, shape)
	}
	s, _ := start(t, machine.State{Peer: machine.Peer{Role: "client", Bearer: true}, Dialect: machine.Tyrum}, d, idA)
	_, effects := machine.Step(s, received([]byte(`{"request_id":"1","type":"connect.proof"}`), idA))
	requireClose(t, effects, 4003, shape)
	five := base64.RawURLEncoding.EncodeToString([]byte("abc")) + "A"
	_, effects = machine.Step(s, received(proof(t, idA, five), idA))
	requireClose(t, effects, 4007, "invalid proof")
}
