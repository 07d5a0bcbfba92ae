package subjects

import "strings"

// AgentKey is the key of an agent's row in PRESENCE: <tenant_id>.agent.<agent_id>.
func AgentKey(tenant, agent string) string { return tenant + ".agent." + agent }

// InstanceKey is the key of an instance's row in PRESENCE:
// <tenant_id>.instance.<instance_id>.
func InstanceKey(tenant, instance string) string { return tenant + ".instance." + instance }

// LeaseKey is the key of a lease's row in LEASES: <tenant_id>.<agent_id>.<lease_id>.
func LeaseKey(tenant, agent, lease string) string { return tenant + "." + agent + "." + lease }

// GatewayKey is the key of a gateway's row in GATEWAYS: system.<instance_id>.
func GatewayKey(instance string) string { return SystemTenant + "." + instance }

// SettingsKey is the key of a tenant's settings in SETTINGS; area is "lease"
// or "presence".
func SettingsKey(tenant, area string) string { return tenant + "." + area }

// PresenceKey is a parsed key of PRESENCE: exactly one of Agent and Instance
// is set.
type PresenceKey struct {
	Tenant   string
	Agent    string
	Instance string
}

// ParsePresenceKey reads a key of PRESENCE.
func ParsePresenceKey(key string) (PresenceKey, error) {
	t := strings.Split(key, ".")
	if len(t) == 3 && validName(t[0]) {
		switch {
		case t[1] == "agent" && validName(t[2]):
			return PresenceKey{Tenant: t[0], Agent: t[2]}, nil
		case t[1] == "instance" && validInstance(t[2]):
			return PresenceKey{Tenant: t[0], Instance: t[2]}, nil
		}
	}
	return PresenceKey{}, Invalid("key", "must be <tenant_id>.agent.<agent_id> or <tenant_id>.instance.<instance_id>")
}

// String builds the key's text.
func (k PresenceKey) String() string {
	if k.Agent != "" {
		return AgentKey(k.Tenant, k.Agent)
	}
	return InstanceKey(k.Tenant, k.Instance)
}

// ParseGatewayKey reads a key of GATEWAYS and returns the gateway's
// instance_id.
func ParseGatewayKey(key string) (string, error) {
	instance, found := strings.CutPrefix(key, SystemTenant+".")
	if !found || !validInstance(instance) {
		return "", Invalid("key", "must be system.<instance_id>")
	}
	return instance, nil
}

// ParseLeaseKey reads a key of LEASES.
func ParseLeaseKey(key string) (tenant, agent, lease string, err error) {
	t := strings.Split(key, ".")
	if len(t) != 3 || !validName(t[0]) || !validName(t[1]) || !validUUID(t[2]) {
		return "", "", "", Invalid("key", "must be <tenant_id>.<agent_id>.<lease_id>")
	}
	return t[0], t[1], t[2], nil
}

// ParseSettingsKey reads a key of SETTINGS.
func ParseSettingsKey(key string) (tenant, area string, err error) {
	tenant, area, _ = strings.Cut(key, ".")
	if !validName(tenant) || (area != "lease" && area != "presence") {
		return "", "", Invalid("key", "must be <tenant_id>.lease or <tenant_id>.presence")
	}
	return tenant, area, nil
}

// PresenceReaderKey is a key of PRESENCE that holds no row of an agent or an
// instance: it says which presence process reads the log for all agents, and
// how far it has got, where they do not have a consumer each. Readers of the
// bucket pass over it.
const PresenceReaderKey = SystemTenant + ".reader"
