package subjects

import (
	"encoding/json"
	"slices"
	"time"
)

// Status is what presence says of an agent.
type Status string

// The statuses. A missing row reads offline.
const (
	StatusOffline Status = "offline"
	StatusOnline  Status = "online"
	// StatusWorking is a live agent that holds a lease in GRANTED or CLAIMED.
	StatusWorking Status = "working"
)

// Reasons of presence.changed.
const (
	ReasonConnected        = "connected"
	ReasonLeaseGranted     = "lease_granted"
	ReasonLeaseEnded       = "lease_ended"
	ReasonDisconnected     = "disconnected"
	ReasonHeartbeatTimeout = "heartbeat_timeout"
	ReasonGatewayLost      = "gateway_lost"
)

// AgentRow is the row <tenant_id>.agent.<agent_id> of PRESENCE.
type AgentRow struct {
	AgentID string    `json:"agent_id"`
	Status  Status    `json:"status"`
	Since   time.Time `json:"since,omitzero"`
	// Reason is why the status is what it is; empty while nothing is known.
	Reason string `json:"reason,omitempty"`
	// Connections are the live ones, oldest first. Never null in JSON.
	Connections []AgentConnectionEntry `json:"connections"`
	LastSeenAt  time.Time              `json:"last_seen_at,omitzero"`
	// Evidence is the event that gave the row its status.
	Evidence *Evidence `json:"evidence,omitempty"`
	// AppliedSeq is the stream sequence of the event that made the row's last
	// change. Bookkeeping: it stays in the bucket.
	AppliedSeq uint64 `json:"applied_seq,omitempty"`
	// Previous is the status before the present one, so that the event that
	// announced the change can be emitted again. Bookkeeping.
	Previous Status `json:"previous,omitempty"`
}

// AgentConnectionEntry is one live connection of an agent.
type AgentConnectionEntry struct {
	ConnectionID string    `json:"connection_id"`
	InstanceID   string    `json:"instance_id"`
	GatewayID    string    `json:"gateway_id"`
	Incarnation  string    `json:"incarnation"`
	ConnectedAt  time.Time `json:"connected_at"`
	// Leases are the ids of the leases bound to this connection that are
	// GRANTED or CLAIMED. Never null in JSON.
	Leases []string `json:"leases"`
}

// Evidence names an event of the stream EVENTS.
type Evidence struct {
	Seq     uint64    `json:"seq"`
	EventID string    `json:"event_id"`
	Type    string    `json:"type"`
	At      time.Time `json:"at"`
}

// OfflineAgent is the row of an agent nothing is known of.
func OfflineAgent(agent string) AgentRow {
	return AgentRow{AgentID: agent, Status: StatusOffline, Connections: []AgentConnectionEntry{}}
}

// Public returns the row as peers see it: without its bookkeeping.
func (r AgentRow) Public() AgentRow {
	r.AppliedSeq, r.Previous = 0, ""
	if r.Connections == nil {
		r.Connections = []AgentConnectionEntry{}
	}
	return r
}

// Leases counts the leases on all connections.
func (r AgentRow) Leases() int {
	n := 0
	for _, c := range r.Connections {
		n += len(c.Leases)
	}
	return n
}

// PresenceChanged is the payload of presence.changed, emitted if and only if
// an agent's status changed.
type PresenceChanged struct {
	AgentID  string `json:"agent_id" schema:"agent"`
	Status   Status `json:"status" schema:"status"`
	Previous Status `json:"previous" schema:"status"`
	Reason   string `json:"reason"`
	// Connections and Leases are counts.
	Connections int       `json:"connections"`
	Leases      int       `json:"leases"`
	Since       time.Time `json:"since"`
}

// Validate refuses a payload without an agent, and a status that there is not.
func (p PresenceChanged) Validate() error {
	return first(
		CheckAgent("agent_id", p.AgentID),
		checkStatus("status", p.Status),
		checkStatus("previous", p.Previous),
	)
}

