package gateway

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestConnectAndLeave(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	device := newTestDevice(t)
	c := g.connect(t, grant{agent: "a1", device: device})

	// The opening was stored before the proof was answered.
	stored := w.events(t, subjects.AgentConnection("acme", "a1", "opened").String())
	require.Len(t, stored, 1)
	opened, err := subjects.DecodePayload[subjects.ConnectionOpened](stored[0].event)
	require.NoError(t, err)
	require.Equal(t, stored[0].event.EventID, stored[0].id)
	require.Equal(t, subjects.Scope{Kind: "agent", ID: "a1"}, stored[0].event.Scope)
	require.Equal(t, subjects.ConnectionOpened{
		ConnectionID: c.proof.ClientID, InstanceID: device.id, GatewayID: g.id, Incarnation: g.incarnation,
		Role: "client", IP: "127.0.0.1", Host: "box", Version: "1.2.3", Mode: "cli",
	}, opened)
	require.Equal(t, "acme", c.proof.TenantID)
	require.Equal(t, "a1", c.proof.AgentID)
	require.Equal(t, device.id, c.proof.DeviceID)
	require.Equal(t, g.id, c.proof.Gateway.InstanceID)
	require.Equal(t, int64(15000), c.proof.PingMS)
	require.Equal(t, g.began.with(stored[0].seq).String(), c.proof.Cursor)

	c.ok("ping", map[string]any{}, nil)
	c.leave()

	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "a1", "closed"))
	require.Equal(t, subjects.ConnectionClosed{
		ConnectionID: c.proof.ClientID, InstanceID: device.id, Reason: "client_closed", Code: 1000,
	}, closed)
	within(t, func() bool { return g.admission.count() == 0 })
}

// awaitClosed waits for the one closing on a subject.
func (w *world) awaitClosed(t *testing.T, subject subjects.Subject) subjects.ConnectionClosed {
	t.Helper()
	within(t, func() bool { return len(w.events(t, subject.String())) == 1 })
	closed, err := subjects.DecodePayload[subjects.ConnectionClosed](w.events(t, subject.String())[0].event)
	require.NoError(t, err)
	return closed
}
