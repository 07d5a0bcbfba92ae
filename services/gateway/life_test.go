package gateway

import (
	"context"
	"encoding/json"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// row reads a gateway's row.
func (w *world) row(t *testing.T, id string) (subjects.GatewayRow, bus.Entry) {
	t.Helper()
	kv, err := w.bus.Bucket(t.Context(), subjects.BucketGateways)
	require.NoError(t, err)
	entry, err := kv.Get(t.Context(), subjects.GatewayKey(id))
	require.NoError(t, err)
	var row subjects.GatewayRow
	if entry.Exists {
		require.NoError(t, json.Unmarshal(entry.Value, &row))
	}
	return row, entry
}

func TestPeersThatDoNotAnswerPings(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.Ping = 200 * time.Millisecond })
	alive := g.connect(t, grant{agent: "alive"})
	frames := make(chan frame, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			f, err := alive.read()
			if err != nil {
				return
			}
			frames <- f
		}
	}()
	g.connect(t, grant{agent: "dead"}) // never reads again, so it never answers
	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "dead", "closed"))
	require.Equal(t, "heartbeat_timeout", closed.Reason)
	alive.send("ping", map[string]any{})
	require.True(t, *(<-frames).OK)
	_ = alive.conn.CloseNow()
	<-done
}

func TestTokenExpires(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.connect(t, grant{agent: "a1", expires: time.Now().Add(3 * time.Second)})
	c.requireClosed(4001, "token expired")
	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "a1", "closed"))
	require.Equal(t, "token_expired", closed.Reason)
	require.Equal(t, 4001, closed.Code)
}

func TestDrain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	self := w.events(t, subjects.InstanceConnection("system", g.id, "opened").String())
	require.Len(t, self, 1)
	opened, err := subjects.DecodePayload[subjects.ConnectionOpened](self[0].event)
	require.NoError(t, err)
	require.Equal(t, "gateway", opened.Role)
	require.Equal(t, "backend", opened.Mode)
	require.Equal(t, g.incarnation, opened.Incarnation)

	var clients []*testClient
	for range 4 {
		clients = append(clients, g.connect(t, grant{agent: "a1"}))
	}
	halfWay := g.dial(t, w.token(t, grant{}))
	g.end()
	for _, c := range clients {
		c.requireClosed(1001, "draining")
		require.Len(t, c.events, 1)
		require.Equal(t, "draining", c.events[0].Type)
		require.NotNil(t, member(t, c.events[0].Payload, "retry_after_ms"))
	}
	halfWay.requireClosed(1001, "draining")
	require.NoError(t, g.stop(t))

	closings := w.events(t, subjects.AgentConnection("acme", "a1", "closed").String())
	require.Len(t, closings, 4)
	for _, one := range closings {
		closed, err := subjects.DecodePayload[subjects.ConnectionClosed](one.event)
		require.NoError(t, err)
		require.Equal(t, "gateway_draining", closed.Reason)
		require.Equal(t, 1001, closed.Code)
	}
	own := w.awaitClosed(t, subjects.InstanceConnection("system", g.id, "closed"))
	require.Equal(t, opened.ConnectionID, own.ConnectionID)
	_, entry := w.row(t, g.id)
	require.False(t, entry.Exists, "the row is gone at once, not when it lapses")
}

