package access

import "strings"

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

// Replay makes PRESENCE again from EVENTS, in a bucket of its own, and compares.
const Replay Role = "replay"

// Issuers of access tokens, which are for gateways. NATS refuses them.
const (
	// Agent issues tokens without operator scopes.
	Agent Role = "agent"
	// Operator issues tokens with any scope.
	Operator Role = "operator"
)

// Roles returns every role, each of which has a signing key of its own.
func Roles() []Role {
	return []Role{Gateway, Presence, Lease, Producer, Tail, Replay, Admin, Agent, Operator}
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
