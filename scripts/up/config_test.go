package up

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/shared/daemon"
)

func TestParseDefaults(t *testing.T) {
	t.Parallel()
	c, err := parse(nil, nil)
	require.NoError(t, err)
	require.Equal(t, Config{
		Ports: "fixed", Dir: ".rollcall", Gateways: 1, Presence: 1, Lease: 1, Agents: 20, Tenants: []string{"acme"}, NATSSync: "interval",
	}, c)
}

func TestParseAll(t *testing.T) {
	t.Parallel()
	c, err := parse([]string{
		"--json", "--ports", "auto", "--dir", "/d", "--gateways", "3", "--presence", "2", "--lease=0",
		"--tenant", "acme", "--tenant", "globex", "--nats-url", "nats://127.0.0.1:1",
	}, []string{"ROLLCALL_UP_AGENTS=7", "ROLLCALL_GATEWAY_PING=1s", "ROLLCALL_LOG_LEVEL=debug"})
	require.NoError(t, err)
	require.Equal(t, Config{
		JSON: true, Ports: "auto", Dir: "/d", Gateways: 3, Presence: 2, Lease: 0, Agents: 7,
		Tenants: []string{"acme", "globex"}, NATSURL: "nats://127.0.0.1:1", NATSSync: "interval",
	}, c)
}

func TestNoAgentsForPrograms(t *testing.T) {
	t.Parallel()
	c, err := parse([]string{"--json"}, nil)
	require.NoError(t, err)
	require.Zero(t, c.Agents)
}

func TestParseNamesAllFaultsInOneLine(t *testing.T) {
	t.Parallel()
	_, err := parse([]string{
		"--ports", "some", "--gateways", "101", "--tenant", "system", "--tenant", "A", "--tenant", "b", "--tenant", "b",
		"--nats-url", "nats://me:secret@host", "--what", "--agents", "-2",
		"--nats-nodes", "2", "--nats-sync", "never", "--nats-ca", "/nowhere.pem",
	}, nil)
	var faults *daemon.SettingsError
	require.ErrorAs(t, err, &faults)
	for _, want := range []string{"--ports", "--gateways", `"system"`, `"A"`, `"b" comes twice`, "--nats-url", "--what", "--agents", "--nats-nodes", "--nats-sync", "--nats-ca: open /nowhere.pem"} {
		require.ErrorContains(t, err, want)
	}
	require.NotContains(t, err.Error(), "\n")
	require.NotContains(t, err.Error(), "secret")
}

func TestChildEnvLeavesUpsOwnSettingsOut(t *testing.T) {
	t.Parallel()
	require.Equal(t,
		[]string{"PATH=/bin", "ROLLCALL_GATEWAY_PING=1s", "ROLLCALL_LOG_LEVEL=debug", "ROLLCALL_TEST_FAULT=x"},
		childEnv([]string{
			"PATH=/bin", "ROLLCALL_UP_DIR=/d", "ROLLCALL_TENANT=acme", "ROLLCALL_GATEWAYS=2",
			"ROLLCALL_GATEWAY_PING=1s", "ROLLCALL_LOG_LEVEL=debug", "ROLLCALL_TEST_FAULT=x",
		}))
}
