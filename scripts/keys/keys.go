// Package keys holds the keys of a stack on one machine, as files of mode 0600
// in its directory:
//
//	account.nk       seed of the account that tokens belong to
//	signing.nk       seed of the account's signing key: the issuer of tokens
//	gateway-<n>.pem  PKCS #8 Ed25519 key, the identity of a gateway
//
// Keys are made once and kept: tokens stay valid and gateways keep their
// instance_id when the stack starts again.
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
	"strconv"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"rollcall/scripts/internal/file"
)

// ErrNone is a directory without keys.
var ErrNone = errors.New("no keys there; bin/up makes them when it starts")

const (
	accountFile = "account.nk"
	signingFile = "signing.nk"
	pemType     = "PRIVATE KEY"
)

// Ring is the keys of one directory.
type Ring struct {
	dir     string
	signing nkeys.KeyPair
	account string
	issuer  string
}

// Create opens the keys in dir and makes those that are missing.
func Create(dir string) (*Ring, error) {
	for _, name := range []string{accountFile, signingFile} {
		if err := createSeed(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	return Open(dir)
}

// Open opens the keys in dir; the error Is [ErrNone] where there are none.
func Open(dir string) (*Ring, error) {
	_, account, err := readSeed(filepath.Join(dir, accountFile))
	if err != nil {
		return nil, fmt.Errorf("open keys in %s: %w", dir, err)
	}
	signing, issuer, err := readSeed(filepath.Join(dir, signingFile))
	if err != nil {
		return nil, fmt.Errorf("open keys in %s: %w", dir, err)
	}
	return &Ring{dir: dir, signing: signing, account: account, issuer: issuer}, nil
}

// Account is the public key of the account.
func (r *Ring) Account() string { return r.account }

// Issuer is the public key of the account's signing key, which gateways trust.
func (r *Ring) Issuer() string { return r.issuer }

// Sign issues claims in the account's name.
func (r *Ring) Sign(claims *jwt.UserClaims) (string, error) {
	claims.IssuerAccount = r.account
	text, err := claims.Encode(r.signing)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return text, nil
}

// Gateway returns the file with the key of the n-th gateway and its public
// half, and makes the key if it is missing.
func (r *Ring) Gateway(n int) (path string, public ed25519.PublicKey, err error) {
	path = filepath.Join(r.dir, "gateway-"+strconv.Itoa(n)+".pem")
	if err := createPEM(path); err != nil {
		return "", nil, err
	}
	public, err = readPEM(path)
	if err != nil {
		return "", nil, fmt.Errorf("read key %s: %w", path, err)
	}
	return path, public, nil
}

func createSeed(path string) error {
	if exists(path) {
		return nil
	}
	pair, err := nkeys.CreateAccount()
	if err != nil {
		return fmt.Errorf("make key %s: %w", path, err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return fmt.Errorf("make key %s: %w", path, err)
	}
	return create(path, append(seed, '\n'))
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

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// create keeps a key that somebody else made first.
func create(path string, data []byte) error {
	if err := file.Create(path, data); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func readSeed(path string) (pair nkeys.KeyPair, public string, err error) {
	seed, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", ErrNone
	}
	if err != nil {
		return nil, "", err
	}
	pair, err = nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	public, err = pair.PublicKey()
	if err == nil && !nkeys.IsValidPublicAccountKey(public) {
		err = errors.New("not the key of an account")
	}
	if err != nil {
		return nil, "", fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return pair, public, nil
}

func readPEM(path string) (ed25519.PublicKey, error) {
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
		return nil, err
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
