package subjects

import "time"

// Besides the leases' rows LEASES holds two kinds of its own bookkeeping. Their
// second token starts with an underscore, as no agent_id does.

// ClosedKey is the key of the tombstone of a closed connection:
// <tenant_id>._closed.<connection_id>.
func ClosedKey(tenant, connection string) string { return tenant + "._closed." + connection }

// ModeratorKey is the key of a moderator's row:
// <tenant_id>._moderator.<connection_id>.
func ModeratorKey(tenant, connection string) string { return tenant + "._moderator." + connection }

// ClosedRow is the tombstone of a connection: whatever it left under way ends.
type ClosedRow struct {
	Reason   string    `json:"reason"`
	ClosedAt time.Time `json:"closed_at"`
}

// ModeratorRow is a connection that answers for the resources with these
// prefixes, until it closes.
type ModeratorRow struct {
	ConnectionID string    `json:"connection_id"`
	InstanceID   string    `json:"instance_id"`
	Incarnation  string    `json:"incarnation"`
	Resources    []string  `json:"resources"`
	Since        time.Time `json:"since"`
}
