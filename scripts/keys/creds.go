package keys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"rollcall/scripts/internal/file"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// System is the role of whoever takes accounts to a NATS server. It has a user
// of the system account, who may do that and nothing else.
const System access.Role = "system"

// claimsUpdate is where a server takes accounts.
const claimsUpdate = "$SYS.REQ.CLAIMS.UPDATE"

// User is a user of NATS.
type User struct {
	Role access.Role
	// Name is a gateway's instance_id, and informational otherwise.
	Name string
	// Tenant is the one that a producer or a tail belongs to.
	Tenant string
	// TTL is how long the credentials are good for; 0 is for ever.
	TTL time.Duration
}

// Check refuses a user whose credentials would mean something else than they
// should: name and tenant become parts of subjects, where a wildcard would open
// more than one row or one tenant.
func (u User) Check() error {
	var faults []error
	if u.Role != System && (u.Role.Issues() || !slices.Contains(access.Roles(), u.Role)) {
		faults = append(faults, fmt.Errorf("role %q has no NATS credentials", u.Role))
	}
	if u.Role == access.Gateway {
		faults = append(faults, subjects.CheckInstance("name", u.Name))
	} else if u.Name != "" {
		faults = append(faults, subjects.CheckAgent("name", u.Name))
	}
	switch {
	case u.Role.OfTenant():
		faults = append(faults, subjects.CheckTenant("tenant", u.Tenant))
	case u.Tenant != "":
		faults = append(faults, fmt.Errorf("role %q belongs to no tenant", u.Role))
	}
	if u.TTL != 0 && u.TTL < time.Second {
		faults = append(faults, errors.New("ttl must be at least 1s"))
	}
	return errors.Join(faults...)
}

// CredsFile is where the credentials of a name are kept.
func (r *Ring) CredsFile(name string) string {
	return r.path(filepath.Join(credsDir, name+".creds"))
}

// Creds writes credentials for a user. A file that holds some keeps its user's
// key, so that what follows the file goes on as the same user, unless that user
// is revoked. The key is never anywhere but in the file.
func (r *Ring) Creds(path string, u User, now time.Time) error {
	if err := u.Check(); err != nil {
		return fmt.Errorf("make creds: %w", err)
	}
	key, err := r.userKey(path)
	if err != nil {
		return fmt.Errorf("make creds %s: %w", path, err)
	}
	claims := jwt.NewUserClaims(key.public)
	claims.Name = u.Name
	if u.TTL > 0 {
		claims.Expires = now.Add(u.TTL + time.Second - time.Nanosecond).Unix()
	}
	if u.Tenant != "" {
		claims.Tags.Add("tenant:" + u.Tenant)
	}
	text, err := r.signUser(claims, u.Role)
	if err != nil {
		return fmt.Errorf("make creds %s: %w", path, err)
	}
	seed, err := key.Seed()
	if err != nil {
		return fmt.Errorf("make creds %s: %w", path, err)
	}
	data, err := jwt.FormatUserConfig(text, seed)
	if err != nil {
		return fmt.Errorf("make creds %s: %w", path, err)
	}
	return file.Replace(path, data)
}

// signUser signs for a user of NATS, whose permissions are the role's.
func (r *Ring) signUser(claims *jwt.UserClaims, role access.Role) (string, error) {
	if role != System {
		claims.SetScoped(true)
		return r.sign(claims, role)
	}
	key, err := readSeed(r.path(systemName+seedEnd), nkeys.IsValidPublicAccountKey)
	if err != nil {
		return "", err
	}
	claims.Pub.Allow.Add(claimsUpdate)
	claims.Sub.Allow.Add(access.InboxPrefix(claims.Subject) + ".>")
	text, err := claims.Encode(key)
	if err != nil {
		return "", err
	}
	return text, r.note(recordOf(claims, role))
}

