package keys

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"rollcall/scripts/internal/file"
	"rollcall/subjects/access"
)

// ErrNone is a directory without keys.
var ErrNone = errors.New("no keys there; bin/up makes them when it starts, and so does bin/token init")

const (
	operatorName  = "operator"
	systemName    = "system"
	accountName   = "account"
	producersName = "producers"

	seedEnd, jwtEnd = ".nk", ".jwt"

	signingDir = "signing"
	credsDir   = "creds"
	// oldSigning is the issuer of tokens in a directory without an operator.
	oldSigning = "signing" + seedEnd
	lockFile   = "keys.lock"

	lockTimeout = 10 * time.Second
)

// accountNames are the accounts, in the order in which they are taken to a
// server.
func accountNames() []string { return []string{systemName, accountName, producersName} }

// accountOf is the account that users of a role belong to.
func accountOf(role access.Role) string {
	if role == access.Producer {
		return producersName
	}
	return accountName
}

// Ring is the keys of one directory.
type Ring struct {
	dir      string
	operator string
	accounts map[string]string // public keys by name
}

// Create opens the keys in dir and makes those that are missing. It also brings
// the accounts up to date: with the permissions of this release, and without
// revocations of what has expired anyway.
func Create(dir string) (*Ring, error) {
	for _, name := range []string{"", signingDir, credsDir} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o700); err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
	}
	r := &Ring{dir: dir}
	unlock, err := r.lock(false)
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := r.makeSeeds(); err != nil {
		return nil, err
	}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("open keys in %s: %w", dir, err)
	}
	if err := r.makeOperator(); err != nil {
		return nil, err
	}
	if err := r.refresh(); err != nil {
		return nil, err
	}
	return r, nil
}

// Open opens the keys in dir; the error Is [ErrNone] where there are none.
func Open(dir string) (*Ring, error) {
	r := &Ring{dir: dir}
	if err := r.load(); err != nil {
		return nil, fmt.Errorf("open keys in %s: %w", dir, err)
	}
	return r, nil
}

// makeSeeds makes what is missing. An operator without a key is not replaced by
// another: nothing that was signed before would count.
func (r *Ring) makeSeeds() error {
	if exists(r.path(operatorName+jwtEnd)) && !exists(r.path(operatorName+seedEnd)) {
		return fmt.Errorf("open keys in %s: the key of the operator, %s, is not there", r.dir, operatorName+seedEnd)
	}
	if err := makeSeed(r.path(operatorName+seedEnd), nkeys.CreateOperator); err != nil {
		return err
	}
	for _, name := range accountNames() {
		if exists(r.path(name + jwtEnd)) {
			continue // its seed may have been put away
		}
		if err := makeSeed(r.path(name+seedEnd), nkeys.CreateAccount); err != nil {
			return err
		}
	}
	for _, role := range access.Roles() {
		if err := makeSeed(r.SigningFile(role), nkeys.CreateAccount); err != nil {
			return err
		}
	}
	return nil
}

// load reads who the operator and the accounts are, and looks at the keys that
// sign. Seeds may have been put away where their public halves are described.
func (r *Ring) load() error {
	operator, err := r.public(operatorName, nkeys.IsValidPublicOperatorKey)
	if err != nil {
		return err
	}
	r.operator, r.accounts = operator, map[string]string{}
	for _, name := range accountNames() {
		if r.accounts[name], err = r.public(name, nkeys.IsValidPublicAccountKey); err != nil {
			return err
		}
	}
	for _, role := range access.Roles() {
		if _, err := r.signer(role); err != nil && !errors.Is(err, ErrNone) {
			return err
		}
	}
	return nil
}

// public is the public key behind a seed, or that of whom the operator
// describes where the seed is not there.
func (r *Ring) public(name string, valid func(string) bool) (string, error) {
	key, err := readSeed(r.path(name+seedEnd), valid)
	if !errors.Is(err, ErrNone) {
		return key.public, err
	}
	text, err := r.jwt(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", ErrNone
	}
	if err != nil {
		return "", err
	}
	claims, err := jwt.Decode(text)
	if err != nil || !valid(claims.Claims().Subject) {
		return "", fmt.Errorf("%s: not a description of its kind", name+jwtEnd)
	}
	return claims.Claims().Subject, nil
}

// Dir is the directory.
func (r *Ring) Dir() string { return r.dir }

// Operator is the public key of the operator.
func (r *Ring) Operator() string { return r.operator }

// Account is the public key of the account that everything lives in.
func (r *Ring) Account() string { return r.accounts[accountName] }

// SystemAccount is the public key of the system account.
func (r *Ring) SystemAccount() string { return r.accounts[systemName] }

// Issuer is the public key that signs for a role now.
func (r *Ring) Issuer(role access.Role) (string, error) {
	key, err := r.signer(role)
	return key.public, err
}

// Sign issues an access token in the account's name: with the key of the role
// operator when it grants one of its scopes, else with that of agents. It is
// noted before it is handed out.
func (r *Ring) Sign(claims *jwt.UserClaims) (string, error) {
	role := access.Agent
	if slices.ContainsFunc(claims.Tags, func(tag string) bool {
		scope, is := strings.CutPrefix(strings.ToLower(tag), "scope:")
		return is && access.OperatorScope(scope)
	}) {
		role = access.Operator
	}
	return r.sign(claims, role)
}

// errRevoked is a revocation that lies in the future.
var errRevoked = errors.New("revoked before it was issued")

// sign waits for the next second if it has to: a revocation ends everything
// that was issued in its own second too.
func (r *Ring) sign(claims *jwt.UserClaims, role access.Role) (string, error) {
	key, err := r.signer(role)
	if err != nil {
		return "", fmt.Errorf("sign: %w", err)
	}
	claims.IssuerAccount = r.accounts[accountOf(role)]
	for waited := false; ; waited = true {
		text, err := claims.Encode(key)
		if err != nil {
			return "", fmt.Errorf("sign: %w", err)
		}
		issued := recordOf(claims, role)
		if !r.Revoked(issued) {
			return text, r.note(issued)
		}
		if waited {
			return "", fmt.Errorf("sign: %w", errRevoked)
		}
		time.Sleep(time.Until(issued.IssuedAt.Add(time.Second)))
	}
}

// signer reads the key of a role each time it is used: another process may
// have put a new one there.
func (r *Ring) signer(role access.Role) (pair, error) {
	return readSeed(r.SigningFile(role), nkeys.IsValidPublicAccountKey)
}

// Gateway returns the file with the key of the n-th gateway and its public
// half, and makes the key if it is missing.
func (r *Ring) Gateway(n int) (path string, public ed25519.PublicKey, err error) {
	path = r.path("gateway-" + strconv.Itoa(n) + ".pem")
	if err := createPEM(path); err != nil {
		return "", nil, err
	}
	public, err = ReadPEM(path)
	if err != nil {
		return "", nil, fmt.Errorf("read key %s: %w", path, err)
	}
	return path, public, nil
}

func (r *Ring) path(name string) string { return filepath.Join(r.dir, name) }

// SigningFile is the file with the key that signs for a role now.
func (r *Ring) SigningFile(role access.Role) string {
	return r.path(filepath.Join(signingDir, string(role)+seedEnd))
}

// lock keeps other processes from changing what is in the directory; shared,
// from more than adding to it.
func (r *Ring) lock(shared bool) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	return file.Lock(ctx, r.path(lockFile), shared)
}
