// Package machine decides a socket's handshake. It is pure: frames and fresh
// values go in, effects come out; who reads the socket, makes challenges and
// stores events is the shell's affair.
//
//	awaiting init ──connect.init──► awaiting proof ──connect.proof──► done
//	                                 ▲          │
//	                                 └──────────┘ another connect.init replaces the first
//
// Every other step closes the socket, with the code and reason that tell the
// peer which rule it broke.
package machine

import (
	"cmp"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"unicode/utf8"
)

// ProtocolRev is the revision of the handshake a peer must speak.
const ProtocolRev = 2

// Bounds of what a peer may send before it is authenticated, where a State sets none.
const (
	DefaultFrames = 8
	DefaultBytes  = 64 << 10
)

// Types of the two requests of a handshake.
const (
	TypeInit  = "connect.init"
	TypeProof = "connect.proof"
)

// Peer is what the access token already says of whoever holds the socket.
type Peer struct {
	Role string
	// Key is the Ed25519 key in the token's subject; it is the device's unless
	// Bearer is set.
	Key    ed25519.PublicKey
	Bearer bool
}

// State is a handshake under way. The zero value, with Peer set, awaits
// connect.init in the native dialect.
type State struct {
	Peer    Peer
	Dialect Dialect
	// MaxFrames and MaxBytes bound what the peer may send; 0 is the default.
	MaxFrames, MaxBytes int
	phase               phase
	// frames and bytes count what came so far.
	frames, bytes int
	init          Init
	key           ed25519.PublicKey // nil if the device's key is none
	connectionID  string
	challenge     string
}

type phase int

const (
	awaitingInit phase = iota
	awaitingProof
	done
)

// Event is what happens to a handshake.
//
//sumtype:decl
type Event interface{ event() }

// Received is a frame from the peer, with the values a connect.init in it
// would be answered with: a new connection id and 32 random bytes.
type Received struct {
	Data         []byte
	ConnectionID string
	Challenge    []byte
}

// TimedOut is the end of the time a handshake may take.
type TimedOut struct{}

func (Received) event() {}
func (TimedOut) event() {}

// Effect is what the shell is to do.
//
//sumtype:decl
type Effect interface{ effect() }

// Challenge answers connect.init.
type Challenge struct {
	RequestID    string
	ConnectionID string
	Challenge    string
}

// Authenticated says that the peer holds the device's key: it is to be
// admitted, and connect.proof answered once the opening is stored.
type Authenticated struct {
	RequestID    string
	ConnectionID string
	Init         Init
}

// Close refuses the peer.
type Close struct {
	Code   int
	Reason string
}

func (Challenge) effect()     {}
func (Authenticated) effect() {}
func (Close) effect()         {}

// Step advances a handshake. After a Close or Authenticated nothing has any
// effect.
func Step(s State, e Event) (State, []Effect) {
	if s.phase == done {
		return s, nil
	}
	switch e := e.(type) {
	case TimedOut:
		return s.refuse(CodeTimeout, "handshake timeout")
	case Received:
		return s.received(e)
	}
	return s, nil
}

func (s State) received(e Received) (State, []Effect) {
	s.frames++
	s.bytes += len(e.Data)
	if s.frames > cmp.Or(s.MaxFrames, DefaultFrames) || s.bytes > cmp.Or(s.MaxBytes, DefaultBytes) {
		return s.refuse(CodeBadFrame, "handshake overflow")
	}
	if !utf8.Valid(e.Data) || !json.Valid(e.Data) {
		return s.refuse(CodeBadFrame, "invalid json")
	}
	speaks := s.Dialect.rules()
	request, err := speaks.request(e.Data)
	if err != nil {
		return s.refuse(CodeBadFrame, speaks.stray(e.Data))
	}
	switch request.Type {
	case TypeInit:
		return s.receivedInit(request, e)
	case TypeProof:
		return s.receivedProof(request)
	default:
		return s.refuse(CodeBadFrame, speaks.stray(e.Data))
	}
}

// receivedInit checks what is claimed: its shape, the revision, and then what the
// token says to it.
func (s State) receivedInit(request Request, e Received) (State, []Effect) {
	speaks := s.Dialect.rules()
	init, err := speaks.init(request.Payload)
	if err != nil {
		return s.refuse(CodeBadFrame, initReason(err))
	}
	if *init.ProtocolRev != ProtocolRev {
		return s.refuse(CodeRevision, "protocol_rev mismatch")
	}
	claimed := claimOf(s.Peer, init, speaks.binary)
	if refusal := speaks.vet(claimed); refusal != nil {
		return s.refuse(refusal.Code, refusal.Reason)
	}
	s.phase, s.init, s.key = awaitingProof, init, claimed.key
	s.connectionID = e.ConnectionID
	s.challenge = base64.RawURLEncoding.EncodeToString(e.Challenge)
	return s, []Effect{Challenge{RequestID: request.RequestID, ConnectionID: s.connectionID, Challenge: s.challenge}}
}

func (s State) receivedProof(request Request) (State, []Effect) {
	speaks := s.Dialect.rules()
	proof, err := speaks.proof(request.Payload)
	if err != nil {
		return s.refuse(CodeBadFrame, expected)
	}
	if s.phase != awaitingProof {
		return s.refuse(CodeBadFrame, "expected connect.init first")
	}
	if proof.ConnectionID != s.connectionID {
		return s.refuse(CodeBadFrame, "connection_id mismatch")
	}
	signature, err := speaks.binary(proof.Proof)
	if err != nil || s.key == nil || !ed25519.Verify(s.key, s.transcript(), signature) {
		return s.refuse(CodeProof, "invalid proof")
	}
	s.phase = done
	return s, []Effect{Authenticated{RequestID: request.RequestID, ConnectionID: s.connectionID, Init: s.init}}
}

func (s State) transcript() []byte {
	return s.Dialect.Transcript(s.init.Role, s.init.Device.DeviceID, s.connectionID, s.challenge)
}

func (s State) refuse(code int, reason string) (State, []Effect) {
	s.phase = done
	return s, []Effect{Close{Code: code, Reason: cut(reason)}}
}

// initReason names the field only where a value, not the shape, is at fault:
// peers match the bare reason for everything else.
func initReason(err error) string {
	if value, ok := errors.AsType[*valueError](err); ok {
		return expected + ": " + value.problem.Message
	}
	return expected
}

// ed25519Key reads a DER SubjectPublicKeyInfo; nil if it holds no such key.
func ed25519Key(der []byte) ed25519.PublicKey {
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil
	}
	key, _ := parsed.(ed25519.PublicKey)
	return key
}
