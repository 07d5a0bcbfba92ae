package subjects_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestOfflineAgent(t *testing.T) {
	t.Parallel()
	encoded, err := json.Marshal(subjects.OfflineAgent("ada"))
	require.NoError(t, err)
	require.Equal(t, `{"agent_id":"ada","status":"offline","connections":[]}`, string(encoded))
}

func TestAgentRowPublic(t *testing.T) {
	t.Parallel()
	row := sampleAgentRow()
	public := row.Public()
	require.Equal(t, sampleAgentRow(), row, "the row itself stays")

	want := sampleAgentRow()
	want.AppliedSeq, want.Previous = 0, ""
	require.Equal(t, want, public)
	encoded, err := json.Marshal(public)
	require.NoError(t, err)
	require.NotContains(t, string(encoded), "applied_seq")
	require.NotContains(t, string(encoded), "previous")

	encoded, err = json.Marshal(subjects.AgentRow{AgentID: "ada"}.Public())
	require.NoError(t, err)
	require.Contains(t, string(encoded), `"connections":[]`)
}

func TestAgentRowLeases(t *testing.T) {
	t.Parallel()
	require.Zero(t, subjects.OfflineAgent("ada").Leases())
	row := subjects.AgentRow{Connections: []subjects.AgentConnectionEntry{{Leases: []string{"a", "b"}}, {}, {Leases: []string{"c"}}}}
	require.Equal(t, 3, row.Leases())
}

func TestInstanceRowPublic(t *testing.T) {
	t.Parallel()
	row := sampleInstanceRow()
	public := row.Public()
	require.Equal(t, sampleInstanceRow(), row, "the row itself stays")

	want := sampleInstanceRow()
	want.Links, want.Applied = nil, nil
	require.Equal(t, want, public)
	encoded, err := json.Marshal(public)
	require.NoError(t, err)
	require.NotContains(t, string(encoded), "links")
	require.NotContains(t, string(encoded), "applied")
}

func TestWithBeacon(t *testing.T) {
	t.Parallel()
	later := at().Add(time.Minute)

	t.Run("everything", func(t *testing.T) {
		t.Parallel()
		row := sampleInstanceRow()
		got := row.WithBeacon(subjects.ConnectionBeacon{
			Reported:         subjects.Reported{Host: "other", IP: "198.51.100.1", Version: "3", Mode: "ui"},
			LastInputSeconds: new(int64(0)), Metadata: json.RawMessage(`{}`),
		}, later)

		want := sampleInstanceRow()
		want.Reported = &subjects.ReportedAddress{Host: "other", IP: "198.51.100.1"}
		want.Version, want.Mode, want.LastInputSeconds, want.Metadata = "3", "ui", new(int64(0)), json.RawMessage(`{}`)
		want.LastSeenAt, want.Reason = later, subjects.InstancePeriodic
		require.Equal(t, want, got)
		require.Equal(t, "203.0.113.9", got.IP, "what the gateway saw stays")
		require.Equal(t, sampleInstanceRow(), row, "the row itself stays, and so does what it points to")
	})

	t.Run("nothing", func(t *testing.T) {
		t.Parallel()
		row := sampleInstanceRow()
		row.Reason = subjects.InstanceConnected
		want := sampleInstanceRow()
		want.LastSeenAt, want.Reason = later, subjects.InstancePeriodic
		require.Equal(t, want, row.WithBeacon(subjects.ConnectionBeacon{}, later))
	})

	t.Run("half of the address", func(t *testing.T) {
		t.Parallel()
		beacon := subjects.ConnectionBeacon{Reported: subjects.Reported{IP: "198.51.100.1"}}
		require.Equal(t, &subjects.ReportedAddress{Host: "ada-laptop", IP: "198.51.100.1"}, sampleInstanceRow().WithBeacon(beacon, later).Reported)
		require.Equal(t, &subjects.ReportedAddress{IP: "198.51.100.1"}, subjects.InstanceRow{}.WithBeacon(beacon, later).Reported)
	})
}
