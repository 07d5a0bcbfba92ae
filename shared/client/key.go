package client

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// protocolRevision is the revision of the handshake that this package speaks.
const protocolRevision = 2

// GenerateKey makes a new device key.
func GenerateKey() (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate device key: %w", err)
	}
	return key, nil
}

// EncodePublicKey returns the text of a public key as it stands in
// connect.init: its DER SubjectPublicKeyInfo in base64url without padding.
func EncodePublicKey(key ed25519.PublicKey) string {
	return base64.RawURLEncoding.EncodeToString(spki(key))
}

// DeviceID returns the device_id of a public key: "dev_" and the lower-case
// unpadded base32 of SHA-256 over its DER SubjectPublicKeyInfo.
func DeviceID(key ed25519.PublicKey) string {
	sum := sha256.Sum256(spki(key))
	return "dev_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(sum[:]))
}

// spki panics on a key of the wrong length: x509 fails for nothing else, and
// such a key comes from a programming error.
func spki(key ed25519.PublicKey) []byte {
	if len(key) != ed25519.PublicKeySize {
		panic("client: public key of " + strconv.Itoa(len(key)) + " bytes")
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		panic("client: encode public key: " + err.Error())
	}
	return der
}

// Prove signs the transcript of a handshake and returns the text of the proof.
// The transcript binds role, device, connection and challenge, so that a proof
// is worth nothing on another connection.
func Prove(key ed25519.PrivateKey, role, connectionID, challenge string) string {
	return base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, transcript(publicOf(key), role, connectionID, challenge)))
}

// transcript returns the six lines that a proof signs. The last one ends in a
// line feed too.
func transcript(key ed25519.PublicKey, role, connectionID, challenge string) []byte {
	return []byte("rollcall-connect-proof\n" +
		"protocol_rev=" + strconv.Itoa(protocolRevision) + "\n" +
		"role=" + role + "\n" +
		"device_id=" + DeviceID(key) + "\n" +
		"connection_id=" + connectionID + "\n" +
		"challenge=" + challenge + "\n")
}

// publicOf returns the public half of a key: its last 32 bytes.
func publicOf(key ed25519.PrivateKey) ed25519.PublicKey {
	return ed25519.PublicKey(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}
