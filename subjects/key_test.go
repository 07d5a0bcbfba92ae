package subjects_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rollcall/subjects"
)

func TestKeyText(t *testing.T) {
	t.Parallel()
	require.Equal(t, "acme.agent.ada", subjects.AgentKey("acme", "ada"))
	require.Equal(t, "acme.instance."+deviceID, subjects.InstanceKey("acme", deviceID))
	require.Equal(t, "acme.ada."+leaseID, subjects.LeaseKey("acme", "ada", leaseID))
	require.Equal(t, "system."+gatewayID, subjects.GatewayKey(gatewayID))
	require.Equal(t, "acme.lease", subjects.SettingsKey("acme", "lease"))
	require.Equal(t, "acme.presence", subjects.SettingsKey("acme", "presence"))
}

func TestKeyRoundTrips(t *testing.T) {
	t.Parallel()
	// What a key-value bucket accepts as a key.
	legal := regexp.MustCompile(`^[-/_=.a-zA-Z0-9]+$`)
	rapid.Check(t, func(t *rapid.T) {
		tenant, agent := genName().Draw(t, "tenant"), genName().Draw(t, "agent")
		instance, lease := genInstance().Draw(t, "instance"), genUUID().Draw(t, "lease")

		for key, want := range map[string]subjects.PresenceKey{
			subjects.AgentKey(tenant, agent):       {Tenant: tenant, Agent: agent},
			subjects.InstanceKey(tenant, instance): {Tenant: tenant, Instance: instance},
		} {
			got, err := subjects.ParsePresenceKey(key)
			require.NoError(t, err)
			require.Equal(t, want, got)
			require.Equal(t, key, got.String())
			require.Regexp(t, legal, key)
		}

		gotTenant, gotAgent, gotLease, err := subjects.ParseLeaseKey(subjects.LeaseKey(tenant, agent, lease))
		require.NoError(t, err)
		require.Equal(t, []string{tenant, agent, lease}, []string{gotTenant, gotAgent, gotLease})

		gotInstance, err := subjects.ParseGatewayKey(subjects.GatewayKey(instance))
		require.NoError(t, err)
		require.Equal(t, instance, gotInstance)

		area := rapid.SampledFrom([]string{"lease", "presence"}).Draw(t, "area")
		gotTenant, gotArea, err := subjects.ParseSettingsKey(subjects.SettingsKey(tenant, area))
		require.NoError(t, err)
		require.Equal(t, []string{tenant, area}, []string{gotTenant, gotArea})
	})
}

func TestParsePresenceKeyRefuses(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"", ".", "acme", "acme.agent", "acme.agent.", "acme.agent.ada.more", ".agent.ada", "Acme.agent.ada", "acme.Agent.ada",
		"acme.agent.Ada", "acme.agent.*", "acme.agent.>", "acme.>", "*.agent.ada", "acme.agent.a b", "acme.agent.é",
		"acme.agent." + strings.Repeat("a", 65), "acme.instance.ada", "acme.instance." + deviceID + "a",
		"acme.instance." + strings.ToUpper(deviceID), "acme.lease.ada", "acme.ada." + leaseID,
	} {
		got, err := subjects.ParsePresenceKey(key)
		requireInvalid(t, err, "key")
		require.Zero(t, got, key)
	}
}

func TestParseGatewayKeyRefuses(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"", "system", "system.", "system.ada", "acme." + gatewayID, gatewayID, "system." + gatewayID + ".x", "system.." + gatewayID,
		"system." + strings.ToUpper(gatewayID), "systemx." + gatewayID,
	} {
		got, err := subjects.ParseGatewayKey(key)
		requireInvalid(t, err, "key")
		require.Empty(t, got, key)
	}
}

func TestParseLeaseKeyRefuses(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"", "acme", "acme.ada", "acme.ada.", "acme..ada." + leaseID, "acme." + leaseID, "acme.ada." + leaseID + ".x", ".ada." + leaseID,
		"acme.*." + leaseID, "acme.Ada." + leaseID, "acme.ada." + strings.ToUpper(leaseID), "acme.ada.{" + leaseID + "}", "acme.agent.ada",
	} {
		tenant, agent, lease, err := subjects.ParseLeaseKey(key)
		requireInvalid(t, err, "key")
		require.Empty(t, tenant+agent+lease, key)
	}
}

func TestParseSettingsKeyRefuses(t *testing.T) {
	t.Parallel()
	for _, key := range []string{
		"", "acme", "acme.", ".lease", "acme.leases", "acme.Lease", "Acme.lease", "acme.lease.x", "acme.x.lease", "*.lease", "acme.>",
	} {
		tenant, area, err := subjects.ParseSettingsKey(key)
		requireInvalid(t, err, "key")
		require.Empty(t, tenant+area, key)
	}
}

func FuzzParsePresenceKey(f *testing.F) {
	f.Add("acme.agent.ada")
	f.Add("acme.instance." + deviceID)
	f.Add("agent.agent.agent")
	f.Add("acme.instance.ada")
	f.Add("..")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := subjects.ParsePresenceKey(text)
		if err != nil {
			requireInvalid(t, err, "key")
			require.Zero(t, key)
			return
		}
		require.Equal(t, text, key.String())
		require.NotEqual(t, key.Agent == "", key.Instance == "", "exactly one is set")
	})
}