// Statuses returns the values that a status may have.
func Statuses() []Status { return []Status{StatusOffline, StatusOnline, StatusWorking} }

func checkStatus(field string, s Status) error {
	if !slices.Contains(Statuses(), s) {
		return Invalid(field, "must be offline, online or working")
	}
	return nil
}

// Reasons of an instance row.
const (
	InstanceSelf          = "self"
	InstanceConnected     = "connect"
	InstancePeriodic      = "periodic"
	InstanceNodeConnected = "node-connected"
	InstanceDisconnected  = "disconnect"
	InstancePruned        = "prune"
)

// ReportedAddress is what a peer says of itself where the gateway has its own
// observation; neither replaces the other.
type ReportedAddress struct {
	Host string `json:"host,omitempty"`
	IP   string `json:"ip,omitempty"`
}

// InstanceRow is the row <tenant_id>.instance.<instance_id> of PRESENCE. It is
// a diagnostic surface: nothing decides by it.
type InstanceRow struct {
	InstanceID string `json:"instance_id" schema:"instance"`
	Role       string `json:"role"`
	Host       string `json:"host,omitempty"`
	// IP is the address the gateway observed.
	IP      string `json:"ip,omitempty"`
	Version string `json:"version,omitempty"`
	Mode    string `json:"mode,omitempty"`
	AgentID string `json:"agent_id,omitempty"`
	// ConnectionID is the newest live connection, absent when there is none.
	ConnectionID string    `json:"connection_id,omitempty"`
	ConnectedAt  time.Time `json:"connected_at,omitzero"`
	LastSeenAt   time.Time `json:"last_seen_at,omitzero"`
	// ExpiresAt is when a disconnected row lapses.
	ExpiresAt        time.Time        `json:"expires_at,omitzero"`
	LastInputSeconds *int64           `json:"last_input_seconds,omitempty"`
	Reason           string           `json:"reason"`
	Metadata         json.RawMessage  `json:"metadata,omitempty"`
	Reported         *ReportedAddress `json:"reported,omitempty"`
	// Links are all live connections of the device, oldest first. Bookkeeping:
	// they stay in the bucket.
	Links []Link `json:"links,omitempty"`
	// Applied is, per source of events (an agent_id, or empty for events on the
	// instance's own subjects), the sequence of the last one applied. One
	// source's events arrive in order; those of different sources may not.
	// Bookkeeping.
	Applied map[string]uint64 `json:"applied,omitempty"`
}

// Link is one live connection of an instance, with what is needed to show the
// row by it and to close it when its gateway is lost.
type Link struct {
	ConnectionID string    `json:"connection_id"`
	AgentID      string    `json:"agent_id,omitempty"`
	GatewayID    string    `json:"gateway_id"`
	Incarnation  string    `json:"incarnation"`
	ConnectedAt  time.Time `json:"connected_at"`
	Role         string    `json:"role"`
	IP           string    `json:"ip,omitempty"`
	Host         string    `json:"host,omitempty"`
	Version      string    `json:"version,omitempty"`
	Mode         string    `json:"mode,omitempty"`
}

// Public returns the row as peers see it: without its bookkeeping.
func (r InstanceRow) Public() InstanceRow {
	r.Links, r.Applied = nil, nil
	return r
}

// WithBeacon returns the row as a beacon leaves it: absent keys keep their
// values, host and ip go to Reported, at becomes last_seen_at.
func (r InstanceRow) WithBeacon(b ConnectionBeacon, at time.Time) InstanceRow {
	if b.Reported.Host != "" || b.Reported.IP != "" {
		reported := ReportedAddress{}
		if r.Reported != nil {
			reported = *r.Reported
		}
		reported.Host = or(b.Reported.Host, reported.Host)
		reported.IP = or(b.Reported.IP, reported.IP)
		r.Reported = &reported
	}
	r.Version = or(b.Reported.Version, r.Version)
	r.Mode = or(b.Reported.Mode, r.Mode)
	if b.LastInputSeconds != nil {
		r.LastInputSeconds = b.LastInputSeconds
	}
	if len(b.Metadata) > 0 {
		r.Metadata = b.Metadata
	}
	r.LastSeenAt, r.Reason = at, InstancePeriodic
	return r
}

