package subjects

import "time"

// PresenceBrakeKey is a key of PRESENCE that holds no row of an agent or an
// instance: it says whether the closing of lost gateways' connections is held,
// because so many are missing at once that it looks like an outage.
const PresenceBrakeKey = SystemTenant + ".brake"

// BrakeRow is the row [PresenceBrakeKey]. All presence processes go by it, and
// gateways show it.
type BrakeRow struct {
	Engaged bool `json:"engaged"`
	// Since is when it engaged last, Until when it released, or will at the latest.
	Since time.Time `json:"since,omitzero"`
	Until time.Time `json:"until,omitzero"`
	// Reason is why it engaged (gateways, instances, stall) or released (returned, limit).
	Reason string `json:"reason,omitempty"`
	// Gateways are those that were missing when it engaged, by instance_id.
	Gateways []string `json:"gateways,omitempty"`
	// Spent says that the limit has passed and they were still missing.
	Spent bool `json:"spent,omitempty"`
}

// Names of the audit events about the brake, on [PresenceAudit].
const (
	AuditBrakeEngaged  = "brake_engaged"
	AuditBrakeReleased = "brake_released"
)

// BrakeChanged is the payload of audit.presence.brake_engaged and
// audit.presence.brake_released. While the brake is engaged, agents of the
// gateways that are missing read as they did, and nobody knows.
type BrakeChanged struct {
	// Reason is gateways, instances or stall when it engages, returned or limit when it
	// releases.
	Reason string `json:"reason" schema:"text,least=1"`
	// Gateways is how many were missing when it engaged.
	Gateways int64     `json:"gateways" schema:"count"`
	Since    time.Time `json:"since"`
	Until    time.Time `json:"until"`
}

// Validate refuses a payload that says nothing.
func (p BrakeChanged) Validate() error {
	return first(checkRequiredText("reason", p.Reason), checkNumber("gateways", p.Gateways, 0))
}
