package access

import (
	"strconv"
	"strings"
	"time"
)

// Role is what a user of NATS, or a key that issues tokens, is for.
type Role string

// The services, each with credentials for every process.
const (
	Gateway  Role = "gateway"
	Presence Role = "presence"
	Lease    Role = "lease"
)

// Users of a single tenant.
const (
	// Producer stores events of its tenant.
	Producer Role = "producer"
	// Tail hears what is said in its tenant, and says nothing.
	Tail Role = "tail"
)

// Admin is whoever operates the stack: it may do everything in the account.
const Admin Role = "admin"

// Issuers of access tokens, which are for gateways. NATS refuses them.
const (
	// Agent issues tokens without operator scopes.
	Agent Role = "agent"
	// Operator issues tokens with any scope.
	Operator Role = "operator"
)

// Roles returns every role, each of which has a signing key of its own.
func Roles() []Role {
	return []Role{Gateway, Presence, Lease, Producer, Tail, Admin, Agent, Operator}
}

// Services returns the roles of processes.
func Services() []Role { return []Role{Gateway, Presence, Lease} }

// Issues reports whether keys of the role issue access tokens.
func (r Role) Issues() bool { return r == Agent || r == Operator }

// OfTenant reports whether each user of the role belongs to one tenant.
func (r Role) OfTenant() bool { return r == Producer || r == Tail }

// MayGrant reports whether a key of the role may issue a token with a scope.
func (r Role) MayGrant(scope string) bool {
	return r == Operator || r == Agent && !OperatorScope(scope)
}

// OperatorScope reports whether a scope is an operator's.
func OperatorScope(scope string) bool { return strings.HasPrefix(scope, "operator.") }

// InboxPrefix starts every inbox of a user, whose public key it names.
func InboxPrefix(user string) string { return "_INBOX_" + user }

const revokedTenant = "revoked-tenant"

// RevokedTenant is the tag of an account that revokes every access token of a
// tenant issued up to a time.
func RevokedTenant(tenant string, until time.Time) string {
	return revokedTenant + ":" + tenant + ":" + strconv.FormatInt(until.Unix(), 10)
}

// ParseRevokedTenant reads such a tag. Found is false for a tag of another
// kind, ok for one of this kind that makes no sense.
func ParseRevokedTenant(tag string) (tenant string, until time.Time, found, ok bool) {
	rest, found := strings.CutPrefix(tag, revokedTenant+":")
	if !found {
		return "", time.Time{}, false, true
	}
	tenant, seconds, _ := strings.Cut(rest, ":")
	n, err := strconv.ParseInt(seconds, 10, 64)
	return tenant, time.Unix(n, 0), true, err == nil && tenant != ""
}