// TestDrainSpreadsReturns holds that peers of a gateway that stops are neither sent away
// nor told to come back at once.
func TestDrainSpreadsReturns(t *testing.T) {
	t.Parallel()
	const peers, quarters = 64, 4
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.Drain = 2 * time.Second })
	clients, ends := make([]*testClient, peers), make([]error, peers)
	for i := range clients {
		clients[i] = g.connect(t, grant{agent: "a1"})
	}
	// A connection has ended once its peer has answered, so each peer reads by itself.
	var reading sync.WaitGroup
	for i, c := range clients {
		reading.Go(func() {
			for f, err := c.read(); ; f, err = c.read() {
				if ends[i] = err; err != nil {
					return
				}
				c.events = append(c.events, f)
			}
		})
	}
	g.end()
	reading.Wait()
	hints := [quarters]int{}
	for i, c := range clients {
		var end websocket.CloseError
		require.ErrorAs(t, ends[i], &end)
		require.Equal(t, websocket.CloseError{Code: 1001, Reason: "draining"}, end)
		require.Len(t, c.events, 1)
		var hint int
		require.NoError(t, json.Unmarshal(member(t, c.events[0].Payload, "retry_after_ms"), &hint))
		require.GreaterOrEqual(t, hint, 0)
		require.Less(t, hint, 2000)
		hints[hint*quarters/2000]++
	}
	// That a quarter gets none of so many draws happens once in twenty million runs.
	require.NotContains(t, hints, 0, "%v", hints)
	require.NoError(t, g.stop(t))
	first, last := time.Time{}, time.Time{}
	closings := w.events(t, subjects.AgentConnection("acme", "a1", "closed").String())
	require.Len(t, closings, peers)
	for _, one := range closings {
		at := one.event.OccurredAt
		if first.IsZero() || at.Before(first) {
			first = at
		}
		if at.After(last) {
			last = at
		}
	}
	require.GreaterOrEqual(t, last.Sub(first), 500*time.Millisecond, "the closings are spread over the drain time")
}

func TestNoNewSocketsWhileDraining(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.Drain = 2 * time.Second })
	c := g.connect(t, grant{})
	other := g.connect(t, grant{})
	g.end()
	within(t, func() bool { return g.ready(t) == http.StatusServiceUnavailable })
	status, _ := g.get(t, "/ws", "")
	require.Equal(t, http.StatusServiceUnavailable, status)
	status, _ = g.get(t, "/healthz", "")
	require.Equal(t, http.StatusOK, status)
	c.requireClosed(1001, "draining")
	other.requireClosed(1001, "draining")
}

func TestRowIsKeptAlive(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.Heartbeat, c.TTL = 50*time.Millisecond, time.Second })
	row, first := w.row(t, g.id)
	require.Equal(t, g.incarnation, row.Incarnation)
	require.Equal(t, Version, row.Version)
	stream, err := w.bus.JS().Stream(t.Context(), "KV_"+subjects.BucketGateways)
	require.NoError(t, err)
	msg, err := stream.GetLastMsgForSubject(t.Context(), "$KV."+subjects.BucketGateways+"."+subjects.GatewayKey(g.id))
	require.NoError(t, err)
	require.Equal(t, "1s", msg.Header.Get("Nats-TTL"))
	g.connect(t, grant{})
	within(t, func() bool {
		row, entry := w.row(t, g.id)
		return entry.Revision > first.Revision+2 && row.Connections == 1
	})

	// Somebody removes the row: it is back with the next heartbeat.
	kv, err := w.bus.Bucket(t.Context(), subjects.BucketGateways)
	require.NoError(t, err)
	within(t, func() bool {
		_, entry := w.row(t, g.id)
		return kv.Purge(t.Context(), subjects.GatewayKey(g.id), entry.Revision, nil) == nil
	})
	within(t, func() bool {
		row, entry := w.row(t, g.id)
		return entry.Exists && row.Incarnation == g.incarnation
	})
}

