package machine

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"rollcall/subjects"
)

// Dialect is how a peer speaks the handshake.
type Dialect int

// The dialects. Their steps are the same; what they differ in is in their rules.
const (
	// Native is rollcall.v1.
	Native Dialect = iota
	// Tyrum is tyrum-v1, see tyrum.go.
	Tyrum
)

// rules are what the dialects differ in.
type rules struct {
	// heading is the first line of what a device signs.
	heading string
	// request reads a frame, stray is the reason to refuse one that is no step of
	// the handshake.
	request func(data []byte) (Request, error)
	stray   func(data []byte) string
	// init and proof read the payloads of the two requests.
	init  func(payload json.RawMessage) (Init, error)
	proof func(payload json.RawMessage) (proofPayload, error)
	// binary reads what a peer encoded as base64url.
	binary func(text string) ([]byte, error)
	// vet holds a claim against the token, in the order that peers rely on to learn
	// what is wrong with them.
	vet func(c claim) *Close
}

func (d Dialect) rules() rules {
	switch d {
	case Tyrum:
		return tyrumRules()
	case Native:
		return nativeRules()
	}
	return nativeRules()
}

// Transcript is what a device signs: six lines, each ended by a line feed.
func (d Dialect) Transcript(role, deviceID, connectionID, challenge string) []byte {
	return fmt.Appendf(nil, "%s\nprotocol_rev=%d\nrole=%s\ndevice_id=%s\nconnection_id=%s\nchallenge=%s\n",
		d.rules().heading, ProtocolRev, role, deviceID, connectionID, challenge)
}

// claim is who a peer says that it is, beside the token that it shows.
type claim struct {
	peer Peer
	role string
	// named says that the device id is that of the public key, and key is that key;
	// nil if it is none of ours.
	named bool
	key   ed25519.PublicKey
}

// elsewhere reports whether the token is bound to another device. A key of another
// kind has no user nkey, so only a bearer gets as far as the proof with it, and
// fails there.
func (c claim) elsewhere() bool { return !c.peer.Bearer && !bytes.Equal(c.key, c.peer.Key) }

func nativeRules() rules {
	return rules{
		heading: "rollcall-connect-proof",
		request: DecodeRequest,
		stray:   func([]byte) string { return expected },
		init:    decodeInit, proof: decodeProof, binary: decodeLenient, vet: vetNative,
	}
}

// vetNative looks at the device, the role and the binding, in this order.
func vetNative(c claim) *Close {
	switch {
	case !c.named:
		return &Close{Code: CodeDevice, Reason: "device_id mismatch"}
	case c.role != c.peer.Role:
		return &Close{Code: CodeUnauthorized, Reason: "unauthorized"}
	case c.elsewhere():
		return &Close{Code: CodeBinding, Reason: "token bound to another device"}
	default:
		return nil
	}
}

// claimOf is what an init claims.
func claimOf(peer Peer, init Init, binary func(string) ([]byte, error)) claim {
	c := claim{peer: peer, role: init.Role}
	der, err := binary(init.Device.Pubkey)
	if err == nil {
		c.named, c.key = subjects.InstanceIDOfSPKI(der) == init.Device.DeviceID, ed25519Key(der)
	}
	return c
}

// decodeLenient reads base64url with or without padding.
func decodeLenient(s string) ([]byte, error) {
	raw, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(s, "="))
	if err != nil {
		return nil, fmt.Errorf("decode base64url: %w", err)
	}
	return raw, nil
}
