package subjects_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestPresenceProcessKey(t *testing.T) {
	t.Parallel()
	id := subjects.NewID()
	process, is := subjects.ParsePresenceProcessKey(subjects.PresenceProcessKey(id))
	require.True(t, is)
	require.Equal(t, id, process)
	_, err := subjects.ParsePresenceKey(subjects.PresenceProcessKey(id))
	require.Error(t, err, "no row of an agent or an instance")
	for _, key := range []string{
		subjects.PresenceBrakeKey, subjects.PresenceReaderKey, "system.presence.", "system.presence.x", "acme.presence." + id,
		subjects.AgentKey(subjects.SystemTenant, "presence"),
	} {
		_, is := subjects.ParsePresenceProcessKey(key)
		require.False(t, is, key)
	}
}
