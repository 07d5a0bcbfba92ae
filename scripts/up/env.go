package up

import (
	"slices"
	"strings"
)

// childEnv is the environment of the processes: up's own, without the settings
// that only up has, which the processes would refuse as unknown.
func childEnv(env []string) []string {
	own := []string{"JSON", "PORTS", "DIR", "GATEWAYS", "PRESENCE", "LEASE", "AGENTS", "TENANT", "NATS_CA", "NATS_CREDS_DIR", "NATS_NODES", "NATS_SYNC"}
	return slices.DeleteFunc(slices.Clone(env), func(pair string) bool {
		name, _, _ := strings.Cut(pair, "=")
		setting, found := strings.CutPrefix(name, "ROLLCALL_")
		return found && (slices.Contains(own, setting) || strings.HasPrefix(setting, "UP_"))
	})
}
