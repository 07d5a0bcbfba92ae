package keys

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"rollcall/subjects"
	"rollcall/subjects/access"
)

// ErrUnknown says that nothing of that id, key or role is known.
var ErrUnknown = errors.New("not known")

// Revoke ends everything that was issued to the subjects, which are public keys
// of users, up to a time each. What is issued to them later counts again.
func (r *Ring) Revoke(until map[string]time.Time) error {
	for subject := range until {
		if !nkeys.IsValidPublicUserKey(subject) {
			return fmt.Errorf("revoke: %w", errors.New("a subject is the public key of a user (U…)"))
		}
	}
	return r.alter("revoke", func(name string, claims *jwt.AccountClaims) {
		if name == systemName {
			return
		}
		// Which of the two accounts a subject belongs to need not be known.
		for subject, at := range until {
			claims.Revocations.Revoke(subject, at)
		}
	})
}

// RevokeTenant ends every access token of a tenant issued up to now, known or
// not, and the NATS credentials that were issued for it.
func (r *Ring) RevokeTenant(tenant string, now time.Time) error {
	if err := subjects.CheckTenant("tenant", tenant); err != nil {
		return fmt.Errorf("revoke: %w", err)
	}
	records, err := r.Issued()
	if err != nil {
		return err
	}
	return r.alter("revoke", func(name string, claims *jwt.AccountClaims) {
		if name == systemName {
			return
		}
		for _, e := range records {
			if e.Tenant == tenant && e.Role.OfTenant() && !e.Expired(now) {
				claims.Revocations.Revoke(e.Subject, now)
			}
		}
		if name == accountName {
			for _, tag := range slices.Clone(claims.Tags) {
				if old, _, found, _ := access.ParseRevokedTenant(tag); found && old == tenant {
					claims.Tags.Remove(tag)
				}
			}
			claims.Tags.Add(access.RevokedTenant(tenant, now))
		}
	})
}

// alter changes all accounts and the server's include file. A crash in between
// leaves some changed; doing it again changes the others.
func (r *Ring) alter(what string, change func(name string, claims *jwt.AccountClaims)) error {
	unlock, err := r.lock(false)
	if err != nil {
		return err
	}
	defer unlock()
	for _, name := range accountNames() {
		if err := r.change(name, func(claims *jwt.AccountClaims) error {
			change(name, claims)
			return nil
		}); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	return r.writeConf()
}

// forget drops the revocations of subjects that were issued something once and
// hold nothing any more that has not expired.
func forget(claims *jwt.AccountClaims, records []Record) {
	now := time.Now()
	live := map[string]bool{}
	for _, e := range records {
		live[e.Subject] = live[e.Subject] || !e.Expired(now)
	}
	maps.DeleteFunc(claims.Revocations, func(subject string, _ int64) bool {
		holds, known := live[subject]
		return known && !holds
	})
}

// Revoked reports whether something that was issued is revoked, or signed by a
// key that does not count any more.
func (r *Ring) Revoked(e Record) bool {
	claims, err := r.claims(accountOf(e.Role))
	if err != nil || claims == nil {
		return false
	}
	if e.Role != System && !claims.SigningKeys.Contains(e.Issuer) {
		return true
	}
	for _, tag := range claims.Tags {
		tenant, until, found, ok := access.ParseRevokedTenant(tag)
		if found && ok && e.Role.Issues() && tenant == e.Tenant && !e.IssuedAt.After(until) {
			return true
		}
	}
	return claims.Revocations.IsRevoked(e.Subject, e.IssuedAt)
}

// Counts reports whether an access token that was issued here is not revoked.
func (r *Ring) Counts(token string) bool {
	claims, err := jwt.DecodeUserClaims(token)
	return err == nil && !r.Revoked(recordOf(claims, access.Operator))
}

// revoked looks in both accounts that users belong to.
func (r *Ring) revoked(subject string, issuedAt int64) bool {
	for _, name := range []string{accountName, producersName} {
		claims, err := r.claims(name)
		if err == nil && claims != nil && claims.Revocations.IsRevoked(subject, time.Unix(issuedAt, 0)) {
			return true
		}
	}
	return false
}
