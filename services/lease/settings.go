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

// unreadable is the reason given while a tenant's setting cannot be read.
const unreadable = "policy unreadable"

// apply takes an update. A setting that is not valid is logged and leaves the
// last good one in force. Where there is none, as in a process that starts while
// the setting is bad, everything is denied: what the setting was to forbid is
// not known.
func (t *tenantSettings) apply(u bus.Update) {
	tenant, area, err := subjects.ParseSettingsKey(u.Key)
	if err != nil || area != "lease" {
		return
	}
	if u.Op != bus.Put {
		t.unset(tenant)
		return
	}
	settings, err := subjects.Decode[subjects.LeaseSettings](u.Value)
	if err == nil {
		err = settings.Validate()
	}
	if err != nil {
		t.log.Error().Err(err).Str("key", u.Key).Uint64("revision", u.Revision).
			Bool("deny", t.deny(tenant)).Msg("setting refused; the last good one stays, or all is denied")
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

func (t *tenantSettings) unset(tenant string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.byTenant, tenant)
}

// deny denies a tenant everything unless it has a setting, and reports whether
// it did.
func (t *tenantSettings) deny(tenant string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, known := t.byTenant[tenant]; known {
		return false
	}
	t.byTenant[tenant] = subjects.LeaseSettings{Policies: []subjects.LeasePolicy{{
		Policy: subjects.PolicyDeny, Reason: unreadable,
	}}}
	return true
}

func (t *tenantSettings) get(tenant string) subjects.LeaseSettings {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.byTenant[tenant]
}