func TestLaterProcessTakesTheRow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config(t)
	cfg.Heartbeat = 50 * time.Millisecond
	same := func(c *Config) { *c = cfg }
	first := w.gateway(t, same)
	c := first.connect(t, grant{agent: "a1"})
	second := w.gateway(t, same)
	c.requireClosed(1001, "draining")
	require.ErrorIs(t, <-first.done, ErrSuperseded)
	first.done <- nil
	row, entry := w.row(t, second.id)
	require.True(t, entry.Exists, "the loser leaves the row alone")
	require.Equal(t, second.incarnation, row.Incarnation)

	// A process that started earlier does not get it back.
	row.Incarnation, row.StartedAt = subjects.NewID(), time.Now().Add(time.Hour)
	value, err := json.Marshal(row)
	require.NoError(t, err)
	kv, err := w.bus.Bucket(t.Context(), subjects.BucketGateways)
	require.NoError(t, err)
	within(t, func() bool {
		_, entry := w.row(t, second.id)
		_, err := kv.Save(t.Context(), entry.Key, value, entry.Revision, 0)
		return err == nil
	})
	require.ErrorIs(t, <-second.done, ErrSuperseded)
	second.done <- nil
	third := w.launch(t, cfg)
	require.ErrorIs(t, <-third.done, ErrSuperseded)
	third.done <- nil
}

func TestOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) {
		c.PublishTimeout = 500 * time.Millisecond
		c.TTL, c.Heartbeat = time.Second, 100*time.Millisecond
	})
	stays := g.connect(t, grant{agent: "stays", scopes: []string{"presence.read"}})
	leaves := g.connect(t, grant{agent: "leaves"})
	w.nats.Stop(t)

	p := stays.refused("presence.beacon", map[string]any{})
	require.Equal(t, "unavailable", p.Code)
	require.Positive(t, p.Details["retry_after_ms"])
	require.Equal(t, 0, stays.list(map[string]any{}).Total, "listings go on")
	leaves.leave()
	device := newTestDevice(t)
	late := g.dial(t, w.token(t, grant{agent: "late"}))
	var challenge struct {
		ConnectionID string `json:"connection_id"`
		Challenge    string `json:"challenge"`
	}
	late.ok("connect.init", device.init("client"), &challenge)
	late.send("connect.proof", device.prove("client", challenge.ConnectionID, challenge.Challenge))
	late.requireClosed(1013, "unavailable")
	require.Equal(t, http.StatusServiceUnavailable, g.ready(t))
	require.Equal(t, 2, g.admission.count(), "a place is held until the closing is stored, and not taken while nothing can be")

	w.nats.Restart(t)
	within(t, w.bus.Connected)
	stays.ok("ping", map[string]any{}, nil)
	require.Equal(t, "client_closed", w.awaitClosed(t, subjects.AgentConnection("acme", "leaves", "closed")).Reason)
	within(t, func() bool { return g.admission.count() == 1 && g.ready(t) == http.StatusOK })
	require.Empty(t, w.events(t, subjects.AgentInputs("acme", "late")), "nothing was attempted, so nothing is closed")
	stays.ok("ping", map[string]any{}, nil)
}

// TestWaitingIsNotSilence holds that a peer is not cut for pongs that the
// gateway cannot see because it is waiting for JetStream itself.
func TestWaitingIsNotSilence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) {
		c.PublishTimeout, c.Ping, c.ShutdownTimeout = 2*time.Second, 100*time.Millisecond, time.Second
	})
	c := g.connect(t, grant{agent: "a1"})
	w.nats.Stop(t)
	require.Equal(t, "unavailable", c.refused("presence.beacon", map[string]any{}).Code)
	c.ok("ping", map[string]any{}, nil)
}

// TestConnectionsThatPresenceClosed plays a presence that closed a connection
// because the gateway's row was away.
func TestConnectionsThatPresenceClosed(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.Heartbeat = 50 * time.Millisecond })
	p := w.presence(t)
	kept := g.connect(t, grant{agent: "kept"})
	lost := g.connect(t, grant{agent: "lost"})
	row := subjects.OfflineAgent("kept")
	row.Connections = []subjects.AgentConnectionEntry{{ConnectionID: kept.proof.ClientID, Leases: []string{}}}
	row.AppliedSeq = w.lastSeq(t) + 1
	_, err := p.write(t.Context(), subjects.AgentKey("acme", "kept"), row)
	require.NoError(t, err)
	row = subjects.OfflineAgent("lost")
	row.AppliedSeq = w.lastSeq(t) + 1
	_, err = p.write(t.Context(), subjects.AgentKey("acme", "lost"), row)
	require.NoError(t, err)
	lost.requireClosed(1013, "unavailable")
	kept.ok("ping", map[string]any{}, nil)
}

func TestStartAndStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	for i := range 4 {
		g := w.launch(t, w.config(t))
		daemon.Pause(t.Context(), time.Duration(i)*10*time.Millisecond) // a stop may come at any moment
		require.NoError(t, g.stop(t))
	}
	cfg := w.config(t)
	cfg.NATSURL = "nats://127.0.0.1:1"
	g := w.launch(t, cfg)
	within(t, func() bool { status, _ := g.get(t, "/healthz", ""); return status == http.StatusOK })
	require.Equal(t, http.StatusServiceUnavailable, g.ready(t))
	status, _ := g.get(t, "/ws", "")
	require.Equal(t, http.StatusServiceUnavailable, status)
	status, _ = g.get(t, "/presence", "")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.NoError(t, g.stop(t))
}

func TestMainServesUntilItIsStopped(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := w.config(t)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	log := &safeBuffer{}
	done := make(chan error, 1)
	go func() {
		done <- Main(ctx, []string{
			"--nats-url", w.nats.URL(), "--listen", "127.0.0.1:0",
			"--key-file", cfg.KeyFile, "--trusted-issuer", cfg.TrustedIssuers[0],
		}, nil, log)
	}()
	within(t, func() bool { return strings.Contains(log.String(), `"serving"`) })
	end()
	require.NoError(t, <-done)
	require.Error(t, Main(t.Context(), []string{"--listen", "here"}, nil, log))
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.connect(t, grant{agent: "a1"})
	c.ok("ping", map[string]any{}, nil)
	c.refused("made.up", map[string]any{})
	require.Equal(t, 1.0, testutil.ToFloat64(g.metrics.handshakes.WithLabelValues("opened")))
	require.Equal(t, 1.0, testutil.ToFloat64(g.metrics.requests.WithLabelValues("ping", "ok")))
	require.Equal(t, 1.0, testutil.ToFloat64(g.metrics.requests.WithLabelValues("other", "unsupported_request")))
	g.dial(t, "").requireClosed(4001, "unauthorized")
	within(t, func() bool { return testutil.ToFloat64(g.metrics.handshakes.WithLabelValues("4001")) == 1 })
	gathered, err := g.metrics.registry.Gather()
	require.NoError(t, err)
	for _, family := range gathered {
		for _, metric := range family.GetMetric() {
			for _, label := range metric.GetLabel() {
				require.NotContains(t, []string{"acme", "a1", "made.up"}, label.GetValue(), family.GetName())
			}
		}
	}
}

func TestPeerThatVanishes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.connect(t, grant{agent: "a1"})
	require.NoError(t, c.conn.CloseNow())
	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "a1", "closed"))
	require.Equal(t, "client_closed", closed.Reason)
	require.Zero(t, closed.Code)

	c = g.connect(t, grant{agent: "a2"})
	require.NoError(t, c.conn.Write(t.Context(), websocket.MessageBinary, []byte(`{"request_id":"b","type":"ping","payload":{}}`)))
	require.True(t, *c.response("b").OK, "binary frames are read as text")
}

