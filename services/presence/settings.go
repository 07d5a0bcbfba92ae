package presence

import (
	"sync"
	"time"

	"github.com/rs/zerolog"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// tenantSettings are the tenants' own settings, live from the bucket SETTINGS.
type tenantSettings struct {
	config *Config
	log    zerolog.Logger

	mu       sync.Mutex
	byTenant map[string]subjects.PresenceSettings
}

// apply takes an update. A setting that is not valid is logged and leaves the
// last good one in force.
func (t *tenantSettings) apply(u bus.Update) {
	tenant, area, err := subjects.ParseSettingsKey(u.Key)
	if err != nil || area != "presence" {
		return
	}
	if u.Op != bus.Put {
		t.set(tenant, subjects.PresenceSettings{})
		return
	}
	settings, err := subjects.Decode[subjects.PresenceSettings](u.Value)
	if err == nil {
		err = settings.Validate()
	}
	if err != nil {
		t.log.Error().Err(err).Str("key", u.Key).Uint64("revision", u.Revision).
			Msg("setting refused; the last good one stays")
		return
	}
	t.set(tenant, settings)
	t.log.Info().Str("key", u.Key).Uint64("revision", u.Revision).Msg("setting taken")
}

func (t *tenantSettings) set(tenant string, s subjects.PresenceSettings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byTenant[tenant] = s
}

func (t *tenantSettings) get(tenant string) subjects.PresenceSettings {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byTenant[tenant]
}

// retention is how long a row outlives its last connection.
func (t *tenantSettings) retention(tenant string) time.Duration {
	if ms := t.get(tenant).RetentionMS; ms > 0 {
		return time.Duration(ms) * time.Millisecond
	}
	return t.config.Retention
}

// maxInstances is the cap on instance rows.
func (t *tenantSettings) maxInstances(tenant string) int {
	if n := t.get(tenant).MaxInstances; n > 0 {
		return n
	}
	return t.config.MaxInstances
}
