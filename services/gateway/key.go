package gateway

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"

	"rollcall/subjects"
)

// loadInstance reads the device key and returns the instance_id it stands for.
// The key itself is not kept: the gateway signs nothing.
func loadInstance(file string) (string, error) {
	data, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("read key file: %w", err)
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "PRIVATE KEY" {
		return "", fmt.Errorf("read key file %q: no PEM block of type PRIVATE KEY", file)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// The parser's error may describe key material.
		return "", fmt.Errorf("read key file %q: no PKCS #8 key", file)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return "", fmt.Errorf("read key file %q: %w", file, errors.New("not an Ed25519 key"))
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return "", fmt.Errorf("read key file %q: no public key", file)
	}
	id, err := subjects.InstanceID(public)
	if err != nil {
		return "", fmt.Errorf("derive instance id: %w", err)
	}
	return id, nil
}
