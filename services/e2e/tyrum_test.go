package e2e

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
)

// TestTyrum lets a client of tyrum-v1 come, speak, go, come back and lose its
// gateway, before the eyes of another one on another gateway.
func TestTyrum(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{
		args: []string{"--gateways", "2", "--presence", "2", "--lease", "1"},
		env: []string{
			"ROLLCALL_GATEWAY_BEACON_RATE=1000", "ROLLCALL_PRESENCE_RETENTION=2s",
			"ROLLCALL_GATEWAY_HEARTBEAT=1s", "ROLLCALL_GATEWAY_TTL=4s", "ROLLCALL_PRESENCE_GRACE=3s",
		},
	})
	a, b := s.Gateways[0], s.Gateways[1]
	screen := s.tyrum(t, b, token.Grant{Scopes: []string{"presence.read"}}, nil)
	require.Equal(t, "connect", screen.entry(screen.device).Reason)

	// It comes, and hears of itself only.
	peer := s.tyrum(t, a, token.Grant{Agent: "ada"}, nil)
	mine := peer.entry(peer.device)
	require.Equal(t, tyrumEntry{
		InstanceID: peer.device, Role: "client", Host: "box", IP: "127.0.0.1", Mode: "ui", LastSeenAt: mine.LastSeenAt, Reason: "connect",
	}, mine)
	require.Equal(t, mine, screen.entry(peer.device))

	// Each beacon's event comes before its response, and says the same.
	for i := range 50 {
		var result struct {
			Entry tyrumEntry `json:"entry"`
		}
		strict(t, peer.request("presence.beacon", map[string]any{"last_input_seconds": i, "metadata": map[string]any{"i": i}}), &result)
		require.Len(t, peer.waiting, 1, "the event of beacon %d comes before its response", i)
		require.Equal(t, result.Entry, peer.entry(peer.device))
		require.Equal(t, result.Entry, screen.entry(peer.device))
		require.EqualValues(t, i, *result.Entry.LastInputSeconds)
	}

	// It comes again, to the same row, and its old socket's end is no news. Then it is
	// gone, which is told at once, and lapses.
	next := s.tyrum(t, b, token.Grant{Agent: "ada"}, peer)
	back := screen.entry(peer.device)
	require.Equal(t, "connect", back.Reason)
	require.EqualValues(t, 49, *back.LastInputSeconds, "the same row")
	require.Equal(t, back, next.entry(peer.device))
	_ = peer.conn.CloseNow()
	next.request("presence.beacon", map[string]any{"version": "2"})
	require.Equal(t, "2", screen.entry(peer.device).Version)
	_ = next.conn.CloseNow()
	gone := screen.entry(peer.device)
	require.False(t, gone.connected())
	require.Equal(t, "periodic", gone.Reason)
	require.Equal(t, tyrumNews{InstanceID: peer.device}, screen.about(peer.device))

	// Its gateway is killed: it reads as gone, and as back once it is elsewhere.
	peer = s.tyrum(t, a, token.Grant{Agent: "ada"}, next)
	screen.back(peer.device)
	s.kill(a.PID)
	require.False(t, screen.entry(peer.device).connected())
	peer = s.tyrum(t, b, token.Grant{Agent: "ada"}, peer)
	require.Equal(t, screen.back(peer.device), peer.back(peer.device))
}
