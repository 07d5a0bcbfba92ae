package keys

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"rollcall/subjects/access"
)

// nextEnd ends the file of a key that is not signed with yet.
const nextEnd = ".next" + seedEnd

// Signer is a key that may sign for a role.
type Signer struct {
	Role   access.Role `json:"role"`
	Public string      `json:"public"`
	// Current says that new things are signed with it.
	Current bool `json:"current"`
}

// Signers lists the keys that may sign.
func (r *Ring) Signers() ([]Signer, error) {
	var out []Signer
	for _, name := range []string{accountName, producersName} {
		claims, err := r.claims(name)
		if err != nil || claims == nil {
			return nil, err
		}
		for public, scope := range claims.SigningKeys {
			of, is := scope.(*jwt.UserScope)
			if !is {
				continue
			}
			current, err := r.signer(access.Role(of.Role))
			out = append(out, Signer{Role: access.Role(of.Role), Public: public, Current: err == nil && current.public == public})
		}
	}
	slices.SortFunc(out, func(a, b Signer) int {
		return strings.Compare(string(a.Role)+a.Public, string(b.Role)+b.Public)
	})
	return out, nil
}

// Prepare makes a role's next key and lets it sign, without signing with it
// yet: whoever verifies has to know it first. A rotation that was not finished
// goes on with the key it had made.
func (r *Ring) Prepare(role access.Role) (public string, err error) {
	if !slices.Contains(access.Roles(), role) {
		return "", fmt.Errorf("rotate: role %q: %w", role, ErrUnknown)
	}
	next := r.path(signingDir + "/" + string(role) + nextEnd)
	if err := makeSeed(next, nkeys.CreateAccount); err != nil {
		return "", err
	}
	key, err := readSeed(next, nkeys.IsValidPublicAccountKey)
	if err != nil {
		return "", fmt.Errorf("rotate: %w", err)
	}
	return key.public, r.alter("rotate", func(name string, claims *jwt.AccountClaims) {
		if name == accountOf(role) {
			addSigner(claims, role, key.public)
		}
	})
}

// Switch signs with a role's next key from now on. The old one's seed is gone
// with that; what it has signed counts until [Ring.Remove].
func (r *Ring) Switch(role access.Role) error {
	unlock, err := r.lock(false)
	if err != nil {
		return err
	}
	defer unlock()
	if err := os.Rename(r.path(signingDir+"/"+string(role)+nextEnd), r.SigningFile(role)); err != nil {
		return fmt.Errorf("rotate: %w", err)
	}
	return nil
}

// Remove ends what a key that is not signed with any more has signed.
func (r *Ring) Remove(public string) error {
	signers, err := r.Signers()
	if err != nil {
		return err
	}
	at := slices.IndexFunc(signers, func(s Signer) bool { return s.Public == public })
	switch {
	case at < 0:
		return fmt.Errorf("remove key %s: %w", public, ErrUnknown)
	case signers[at].Current:
		return fmt.Errorf("remove key %s: %w", public, errors.New("it is the one that signs; rotate first"))
	}
	// The seed goes first: an account that is described while it is there trusts it.
	if old, err := readSeed(r.path(oldSigning), nkeys.IsValidPublicAccountKey); err == nil && old.public == public {
		if err := os.Remove(r.path(oldSigning)); err != nil {
			return fmt.Errorf("remove key: %w", err)
		}
	}
	return r.alter("remove key", func(_ string, claims *jwt.AccountClaims) { claims.SigningKeys.Remove(public) })
}
