// Package token mints access tokens: NATS user JWTs whose tags say which
// tenant, agent, role and scopes the bearer has. It is also the command
// bin/token, which besides makes the keys that sign, credentials for NATS, and
// ends what was issued.
//
// Everything is checked before it becomes a tag: a tag "tenant:*" would open
// every tenant.
package token

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"rollcall/scripts/keys"
	"rollcall/subjects"
)

// DefaultTTL is how long a token is good for unless something else is asked.
const DefaultTTL = 24 * time.Hour

// Grant is what a token allows.
type Grant struct {
	Tenant string
	// Agent is empty for a peer that acts for no agent.
	Agent string
	// Role is client or node.
	Role   string
	Scopes []string
	// Device is the public key of the one device that may present the token;
	// nil leaves it to any device.
	Device ed25519.PublicKey
	// TTL is at least a second.
	TTL time.Duration
}

// Mint issues a token that expires at now plus the grant's TTL, at the next
// whole second. The grant must pass its checks.
func Mint(ring *keys.Ring, g Grant, now time.Time) (string, error) {
	if err := g.check(); err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	subject, err := g.subject()
	if err != nil {
		return "", fmt.Errorf("mint token: %w", err)
	}
	claims := jwt.NewUserClaims(subject)
	// The id of a JWT is a hash over times and names alone. Two tokens that a device
	// gets within a second must have two.
	claims.Name = subjects.NewID()
	claims.BearerToken = g.Device == nil
	claims.Expires = expiry(now, g.TTL)
	claims.Tags = g.tags()
	// The token is meant for gateways. Whoever shows it to NATS itself may
	// neither say nor hear anything.
	claims.Pub.Deny.Add(">")
	claims.Sub.Deny.Add(">")
	return ring.Sign(claims)
}

// expiry rounds up: claims know whole seconds only, and a token must not end
// before its time.
func expiry(now time.Time, ttl time.Duration) int64 {
	return now.Add(ttl + time.Second - time.Nanosecond).Unix()
}

func (g Grant) check() error {
	faults := []error{checkTenant(g.Tenant), checkAgent(g.Agent), checkRole(g.Role), checkTTL(g.TTL)}
	for _, scope := range g.Scopes {
		faults = append(faults, checkScope(scope))
	}
	return errors.Join(faults...)
}

// subject is the device's key as the key of a NATS user, or a fresh one that
// nobody holds.
func (g Grant) subject() (string, error) {
	if g.Device != nil {
		text, err := nkeys.Encode(nkeys.PrefixByteUser, g.Device)
		return string(text), err
	}
	pair, err := nkeys.CreateUser()
	if err != nil {
		return "", err
	}
	return pair.PublicKey()
}

func (g Grant) tags() jwt.TagList {
	tags := jwt.TagList{"tenant:" + g.Tenant, "role:" + g.Role}
	if g.Agent != "" {
		tags = append(tags, "agent:"+g.Agent)
	}
	for _, scope := range g.Scopes {
		tags = append(tags, "scope:"+scope)
	}
	return tags
}

// Scopes returns the scopes that mean something.
func Scopes() []string {
	return []string{
		"operator.read", "operator.write", "presence.read", "events.read", "events.publish", "lease.use", "lease.moderate",
	}
}

func checkTenant(tenant string) error {
	if tenant == "" {
		return errors.New("is required")
	}
	return rule(subjects.CheckTenant("tenant", tenant))
}

func checkAgent(agent string) error {
	if agent == "" {
		return nil
	}
	return rule(subjects.CheckAgent("agent", agent))
}

func checkRole(role string) error {
	if role != subjects.RoleClient && role != subjects.RoleNode {
		return errors.New("must be client or node")
	}
	return nil
}

func checkTTL(ttl time.Duration) error {
	if ttl < time.Second {
		return errors.New("must be at least 1s")
	}
	return nil
}

func checkScope(scope string) error {
	if !slices.Contains(Scopes(), scope) {
		return fmt.Errorf("%q is not one of %s", scope, strings.Join(Scopes(), ", "))
	}
	return nil
}

// rule is a problem's rule without the name of the field.
func rule(err error) error {
	if problem, ok := errors.AsType[*subjects.Problem](err); ok {
		return fmt.Errorf("%v", problem.Details["rule"])
	}
	return err
}

// ParseDevice reads a device's public key as it stands in connect.init.
func ParseDevice(text string) (ed25519.PublicKey, error) {
	der, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil {
		return nil, errors.New("must be base64url without padding")
	}
	parsed, err := x509.ParsePKIXPublicKey(der)
	if err != nil {
		return nil, errors.New("must be a DER SubjectPublicKeyInfo in base64url")
	}
	key, ok := parsed.(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("must be an Ed25519 key")
	}
	return key, nil
}
