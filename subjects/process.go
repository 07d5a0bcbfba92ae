package subjects

import (
	"strings"
	"time"
)

// presenceProcess starts the keys of PRESENCE under which presence processes say
// that they are there.
const presenceProcess = SystemTenant + ".presence."

// PresenceProcessKey is a key of PRESENCE that holds no row of an agent or an
// instance: a presence process says there how it is. Readers of the bucket that
// want rows pass over it.
func PresenceProcessKey(process string) string { return presenceProcess + process }

// ParsePresenceProcessKey returns the process whose row a key is of.
func ParsePresenceProcessKey(key string) (process string, is bool) {
	process, is = strings.CutPrefix(key, presenceProcess)
	return process, is && validUUID(process)
}

// Ways in which presence processes consume events.
const (
	// ModePerAgent gives each live agent a consumer of its own.
	ModePerAgent = "per-agent"
	// ModeShared has one process read for all agents.
	ModeShared = "shared"
)

// ProcessRow is the row [PresenceProcessKey]. The process renews it every
// [ProcessBeat]; it lapses after [ProcessTTL] without that.
type ProcessRow struct {
	ProcessID string    `json:"process_id"`
	Mode      string    `json:"mode"`
	StartedAt time.Time `json:"started_at"`
	// LagMS is the time from an event being stored to being applied: the worst of
	// those lately applied or being applied.
	LagMS int64 `json:"lag_ms"`
	// Reads says that the process reads the log for all agents.
	Reads bool `json:"reads,omitempty"`
}

// How often the row of a presence process is renewed, and how long it lives
// without.
const (
	ProcessBeat = 2 * time.Second
	ProcessTTL  = 6 * time.Second
)
