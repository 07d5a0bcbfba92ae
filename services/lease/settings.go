package lease

import (
	"sync"

	"github.com/rs/zerolog"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// tenantSettings are the tenants' own settings, live from the bucket SETTINGS.
type tenantSettings struct {
	log zerolog.Logger

	mu       sync.Mutex
	byTenant map[string]subjects.LeaseSettings
}

// apply takes an update. A setting that is not valid is logged and leaves the
// last good one in force.
// NB: a process that starts while the setting is bad has no last good one, and
// grants; the operator's log says so.
func (t *tenantSettings) apply(u bus.Update) {
	tenant, area, err := subjects.ParseSettingsKey(u.Key)
	if err != nil || area != "lease" {
		return
	}
	if u.Op != bus.Put {
		t.set(tenant, subjects.LeaseSettings{})
		return
	}
	settings, err := subjects.Decode[subjects.LeaseSettings](u.Value)
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

func (t *tenantSettings) set(tenant string, s subjects.LeaseSettings) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.byTenant[tenant] = s
}

func (t *tenantSettings) get(tenant string) subjects.LeaseSettings {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byTenant[tenant]
}