// TestSocketsPresenceClosedAreCut takes connections out of their rows, as
// presence does for a gateway that was gone for too long.
func TestSocketsPresenceClosedAreCut(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.Heartbeat = 20 * time.Millisecond })
	presence, err := w.bus.Bucket(t.Context(), subjects.BucketPresence)
	require.NoError(t, err)
	put := func(key string, revision uint64, row any) uint64 {
		t.Helper()
		value, err := json.Marshal(row)
		require.NoError(t, err)
		revision, err = presence.Save(t.Context(), key, value, revision, 0)
		require.NoError(t, err)
		return revision
	}
	screen, agent := g.connect(t, grant{}), g.connect(t, grant{agent: "ada"})
	instanceKey := subjects.InstanceKey("acme", screen.proof.DeviceID)
	agentKey := subjects.AgentKey("acme", "ada")
	instance := put(instanceKey, 0, subjects.InstanceRow{
		InstanceID: screen.proof.DeviceID, Links: []subjects.Link{{ConnectionID: screen.proof.ClientID}},
	})
	row := put(agentKey, 0, subjects.AgentRow{AgentID: "ada", Connections: []subjects.AgentConnectionEntry{{ConnectionID: agent.proof.ClientID}}})
	seen := 0
	within(t, func() bool {
		seen = 0
		for _, s := range g.roster.list() {
			if o := s.opened.Load(); o != nil && o.held.Load() {
				seen++
			}
		}
		return seen == 2
	})
	require.Len(t, w.events(t, "tenant.acme.>"), 2)
	put(instanceKey, instance, subjects.InstanceRow{InstanceID: screen.proof.DeviceID})
	screen.requireReadmitted("a peer without an agent")
	require.NoError(t, presence.Purge(t.Context(), agentKey, row, nil))
	agent.requireReadmitted("a peer whose agent's row has lapsed")
	stored := w.events(t, "tenant.acme.agent.ada.>")
	require.Equal(t, []string{"connection.opened", "connection.opened", "connection.closed"},
		[]string{stored[0].event.Type, stored[1].event.Type, stored[2].event.Type}, "it is announced again, and goes")
	require.NotEqual(t, stored[0].id, stored[1].id)
	require.JSONEq(t, string(stored[0].event.Payload), string(stored[1].event.Payload))
}

// requireReadmitted reads up to the hint to reconnect and the end.
func (c *testClient) requireReadmitted(who string) {
	c.t.Helper()
	f := c.event()
	require.Equal(c.t, "draining", f.Type, who)
	require.Contains(c.t, string(f.Payload), "retry_after_ms")
	code := int(c.closed().Code)
	require.Equal(c.t, 1013, code, who)
	within(c.t, func() bool {
		agent := c.proof.AgentID
		subject := subjects.InstanceConnection("acme", c.proof.DeviceID, "closed")
		if agent != "" {
			subject = subjects.AgentConnection("acme", agent, "closed")
		}
		w := c.world
		return len(w.events(c.t, subject.String())) == 1
	})
}

func TestSettingCapsConnections(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	kv, err := w.bus.JS().KeyValue(t.Context(), subjects.BucketSettings)
	require.NoError(t, err)
	set := func(value string) {
		t.Helper()
		_, err := kv.PutString(t.Context(), subjects.SettingsKey("acme", "presence"), value)
		require.NoError(t, err)
	}
	limited := func() bool {
		g.admission.mu.Lock()
		defer g.admission.mu.Unlock()
		return g.admission.limits["acme"] == 1
	}
	set(`{"max_connections": 1}`)
	within(t, limited) // the bucket keeps one value, so each must be seen before the next
	set(`{"max_connections": -1}`)
	within(t, func() bool { return strings.Contains(g.log.String(), "setting refused") })
	require.True(t, limited(), "the last good one stays")
	g.connect(t, grant{agent: "ada"})
	second := g.dial(t, w.token(t, grant{agent: "bob"}))
	device := newTestDevice(t)
	var challenge struct {
		ConnectionID string `json:"connection_id"`
		Challenge    string `json:"challenge"`
	}
	second.ok("connect.init", device.init("client"), &challenge)
	second.send("connect.proof", device.prove("client", challenge.ConnectionID, challenge.Challenge))
	code := int(second.closed().Code)
	require.Equal(t, 4009, code)
	g.connect(t, grant{agent: "eve", tenant: "globex"})
}
