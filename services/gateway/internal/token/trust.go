package token

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/nats-io/jwt/v2"

	"rollcall/subjects/access"
)

// Trust says whose tokens count, and which of them do not any more. Either it
// is fixed, or it follows what the operator says of an account ([Trust.Update]).
type Trust struct {
	operators []string
	account   string
	// known is what counts now; nil while nothing is known.
	known atomic.Pointer[standing]
	// updating lets one update come after the other.
	updating sync.Mutex
}

// standing is one version of what counts. It is never changed.
type standing struct {
	// issuers may grant what their role may.
	issuers map[string]access.Role
	revoked jwt.RevocationList
	tenants map[string]time.Time
	version access.Version
}

// NewTrust trusts the given account public keys and no others, for ever and
// for everything. In particular an account's identity key is not trusted by way
// of its signing keys, nor the other way round.
func NewTrust(issuers []string) *Trust {
	fixed := &standing{issuers: map[string]access.Role{}}
	for _, issuer := range issuers {
		fixed.issuers[issuer] = access.Operator
	}
	t := &Trust{}
	t.known.Store(fixed)
	return t
}

// Pin trusts nobody until [Trust.Update] brings what one of the operators says
// of the account.
func Pin(operators []string, account string) *Trust {
	return &Trust{operators: slices.Clone(operators), account: account}
}

// Known reports whether anybody can be trusted yet.
func (t *Trust) Known() bool { return t.known.Load() != nil }

// Why an account's JWT is not taken.
var (
	ErrFixed   = errors.New("whose tokens count is fixed")
	ErrForeign = errors.New("not signed by the operator, or for another account")
	ErrOlder   = errors.New("older than what is known")
	ErrLapsed  = errors.New("expired")
	ErrGarbled = errors.New("holds a tag that makes no sense")
)

// Update takes a newer version of the account's JWT. Its signing keys with the
// roles agent and operator issue tokens that count; its revocations end some.
// An error leaves what was known in force. An older version than the one known
// is refused, so whoever can write the row it comes from cannot undo a
// revocation. NB: a process that has just started knows none yet, and takes the
// one it finds.
func (t *Trust) Update(text string, now time.Time) error {
	t.updating.Lock()
	defer t.updating.Unlock()
	if t.account == "" {
		return ErrFixed
	}
	// Decoding verifies the signature against the issuer that the claims name.
	claims, err := jwt.DecodeAccountClaims(text)
	if err != nil || claims.Subject != t.account || !slices.Contains(t.operators, claims.Issuer) {
		return ErrForeign
	}
	if claims.Expires != 0 && now.Unix() >= claims.Expires {
		return ErrLapsed
	}
	version := access.VersionOf(claims.IssuedAt, claims.Tags)
	if before := t.known.Load(); before != nil && version.Before(before.version) {
		return ErrOlder
	}
	next, err := readStanding(claims)
	if err == nil {
		t.known.Store(next)
	}
	return err
}

func readStanding(claims *jwt.AccountClaims) (*standing, error) {
	s := &standing{
		issuers: map[string]access.Role{}, revoked: claims.Revocations,
		tenants: map[string]time.Time{}, version: access.VersionOf(claims.IssuedAt, claims.Tags),
	}
	for key, scope := range claims.SigningKeys {
		if of, is := scope.(*jwt.UserScope); is && access.Role(of.Role).Issues() {
			s.issuers[key] = access.Role(of.Role)
		}
	}
	for _, tag := range claims.Tags {
		tenant, until, found, ok := access.ParseRevokedTenant(tag)
		switch {
		case !ok:
			return nil, fmt.Errorf("%w: %q", ErrGarbled, tag)
		case found && until.After(s.tenants[tenant]):
			s.tenants[tenant] = until
		}
	}
	return s, nil
}

// Standing refuses a token that was verified before and does not count any
// more: its issuer is not trusted, or it is revoked. Expiry is not looked at.
func (t *Trust) Standing(token Token) error { return t.known.Load().check(token) }

func (s *standing) check(t Token) error {
	if s == nil {
		return &RefusedError{Class: UntrustedIssuer}
	}
	role, trusted := s.issuers[t.Issuer]
	switch {
	case !trusted:
		return &RefusedError{Class: UntrustedIssuer}
	case !t.IssuedAt.After(s.tenants[t.Tenant]) || s.revoked.IsRevoked(t.Subject, t.IssuedAt):
		return &RefusedError{Class: Revoked}
	case !slices.ContainsFunc(t.Scopes.held, func(scope string) bool { return !role.MayGrant(scope) }):
		return nil
	default:
		return &RefusedError{Class: BeyondIssuer}
	}
}
