package keys

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"rollcall/scripts/internal/file"
	"rollcall/subjects/access"
)

// maxAccount bounds an account's JWT: it has to fit into a row of SETTINGS and
// into a message to the server.
const maxAccount = 200 << 10

// events are what producers may store, as one account exports it to the other.
const events = "tenant.*.event.>"

// subscriptionsOfTenant bounds what one connection of a tenant's user may
// subscribe to.
const subscriptionsOfTenant = 256

// noConnection is a way to connect that no server knows: a key whose users may
// connect in this way only signs nothing that NATS accepts.
const noConnection = "NONE"

// AccountJWT is the signed description of the account that everything lives
// in, as gateways read it.
func (r *Ring) AccountJWT() (string, error) { return r.jwt(accountName) }

// AccountJWTs are those of all accounts, by public key.
func (r *Ring) AccountJWTs() (map[string]string, error) {
	out := map[string]string{}
	for _, name := range accountNames() {
		text, err := r.jwt(name)
		if err != nil {
			return nil, err
		}
		out[r.accounts[name]] = text
	}
	return out, nil
}

// OperatorJWT describes the operator.
func (r *Ring) OperatorJWT() (string, error) { return r.jwt(operatorName) }

func (r *Ring) jwt(name string) (string, error) {
	data, err := os.ReadFile(r.path(name + jwtEnd))
	if err != nil {
		return "", fmt.Errorf("read %s: %w", name+jwtEnd, err)
	}
	return strings.TrimSpace(string(data)), nil
}

// makeOperator writes the operator's description once.
func (r *Ring) makeOperator() error {
	if exists(r.path(operatorName + jwtEnd)) {
		return nil
	}
	key, err := readSeed(r.path(operatorName+seedEnd), nkeys.IsValidPublicOperatorKey)
	if err != nil {
		return err
	}
	claims := jwt.NewOperatorClaims(key.public)
	claims.Name, claims.SystemAccount = "rollcall", r.SystemAccount()
	text, err := claims.Encode(key)
	if err != nil {
		return fmt.Errorf("describe operator: %w", err)
	}
	return create(r.path(operatorName+jwtEnd), []byte(text+"\n"))
}