func or(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

// PresenceUpserted is the payload of presence.upserted.
type PresenceUpserted struct {
	Entry InstanceRow `json:"entry"`
}

// Validate refuses an entry without an instance.
func (p PresenceUpserted) Validate() error {
	return CheckInstance("entry.instance_id", p.Entry.InstanceID)
}

// Reasons of presence.pruned.
const (
	// PrunedTTL is a disconnected row that lapsed.
	PrunedTTL = "ttl"
	// PrunedCap is a disconnected row removed because its tenant has too many.
	PrunedCap = "cap"
)

// PresencePruned is the payload of presence.pruned.
type PresencePruned struct {
	InstanceID string `json:"instance_id" schema:"instance"`
	Reason     string `json:"reason"`
}

// Validate refuses a payload without an instance.
func (p PresencePruned) Validate() error { return CheckInstance("instance_id", p.InstanceID) }

// Names of the audit events that presence emits.
const (
	// AuditBeginAfterDisconnect is a lease that began for an agent without any
	// live connection.
	AuditBeginAfterDisconnect = "lease_begin_after_disconnect"
	// AuditEndAfterDisconnect is a lease that ended for such an agent.
	AuditEndAfterDisconnect = "lease_end_after_disconnect"
	// AuditStaleConnection is a lease that began or ended on a connection that
	// is gone, while the agent lives on another.
	AuditStaleConnection = "lease_callback_from_stale_connection"
)

// AuditRecord is the payload of audit.<name>.
type AuditRecord struct {
	AgentID             string `json:"agent_id" schema:"agent"`
	LeaseID             string `json:"lease_id,omitempty"`
	Kind                string `json:"kind,omitempty"`
	StaleConnectionID   string `json:"stale_connection_id,omitempty"`
	CurrentConnectionID string `json:"current_connection_id,omitempty"`
	Detail              string `json:"detail,omitempty"`
}

// Validate refuses a payload without an agent.
func (p AuditRecord) Validate() error { return CheckAgent("agent_id", p.AgentID) }

// GatewayRow is the row system.<instance_id> of GATEWAYS. Its gateway keeps it
// alive; when it lapses, the gateway does not reach JetStream any more.
type GatewayRow struct {
	InstanceID  string    `json:"instance_id"`
	Incarnation string    `json:"incarnation"`
	Host        string    `json:"host"`
	Version     string    `json:"version"`
	StartedAt   time.Time `json:"started_at"`
	Connections int       `json:"connections"`
}

// PresenceSettings is the value of <tenant_id>.presence in SETTINGS. Zero
// values leave the defaults.
type PresenceSettings struct {
	// RetentionMS is how long a disconnected row is kept.
	RetentionMS int64 `json:"retention_ms,omitempty"`
	// MaxInstances is the cap on instance rows.
	MaxInstances int `json:"max_instances,omitempty"`
	// MaxConnections is the cap on open sockets.
	MaxConnections int `json:"max_connections,omitempty"`
}

// maxRetentionMS is a hundred years. Much more does not fit a time.Duration,
// and would turn into a retention that is over before it began.
const maxRetentionMS = 100 * 365 * 24 * 3600 * 1000

// Validate refuses values that would switch a limit off.
func (s PresenceSettings) Validate() error {
	switch {
	case s.RetentionMS < 0 || (s.RetentionMS > 0 && s.RetentionMS < 1000):
		return Invalid("retention_ms", "must be at least 1000")
	case s.RetentionMS > maxRetentionMS:
		return Invalid("retention_ms", "must be at most 3153600000000")
	case s.MaxInstances < 0:
		return Invalid("max_instances", "must be at least 1")
	case s.MaxConnections < 0:
		return Invalid("max_connections", "must be at least 1")
	default:
		return nil
	}
}
