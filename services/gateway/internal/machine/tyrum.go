package machine

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"

	"rollcall/subjects"
)

// The dialect tyrum-v1, as a client speaks it that is not ours to change. It reads
// texts trimmed and never empty, closes with its own reasons, and knows three
// enumerations that the native dialect leaves open. Where a text is longer than a
// row may hold it is cut, because that client knows no bound.

// legacy is the reason for the one request of its past that it still names.
const legacy = "legacy connect is deprecated; use connect.init/connect.proof"

// defaultCapability is the version of a capability that names none.
const defaultCapability = "1.0.0"

func tyrumRules() rules {
	return rules{
		heading: "tyrum-connect-proof",
		request: DecodeTyrumRequest,
		stray:   strayTyrum,
		init:    decodeTyrumInit, proof: decodeTyrumProof, binary: decodeLoose, vet: vetTyrum,
	}
}

// tyrumRequest is the frame of a request in tyrum-v1.
type tyrumRequest struct {
	RequestID string          `json:"request_id"`
	Type      string          `json:"type"`
	Payload   json.RawMessage `json:"payload"`
	// Trace is for whoever follows requests over processes; nobody reads it here.
	Trace json.RawMessage `json:"trace"`
}

// DecodeTyrumRequest reads a request frame of tyrum-v1: the id may have any length,
// a trace may come with it, and the payload is missed only by who reads it.
func DecodeTyrumRequest(data []byte) (Request, error) {
	r, err := subjects.Decode[tyrumRequest](data)
	if err != nil {
		return Request{}, err
	}
	if r.RequestID == "" || r.Type == "" {
		return Request{}, subjects.Invalid("request_id", "and type must be there")
	}
	return Request{RequestID: r.RequestID, Type: r.Type, Payload: r.Payload}, nil
}

func strayTyrum(data []byte) string {
	var frame map[string]json.RawMessage
	if json.Unmarshal(data, &frame) == nil && string(frame["type"]) == `"connect"` {
		return legacy
	}
	return expected
}

// vetTyrum takes a node's token that is bound to a device for what pairing issues
// there, which is told apart from other bound tokens.
func vetTyrum(c claim) *Close {
	paired := c.peer.Role == subjects.RoleNode && !c.peer.Bearer
	unauthorized := &Close{Code: CodeUnauthorized, Reason: "unauthorized"}
	switch {
	case paired && c.role != subjects.RoleNode:
		return unauthorized
	case !c.named:
		return &Close{Code: CodeDevice, Reason: "device_id mismatch"}
	case !paired && (c.role != c.peer.Role || c.elsewhere()):
		return unauthorized
	case paired && c.elsewhere():
		return &Close{Code: CodeBinding, Reason: "scoped token mismatch"}
	default:
		return nil
	}
}

type tyrumInit struct {
	ProtocolRev  *int              `json:"protocol_rev"`
	Role         string            `json:"role"`
	Device       tyrumDevice       `json:"device"`
	Capabilities []tyrumCapability `json:"capabilities"`
}

type tyrumDevice struct {
	DeviceID       string  `json:"device_id"`
	Pubkey         string  `json:"pubkey"`
	Label          *string `json:"label"`
	Platform       *string `json:"platform"`
	Version        *string `json:"version"`
	Mode           *string `json:"mode"`
	DeviceType     *string `json:"device_type"`
	DevicePlatform *string `json:"device_platform"`
	DeviceModel    *string `json:"device_model"`
}

type tyrumCapability struct {
	ID      string  `json:"id"`
	Version *string `json:"version"`
}

