package subjects

import (
	"encoding/json"
	"time"
)

// LeaseRow is a lease as peers and events see it.
type LeaseRow struct {
	LeaseID        string          `json:"lease_id" schema:"uuid"`
	AgentID        string          `json:"agent_id" schema:"agent"`
	ConnectionID   string          `json:"connection_id" schema:"uuid"`
	Resource       string          `json:"resource"`
	State          string          `json:"state"`
	Verdict        *Verdict        `json:"verdict,omitempty"`
	Fence          uint64          `json:"fence,omitempty"`
	RequestedAt    time.Time       `json:"requested_at"`
	ResolvedAt     time.Time       `json:"resolved_at,omitzero"`
	ClaimedAt      time.Time       `json:"claimed_at,omitzero"`
	EndedAt        time.Time       `json:"ended_at,omitzero"`
	ExpiresAt      time.Time       `json:"expires_at,omitzero"`
	ClaimExpiresAt time.Time       `json:"claim_expires_at,omitzero"`
	MessageID      string          `json:"message_id,omitempty"`
	Metadata       json.RawMessage `json:"metadata,omitempty"`
	Reason         string          `json:"reason,omitempty"`
}

// Verdict is what a policy, a moderator or an operator decided.
type Verdict struct {
	Decision string `json:"decision"`
	Reason   string `json:"reason,omitempty"`
	By       string `json:"by"`
}

// LeaseTransition is the payload of every lease event.
type LeaseTransition struct {
	Lease LeaseRow `json:"lease"`
}

// Validate refuses a payload presence could not place.
func (p LeaseTransition) Validate() error {
	return first(
		CheckUUID("lease.lease_id", p.Lease.LeaseID),
		CheckAgent("lease.agent_id", p.Lease.AgentID),
		CheckUUID("lease.connection_id", p.Lease.ConnectionID),
	)
}
