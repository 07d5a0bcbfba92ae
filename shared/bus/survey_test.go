package bus_test

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

// TestSurvey looks at a server on its own, once with what it offers and once with
// more than that. Each time one line says so.
func TestSurvey(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	for replicas, level := range map[int]string{1: "info", 3: "warn"} {
		var log bytes.Buffer
		conn, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), Name: t.Name(), Log: zerolog.New(&log)})
		require.NoError(t, err)
		t.Cleanup(conn.NC().Close)
		require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{Name: "S", Subjects: []string{"s.>"}}, 1))
		require.NoError(t, conn.EnsureBucket(t.Context(), bus.Bucket{Name: "B"}, 1))

		found := conn.Survey(t.Context(), replicas, bus.SyncAlways, "KV_ABSENT")
		require.True(t, found.Complete)
		require.False(t, bus.Older(found.ServerVersion, bus.MinServerVersion))
		require.Equal(t, []any{1, bus.SyncAlways}, []any{found.Replicas, found.Sync})
		var line struct {
			Level, Message, Sync string
			ServerVersion        string `json:"server_version"`
			Replicas             int
			Faults               []string
		}
		require.NoError(t, json.Unmarshal(log.Bytes(), &line), "one line: %s", log.String())
		require.Equal(t, []any{level, found.ServerVersion, 1, bus.SyncAlways}, []any{line.Level, line.ServerVersion, line.Replicas, line.Sync})
		require.Equal(t, found.Faults, line.Faults)
		if replicas == 3 {
			require.ElementsMatch(t, []string{"S has 1 replicas, not 3", "KV_B has 1 replicas, not 3"}, found.Faults)
		} else {
			require.Empty(t, found.Faults)
		}
	}
}

// TestSurveyNamesServersThatAreAway has copies on one server that is there, on one that
// is behind, and on two that are away.
func TestSurveyNamesServersThatAreAway(t *testing.T) {
	t.Parallel()
	require.Empty(t, bus.Away(nil), "a server on its own")
	require.Equal(t, []string{"server c is away", "server d is away"}, bus.Away(&jetstream.ClusterInfo{Replicas: []*jetstream.PeerInfo{
		{Name: "a", Current: true, Active: time.Minute},
		{Name: "b", Active: time.Second, Lag: 100},
		{Name: "c", Active: time.Minute},
		{Name: "d", Offline: true},
	}}))
}

// TestSurveyLooksBesides looks at a stream that somebody else has made, which has less
// than what was asked for.
func TestSurveyLooksBesides(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	require.NoError(t, server.Connect(t).EnsureBucket(t.Context(), bus.Bucket{Name: "THEIRS"}, 1))
	conn := server.Connect(t)
	require.Zero(t, conn.Look(t.Context(), 3, bus.SyncAlways).Replicas)
	found := conn.Look(t.Context(), 3, bus.SyncAlways, "KV_THEIRS")
	require.Equal(t, 1, found.Replicas)
	require.Equal(t, []string{"KV_THEIRS has 1 replicas, not 3"}, found.Faults)
	server.Stop(t)
	require.Eventually(t, func() bool { return !conn.Connected() }, soon, tick)
	gone := conn.Look(t.Context(), 3, bus.SyncAlways, "KV_THEIRS")
	require.False(t, gone.Complete)
	require.Empty(t, gone.Faults, "nothing is known")
}

func TestVersionsOfServers(t *testing.T) {
	t.Parallel()
	for _, version := range []string{"2.14.9", "2.9.30", "1.99.99", "v2.14.0-RC.1", "", "main", "2.15"} {
		require.True(t, bus.Older(version, "2.15.0"), version)
	}
	for _, version := range []string{"2.15.0", "v2.15.2", "2.16.0-preview.1", "3.0.0", "2.100.0"} {
		require.False(t, bus.Older(version, "2.15.0"), version)
	}
}