// claims reads an account's claims; nil when it has none yet.
func (r *Ring) claims(name string) (*jwt.AccountClaims, error) {
	text, err := r.jwt(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	claims, err := jwt.DecodeAccountClaims(text)
	if err != nil || claims.Subject != r.accounts[name] || claims.Issuer != r.operator {
		return nil, fmt.Errorf("%s is not the operator's word on the account", name+jwtEnd)
	}
	return claims, nil
}

// refresh brings all accounts, and the server's include file, up to date. The
// directory is locked.
func (r *Ring) refresh() error {
	records, err := r.prune(time.Now())
	if err != nil {
		return err
	}
	for _, name := range accountNames() {
		if err := r.change(name, func(claims *jwt.AccountClaims) error {
			forget(claims, records)
			return nil
		}); err != nil {
			return err
		}
	}
	return r.writeConf()
}

// change alters an account's claims and signs them anew, if that makes any
// difference. The directory is locked.
func (r *Ring) change(name string, alter func(*jwt.AccountClaims) error) error {
	claims, err := r.claims(name)
	if err != nil {
		return err
	}
	before := ""
	if claims == nil {
		claims = jwt.NewAccountClaims(r.accounts[name])
	} else if before, err = content(claims); err != nil {
		return err
	}
	if err := r.describe(name, claims); err != nil {
		return err
	}
	if err := alter(claims); err != nil {
		return err
	}
	after, err := content(claims)
	if err != nil || after == before {
		return err
	}
	key, err := readSeed(r.path(operatorName+seedEnd), nkeys.IsValidPublicOperatorKey)
	if err != nil {
		return err
	}
	claims.Tags = access.NextGeneration(claims.Tags)
	// The id of a JWT is a hash over times and names alone, and a server that
	// knows one of that id does not look further.
	version := access.VersionOf(0, claims.Tags).Generation
	claims.Name = fmt.Sprintf("rollcall %s, version %d", name, version)
	text, err := claims.Encode(key)
	if err != nil {
		return fmt.Errorf("describe account %s: %w", name, err)
	}
	if len(text) > maxAccount {
		return fmt.Errorf("account %s would take %d bytes to describe, more than %d: revoke a whole tenant, or rotate a key, instead of many tokens one by one", name, len(text), maxAccount)
	}
	return file.Replace(r.path(name+jwtEnd), []byte(text+"\n"))
}

// content is what claims say, apart from when and by whom it was said.
func content(claims *jwt.AccountClaims) (string, error) {
	data, err := json.Marshal(claims.Account)
	if err != nil {
		return "", fmt.Errorf("encode account: %w", err)
	}
	return string(data), nil
}

// describe states what this release knows of an account. Keys that were there
// stay, revocations and tags too.
func (r *Ring) describe(name string, claims *jwt.AccountClaims) error {
	if claims.Revocations == nil {
		claims.Revocations = jwt.RevocationList{}
	}
	// A user whose own claims allow nothing in particular is allowed nothing.
	claims.DefaultPermissions.Pub.Deny = jwt.StringList{">"}
	claims.DefaultPermissions.Sub.Deny = jwt.StringList{">"}
	claims.Limits.DisallowBearer = true
	claims.Exports, claims.Imports = nil, nil
	switch name {
	case accountName:
		claims.Limits.JetStreamLimits = jwt.JetStreamLimits{
			MemoryStorage: jwt.NoLimit, DiskStorage: jwt.NoLimit, Streams: jwt.NoLimit, Consumer: jwt.NoLimit,
		}
		claims.Exports = jwt.Exports{{Name: "events", Subject: events, Type: jwt.Service}}
		if old, err := readSeed(r.path(oldSigning), nkeys.IsValidPublicAccountKey); err == nil {
			addSigner(claims, access.Operator, old.public)
		} else if !errors.Is(err, ErrNone) {
			return err
		}
	case producersName:
		claims.Imports = jwt.Imports{{Name: "events", Account: r.Account(), Subject: events, Type: jwt.Service}}
	}
	for _, scope := range claims.SigningKeys {
		if old, is := scope.(*jwt.UserScope); is {
			addSigner(claims, access.Role(old.Role), old.Key)
		}
	}
	if name == systemName {
		return nil
	}
	for _, role := range access.Roles() {
		if accountOf(role) != name {
			continue
		}
		key, err := r.signer(role)
		if errors.Is(err, ErrNone) {
			continue // put away, or of a release that knew no such role; see [Create]
		}
		if err != nil {
			return err
		}
		addSigner(claims, role, key.public)
	}
	return nil
}

// addSigner lets a key sign for a role.
func addSigner(claims *jwt.AccountClaims, role access.Role, public string) {
	p := access.Of(role)
	scope := jwt.NewUserScope()
	scope.Key, scope.Role = public, string(role)
	t := &scope.Template
	t.Pub.Allow.Add(p.Publish...)
	t.Pub.Deny.Add(p.DenyPublish...)
	t.Sub.Allow.Add(p.Subscribe...)
	t.AllowedConnectionTypes.Add(p.Connections...)
	// An empty list would mean that everything is allowed.
	if len(p.Publish) == 0 {
		t.Pub.Deny.Add(">")
	}
	if len(p.Subscribe) == 0 {
		t.Sub.Deny.Add(">")
	}
	if len(p.Connections) == 0 {
		t.AllowedConnectionTypes.Add(noConnection)
	}
	if role.OfTenant() {
		t.Subs = subscriptionsOfTenant
	}
	claims.SigningKeys.AddScopedSigner(scope)
}
