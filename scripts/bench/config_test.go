package bench

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/daemon"
)

func TestDefaultsTakeEverything(t *testing.T) {
	t.Parallel()
	c, err := parse(nil, []string{"HOME=/x", "ROLLCALL_GATEWAY_TTL=3s"})
	require.NoError(t, err)
	for _, name := range runNames() {
		require.True(t, c.wants(name), name)
	}
	require.Equal(t, 256, c.Agents)
	require.Equal(t, time.Second, c.Duration)
}

func TestRunNamesMeasures(t *testing.T) {
	t.Parallel()
	c, err := parse([]string{"--run", "beacon,lease", "--run", "fanout"}, nil)
	require.NoError(t, err)
	require.Equal(t, []string{"beacon", "lease", "fanout"}, c.Run)
	require.False(t, c.wants(runConnect))
	require.True(t, c.wants(runLease))
}

func TestFaultsAreNamedAtOnce(t *testing.T) {
	t.Parallel()
	_, err := parse([]string{"--run", "beacons", "--agents", "0", "--duration", "-1s", "--rounds", "9999"}, nil)
	var faults *daemon.SettingsError
	require.ErrorAs(t, err, &faults)
	require.Len(t, faults.Faults, 4)
	require.ErrorContains(t, err, `--run: "beacons" is not one of connect, beacon, fanout, events, slow, lease, gateway-loss`)
}

func TestStackGetsNoneOfBenchsOwnSettings(t *testing.T) {
	t.Parallel()
	got := stackEnv([]string{
		"HOME=/x", "ROLLCALL_AGENTS=7", "ROLLCALL_BENCH_ROUNDS=2", "ROLLCALL_NATS_URL=nats://127.0.0.1:1",
		"ROLLCALL_PRESENCE_CONSUMERS=shared", "ROLLCALL_GATEWAY_BEACON_RATE=5",
	})
	require.Equal(t, []string{
		"HOME=/x", "ROLLCALL_PRESENCE_CONSUMERS=shared", "ROLLCALL_GATEWAY_BEACON_RATE=5",
		"ROLLCALL_GATEWAY_REQUEST_RATE=1000000", "ROLLCALL_GATEWAY_REQUEST_BURST=1000000",
	}, got)
}

func TestBoundFollowsTheStack(t *testing.T) {
	t.Parallel()
	require.Equal(t, 11*time.Second, lossBound(nil))
	require.Equal(t, 3500*time.Millisecond, lossBound([]string{"ROLLCALL_GATEWAY_TTL=2s", "ROLLCALL_PRESENCE_GRACE=500ms"}))
}