// decodeTyrumInit reads connect.init. A mode that there is not is refused here:
// shown to others it would make their clients drop the whole listing.
func decodeTyrumInit(payload json.RawMessage) (Init, error) {
	p, err := subjects.Decode[tyrumInit](payload)
	if err != nil {
		return Init{}, err
	}
	var t texts
	d := Device{
		DeviceID: t.required(p.Device.DeviceID), Pubkey: t.required(p.Device.Pubkey),
		Label: fit(t.optional(p.Device.Label)), Platform: t.optional(p.Device.Platform),
		Version: fit(t.optional(p.Device.Version)), Mode: t.optional(p.Device.Mode),
		DeviceType:     t.oneOf(p.Device.DeviceType, "phone", "tablet", "desktop", "browser"),
		DevicePlatform: t.oneOf(p.Device.DevicePlatform, "ios", "android", "macos", "windows", "linux", "web"),
		DeviceModel:    t.optional(p.Device.DeviceModel),
	}
	capabilities := t.capabilities(p.Capabilities)
	known := p.Role == subjects.RoleClient || p.Role == subjects.RoleNode
	if t.broken || !known || p.ProtocolRev == nil || *p.ProtocolRev < 1 {
		return Init{}, subjects.Invalid("payload", "is not that of connect.init")
	}
	if problem := problemOf(subjects.CheckMode("device.mode", d.Mode)); problem != nil {
		return Init{}, &valueError{problem: problem}
	}
	return Init{ProtocolRev: p.ProtocolRev, Role: p.Role, Device: d, Capabilities: capabilities}, nil
}

func decodeTyrumProof(payload json.RawMessage) (proofPayload, error) {
	p, err := subjects.Decode[proofPayload](payload)
	if err != nil {
		return proofPayload{}, err
	}
	var t texts
	p.ConnectionID, p.Proof = t.required(p.ConnectionID), t.required(p.Proof)
	if t.broken {
		return proofPayload{}, subjects.Invalid("payload", "misses a required key")
	}
	return p, nil
}

// capabilities are what a device can do, each once, with the version named last.
// Those that do not fit into an event are left out of it.
func (t *texts) capabilities(given []tyrumCapability) []subjects.Capability {
	var out []subjects.Capability
	for _, g := range given {
		c := subjects.Capability{ID: t.required(g.ID), Version: defaultCapability}
		if g.Version != nil {
			c.Version = Trim(*g.Version)
		}
		if !isCapability(c.ID) || !isSemver(c.Version) {
			t.broken = true
			return nil
		}
		at := slices.IndexFunc(out, func(o subjects.Capability) bool { return o.ID == c.ID })
		switch {
		case at >= 0 && fit(c.Version) == c.Version:
			out[at] = c
		case at < 0 && subjects.CheckCapabilities("", append(slices.Clone(out), c)) == nil:
			out = append(out, c)
		}
	}
	return out
}

// isCapability asks for two or more lower-case words with dots between them.
func isCapability(id string) bool {
	words := strings.Split(id, ".")
	word := func(w string) bool {
		return w != "" && 'a' <= w[0] && w[0] <= 'z' &&
			strings.Trim(w, "abcdefghijklmnopqrstuvwxyz0123456789-") == ""
	}
	return len(words) > 1 && !slices.ContainsFunc(words, func(w string) bool { return !word(w) })
}

// isSemver asks for three numbers, and maybe a pre-release and a build.
func isSemver(version string) bool {
	version, build, built := strings.Cut(version, "+")
	core, pre, before := strings.Cut(version, "-")
	label := func(s string) bool {
		return s != "" && strings.Trim(s, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz.-") == ""
	}
	if built && !label(build) || before && !label(pre) {
		return false
	}
	numbers := strings.Split(core, ".")
	number := func(s string) bool {
		return s != "" && (s == "0" || s[0] != '0') && strings.Trim(s, "0123456789") == ""
	}
	return len(numbers) == 3 && !slices.ContainsFunc(numbers, func(n string) bool { return !number(n) })
}

// decodeLoose reads base64 as that client's own gateway does: of either alphabet,
// up to the padding, past whatever belongs to neither.
func decodeLoose(text string) ([]byte, error) {
	text, _, _ = strings.Cut(text, "=")
	digits := strings.Map(func(r rune) rune {
		switch {
		case r == '+':
			return '-'
		case r == '/':
			return '_'
		case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9', r == '-', r == '_':
			return r
		default:
			return -1
		}
	}, text)
	if len(digits)%4 == 1 {
		digits = digits[:len(digits)-1] // six bits are no byte
	}
	return base64.RawURLEncoding.DecodeString(digits)
}
