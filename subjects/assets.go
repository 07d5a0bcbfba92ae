package subjects

import "time"

// Stream states the facts of a JetStream stream that programs rely on. Its
// fields match those of bus.Stream one by one, so that one converts to the
// other and neither package imports the other.
type Stream struct {
	Name        string
	Description string
	Subjects    []string
	// MaxAge is how long a message is kept; 0 is for ever.
	MaxAge time.Duration
	// Duplicates is the window in which a repeated message id is recognised.
	Duplicates time.Duration
	// MaxConsumers is stated explicitly because servers since 2.15 stop at
	// 1,000 otherwise.
	MaxConsumers int
	// MaxMsgSize bounds one message in bytes, headers included.
	MaxMsgSize int32
	// WorkQueue removes a message once it is acknowledged.
	WorkQueue bool
	// Memory keeps messages in memory only.
	Memory bool
	// Schedules allows messages that the server delivers at a later time.
	Schedules bool
	// Fixed leaves a stream that exists as it is: another service is in charge.
	Fixed bool
}

// Bucket states the facts of a key-value bucket. All buckets keep one revision
// per key, because with more an expired key would show its older revision.
type Bucket struct {
	Name        string
	Description string
	// MarkerTTL is how long the marker of a deleted or lapsed key stays, and
	// so how long a process may be down and still learn of the lapse.
	MarkerTTL time.Duration
	// MaxValueSize bounds one row in bytes.
	MaxValueSize int32
	// Fixed leaves a bucket that exists as it is: another service is in charge.
	Fixed bool
}

// Names of the streams and buckets.
const (
	StreamEvents   = "EVENTS"
	StreamCommands = "COMMANDS"
	StreamEdge     = "EDGE"

	BucketPresence = "PRESENCE"
	BucketLeases   = "LEASES"
	BucketGateways = "GATEWAYS"
	BucketSettings = "SETTINGS"

	// BucketReplay is where bin/replay puts the rows that it made again; it is
	// there only meanwhile, unless it was asked to leave it.
	BucketReplay = "PRESENCE_REPLAY"
)

// DefaultEventsMaxAge is how long EVENTS keeps an event unless a setting says
// otherwise.
const DefaultEventsMaxAge = 24 * time.Hour

const (
	duplicateWindow = 2 * time.Minute
	edgeMaxAge      = 2 * time.Minute
	// markerTTL is longer than any restart that leaves somebody waiting: a
	// lapse that happens while presence is down is announced when it is back.
	markerTTL = time.Hour
	// leaseMarkerTTL is short: nobody waits for a lease's lapse, and whoever
	// lists leases reads the markers too.
	leaseMarkerTTL = time.Minute
	maxConsumers   = 250_000
	maxMessage     = 256 << 10
)

// Streams returns the facts of the three streams. EventsMaxAge is how long
// EVENTS keeps an event; 0 is for ever.
func Streams(eventsMaxAge time.Duration) []Stream {
	eventsWindow := duplicateWindow
	if eventsMaxAge > 0 {
		// The server refuses a window longer than the age.
		eventsWindow = min(duplicateWindow, eventsMaxAge)
	}
	return []Stream{
		{
			Name:        StreamEvents,
			Description: "everything that happened, by tenant",
			Subjects: []string{
				"tenant.*.agent.>", "tenant.*.instance.>", "tenant.*.presence.>",
				"tenant.*.audit.>", "tenant.*.event.>",
			},
			MaxAge:       eventsMaxAge,
			Duplicates:   eventsWindow,
			MaxConsumers: maxConsumers,
			MaxMsgSize:   maxMessage,
		},
		{
			Name:         StreamCommands,
			Description:  "commands to the lease service and its timers",
			Subjects:     []string{"tenant.*.lease.>"},
			Duplicates:   duplicateWindow,
			MaxConsumers: 1000,
			MaxMsgSize:   maxMessage,
			WorkQueue:    true,
			Schedules:    true,
		},
		{
			Name:         StreamEdge,
			Description:  "directed messages to one connection",
			Subjects:     []string{"tenant.*.edge.>"},
			MaxAge:       edgeMaxAge,
			Duplicates:   edgeMaxAge,
			MaxConsumers: 10_000,
			MaxMsgSize:   maxMessage,
			Memory:       true,
		},
	}
}

// Buckets returns the facts of the four buckets.
func Buckets() []Bucket {
	return []Bucket{
		{Name: BucketPresence, Description: "agent and instance rows", MarkerTTL: markerTTL, MaxValueSize: maxMessage},
		{Name: BucketLeases, Description: "lease rows", MarkerTTL: leaseMarkerTTL, MaxValueSize: maxMessage},
		{Name: BucketGateways, Description: "a row per live gateway process", MarkerTTL: markerTTL, MaxValueSize: maxMessage},
		{Name: BucketSettings, Description: "policies and limits per tenant", MarkerTTL: markerTTL, MaxValueSize: maxMessage},
	}
}

// ScratchBucket returns the facts of [BucketReplay], which holds rows of PRESENCE and
// takes what that takes.
func ScratchBucket() Bucket {
	return Bucket{Name: BucketReplay, Description: "rows of PRESENCE as EVENTS gives them", MaxValueSize: maxMessage}
}

// AllAgentConnectionsOpened is the filter of presence's registrar.
const AllAgentConnectionsOpened = "tenant.*.agent.*.connection.opened"

// AllAgentInputs is the filter for everything that bears on any agent's
// presence.
const AllAgentInputs = "tenant.*.agent.>"

// AllInstanceConnections is the filter for the connections of peers without an
// agent, of all tenants.
const AllInstanceConnections = "tenant.*.instance.*.connection.*"

// AllOf is the filter for every event of a tenant.
func AllOf(tenant string) string { return "tenant." + tenant + ".>" }

// EdgeOf is the filter for what is directed at the connections of one gateway
// incarnation, of all tenants.
func EdgeOf(incarnation string) string { return "tenant.*.edge." + incarnation + ".*" }

// AgentInputs is the filter for everything that bears on one agent's presence:
// its connections and its leases.
func AgentInputs(tenant, agent string) string {
	return "tenant." + tenant + ".agent." + agent + ".>"
}

// HeaderRowRevision carries, on an event that announces a change of a PRESENCE
// row, the revision that row got. A reader that holds a copy of the bucket up
// to revision V knows that every event with a lower or equal header is already
// part of its copy.
const HeaderRowRevision = "Rollcall-Row-Revision"

// HeaderCause carries, on an event that presence derived, the sequence of the
// message that caused it.
const HeaderCause = "Rollcall-Cause"

// HeaderPruneReason carries, on the marker of a purged instance row, why
// presence purged it (cap).
const HeaderPruneReason = "Rollcall-Prune-Reason"