// userKey is the key in a creds file, or a fresh one.
func (r *Ring) userKey(path string) (pair, error) {
	if data, err := os.ReadFile(path); err == nil {
		key, claims := parseCreds(data)
		if key.KeyPair != nil && !r.revoked(claims.Subject, claims.IssuedAt) {
			return key, nil
		}
	}
	key, err := nkeys.CreateUser()
	if err != nil {
		return pair{}, err
	}
	public, err := key.PublicKey()
	return pair{KeyPair: key, public: public}, err
}

// parseCreds reads a creds file; what is none has no key.
func parseCreds(data []byte) (pair, *jwt.UserClaims) {
	key, err := nkeys.ParseDecoratedUserNKey(data)
	if err != nil {
		return pair{}, nil
	}
	text, err := nkeys.ParseDecoratedJWT(data)
	if err != nil {
		return pair{}, nil
	}
	claims, err := jwt.DecodeUserClaims(text)
	if err != nil {
		return pair{}, nil
	}
	public, err := key.PublicKey()
	if err != nil || public != claims.Subject {
		return pair{}, nil
	}
	return pair{KeyPair: key, public: public}, claims
}

// RenewCreds signs anew for the users of a role whose credentials are in the
// directory and good, with the key that signs now, and returns their files.
func (r *Ring) RenewCreds(role access.Role, now time.Time) ([]string, error) {
	files, err := filepath.Glob(r.CredsFile("*"))
	if err != nil {
		return nil, fmt.Errorf("find creds: %w", err)
	}
	current, err := r.signer(role)
	if err != nil {
		return nil, err
	}
	signers, err := r.Signers()
	if err != nil {
		return nil, err
	}
	var renewed []string
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return renewed, fmt.Errorf("read creds: %w", err)
		}
		key, claims := parseCreds(data)
		ofRole := func(s Signer) bool { return claims.Issuer == s.Public && s.Role == role }
		if key.KeyPair == nil || claims.Issuer == current.public || !slices.ContainsFunc(signers, ofRole) {
			continue
		}
		if issued := recordOf(claims, role); issued.Expired(now) || r.Revoked(issued) {
			continue
		}
		if err := r.Creds(path, userOf(claims, role, now), now); err != nil {
			return renewed, err
		}
		renewed = append(renewed, path)
	}
	return renewed, nil
}

// userOf is the user that credentials are for, for as long as they are good.
func userOf(claims *jwt.UserClaims, role access.Role, now time.Time) User {
	u := User{Role: role, Name: claims.Name, Tenant: recordOf(claims, role).Tenant}
	if claims.Expires != 0 {
		u.TTL = max(time.Unix(claims.Expires, 0).Sub(now), time.Second)
	}
	return u
}

// KeepCreds makes the credentials in a file unless those that are there are
// good: of that user, signed by the role's key of today, not revoked, and not
// about to expire.
func (r *Ring) KeepCreds(path string, u User, now time.Time) error {
	data, err := os.ReadFile(path)
	if err == nil {
		if key, claims := parseCreds(data); key.KeyPair != nil && r.good(claims, u, now) {
			return nil
		}
	}
	return r.Creds(path, u, now)
}

func (r *Ring) good(claims *jwt.UserClaims, u User, now time.Time) bool {
	issuer := r.SystemAccount()
	if u.Role != System {
		key, err := r.signer(u.Role)
		if err != nil {
			return false
		}
		issuer = key.public
	}
	tenant := u.Tenant == "" && len(claims.Tags) == 0 || slices.Equal(claims.Tags, jwt.TagList{"tenant:" + u.Tenant})
	lasts := claims.Expires == 0 && u.TTL == 0 || claims.Expires != 0 && u.TTL != 0 && claims.Expires > now.Add(u.TTL/2).Unix()
	return claims.Issuer == issuer && claims.Name == u.Name && tenant && lasts && !r.revoked(claims.Subject, claims.IssuedAt)
}
