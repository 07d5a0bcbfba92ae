package keys

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"

	"rollcall/scripts/internal/file"
)

const pemType = "PRIVATE KEY"

// pair is a key and its public half as text.
type pair struct {
	nkeys.KeyPair
	public string
}

// makeSeed makes the key in a file unless there is one.
func makeSeed(path string, fresh func() (nkeys.KeyPair, error)) error {
	if exists(path) {
		return nil
	}
	key, err := fresh()
	if err != nil {
		return fmt.Errorf("make key %s: %w", path, err)
	}
	seed, err := key.Seed()
	if err != nil {
		return fmt.Errorf("make key %s: %w", path, err)
	}
	return create(path, append(seed, '\n'))
}

// readSeed reads the key in a file, which must be of the kind that valid
// accepts.
func readSeed(path string, valid func(public string) bool) (pair, error) {
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return pair{}, ErrNone
	}
	if err != nil {
		return pair{}, err
	}
	key, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		return pair{}, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	public, err := key.PublicKey()
	if err == nil && !valid(public) {
		err = errors.New("not a key of its kind")
	}
	if err != nil {
		return pair{}, fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return pair{KeyPair: key, public: public}, nil
}

func createPEM(path string) error {
	if exists(path) {
		return nil
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("make key %s: %w", path, err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("make key %s: %w", path, err)
	}
	return create(path, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}))
}

// ReadPEM returns the public half of the Ed25519 key in a PEM file.
func ReadPEM(path string) (ed25519.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	if block == nil || block.Type != pemType {
		return nil, errors.New("no PEM block " + pemType)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		// The parser's error may describe key material.
		return nil, errors.New("no PKCS #8 key")
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("not an Ed25519 key")
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("not an Ed25519 key")
	}
	return public, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// create keeps a file that somebody else made first.
func create(path string, data []byte) error {
	if err := file.Create(path, data); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}
