package token

import "slices"

// The scopes a token may carry.
const (
	ScopeOperatorRead  = "operator.read"
	ScopeOperatorWrite = "operator.write"
	ScopePresenceRead  = "presence.read"
	ScopeEventsRead    = "events.read"
	ScopeEventsPublish = "events.publish"
	ScopeLeaseUse      = "lease.use"
	ScopeLeaseModerate = "lease.moderate"
)

// every is all of them, those that include others last.
func every() []string {
	return []string{
		ScopePresenceRead, ScopeEventsRead, ScopeEventsPublish, ScopeLeaseUse, ScopeLeaseModerate, ScopeOperatorRead, ScopeOperatorWrite,
	}
}

// Scopes is the set of scopes of a token.
type Scopes struct{ held []string }

// scopesOf keeps what is said; a scope nobody asks for does no harm.
func scopesOf(tags []string) Scopes { return Scopes{held: slices.Clone(tags)} }

// Has reports whether the set allows scope: directly, or because
// operator.write includes every scope and operator.read the ones that read.
func (s Scopes) Has(scope string) bool {
	if slices.Contains(s.held, scope) || slices.Contains(s.held, ScopeOperatorWrite) {
		return true
	}
	reads := scope == ScopePresenceRead || scope == ScopeEventsRead
	return reads && slices.Contains(s.held, ScopeOperatorRead)
}

// All lists the scopes that the set allows, in one order whatever it was made of.
func (s Scopes) All() []string {
	return slices.DeleteFunc(every(), func(scope string) bool { return !s.Has(scope) })
}
