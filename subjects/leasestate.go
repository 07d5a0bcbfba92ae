package subjects

// States of a lease.
const (
	LeasePending   = "PENDING"
	LeaseHold      = "HOLD"
	LeaseGranted   = "GRANTED"
	LeaseClaimed   = "CLAIMED"
	LeaseConsumed  = "CONSUMED"
	LeaseExpired   = "EXPIRED"
	LeaseDenied    = "DENIED"
	LeaseAbandoned = "ABANDONED"
)

// LeaseStates returns all states, the terminal ones last.
func LeaseStates() []string {
	return []string{
		LeasePending, LeaseHold, LeaseGranted, LeaseClaimed,
		LeaseConsumed, LeaseExpired, LeaseDenied, LeaseAbandoned,
	}
}

// LeaseEnded reports whether a state is terminal: no transition leaves it.
func LeaseEnded(state string) bool {
	switch state {
	case LeaseConsumed, LeaseExpired, LeaseDenied, LeaseAbandoned:
		return true
	default:
		return false
	}
}

// Types of the lease events that event.go does not name.
const (
	TypeLeaseRequested  = "lease.requested"
	TypeLeaseDenied     = "lease.denied"
	TypeLeaseHeld       = "lease.held"
	TypeLeaseClaimed    = "lease.claimed"
	TypeLeaseRolledBack = "lease.rolled_back"
	TypeLeaseRenewed    = "lease.renewed"
	TypeLeaseAbandoned  = "lease.abandoned"
)

// Verdicts on a lease.
const (
	VerdictGrant = "grant"
	VerdictDeny  = "deny"
	VerdictHold  = "hold"
)

// ByPolicy is who decided, in a verdict that no moderator gave.
const ByPolicy = "policy"

// Reasons of a lease's end that the service itself gives.
const (
	LeaseReasonTimeout              = "timeout"
	LeaseReasonDisconnect           = "disconnect"
	LeaseReasonClaimDeadline        = "claim_deadline"
	LeaseReasonHoldDeadline         = "hold_deadline"
	LeaseReasonModeratorUnavailable = "moderator_unavailable"
)

// AuditLeaseClaimDeadline is the audit event of a claim whose deadline passed:
// an act was under way and nobody said how it ended.
const AuditLeaseClaimDeadline = "lease_claim_deadline"
