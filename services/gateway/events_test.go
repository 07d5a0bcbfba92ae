package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

func producer() grant { return grant{scopes: []string{"events.publish"}} }

func listener() grant { return grant{scopes: []string{"events.read"}} }

// listen subscribes to events and returns the subscription and its cursor.
func (c *testClient) listen(payload map[string]any) listenResult {
	c.t.Helper()
	var out listenResult
	c.ok("events.subscribe", payload, &out)
	require.NoError(c.t, subjects.CheckUUID("subscription_id", out.SubscriptionID))
	return out
}

func types(patterns ...string) map[string]any { return map[string]any{"types": patterns} }

func resumed(cursor string, patterns ...string) map[string]any {
	return map[string]any{"types": patterns, "cursor": cursor}
}

// publish publishes an event of a type.
func (c *testClient) publish(eventType string, more map[string]any) publishResult {
	c.t.Helper()
	payload := map[string]any{"type": eventType, "payload": map[string]any{"run_id": "r1"}}
	maps.Copy(payload, more)
	var out publishResult
	c.ok("event.publish", payload, &out)
	return out
}

func TestPublish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.connect(t, producer())

	id := subjects.NewID()
	got := c.publish("run.started", map[string]any{
		"event_id": id, "occurred_at": "2026-01-02T03:04:05.5Z", "scope": map[string]any{"kind": "agent", "id": "ada"},
	})
	require.Equal(t, id, got.EventID)
	require.False(t, got.Duplicate)
	again := c.publish("run.started", map[string]any{"event_id": id})
	require.True(t, again.Duplicate)
	require.Equal(t, got.Cursor, again.Cursor, "it is where it was")
	c.publish("custom.thing", nil)
	// Producers derive ids too, so that they may say again what they have said.
	named := map[string]any{"event_id": "cfbff0d1-9375-5685-968c-48ce8b15ae17"}
	require.False(t, c.publish("custom.named", named).Duplicate)
	require.True(t, c.publish("custom.named", named).Duplicate)

	stored := w.events(t, "tenant.acme.event.>")
	require.Len(t, stored, 3)
	require.Equal(t, "tenant.acme.event.run.started", stored[0].subject)
	require.Equal(t, id, stored[0].id)
	require.Equal(t, id, stored[0].event.EventID)
	require.Equal(t, subjects.Scope{Kind: "agent", ID: "ada"}, stored[0].event.Scope)
	require.Equal(t, g.began.with(stored[0].seq).String(), got.Cursor)
	require.Equal(t, "tenant.acme.event.custom.thing", stored[1].subject)
	require.Equal(t, stored[1].id, stored[1].event.EventID)
	require.Equal(t, subjects.Scope{Kind: "global"}, stored[1].event.Scope)
	require.WithinDuration(t, time.Now(), stored[1].event.OccurredAt, time.Minute)
}

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.connect(t, producer())
	before := w.lastSeq(t)
	for name, tc := range map[string]struct {
		payload map[string]any
		field   string
	}{
		"no type":                {map[string]any{"payload": map[string]any{}}, "type"},
		"a type of ours":         {map[string]any{"type": "lease.granted", "payload": map[string]any{}}, "type"},
		"a type with a wildcard": {map[string]any{"type": "run.*", "payload": map[string]any{}}, "type"},
		"a bad payload":          {map[string]any{"type": "run.started", "payload": map[string]any{"run_id": 7}}, "payload.run_id"},
		"a payload without":      {map[string]any{"type": "run.started", "payload": map[string]any{}}, "payload.run_id"},
		"no payload":             {map[string]any{"type": "custom"}, "payload"},
		"a list as payload":      {map[string]any{"type": "custom", "payload": []any{}}, "payload"},
		"a bad id":               {map[string]any{"type": "custom", "payload": map[string]any{}, "event_id": "x"}, "event_id"},
		"an id of ours":          {map[string]any{"type": "custom", "payload": map[string]any{}, "event_id": subjects.DeriveID("globex", "s", "1", "a.b")}, "event_id"},
		"a bad scope":            {map[string]any{"type": "custom", "payload": map[string]any{}, "scope": map[string]any{"kind": "agent", "id": "a.b"}}, "scope.id"},
		"a bad time":             {map[string]any{"type": "custom", "payload": map[string]any{}, "occurred_at": "2026-01-02T03:04:05+01:00"}, "occurred_at"},
		"an unknown key":         {map[string]any{"type": "custom", "payload": map[string]any{}, "tenant": "globex"}, "tenant"},
	} {
		refusal := c.refused("event.publish", tc.payload)
		require.Equal(t, "invalid_request", refusal.Code, name)
		require.Equal(t, tc.field, refusal.Details["field"], name)
	}
	without := g.connect(t, grant{agent: "ada", scopes: []string{"events.read"}})
	refusal := without.refused("event.publish", map[string]any{"type": "custom", "payload": map[string]any{}})
	require.Equal(t, "forbidden", refusal.Code)
	require.Equal(t, "events.publish", refusal.Details["scope"])
	require.Empty(t, w.events(t, "tenant.*.event.>"))
	require.Equal(t, before+1, w.lastSeq(t), "the other connection, and nothing else")
}

func TestListen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := g.connect(t, producer())
	p.publish("run.queued", nil)
	c := g.connect(t, listener())
	runs := c.listen(types("run.*"))
	c.listen(types("run.started", "note"))
	p.publish("step.started", map[string]any{"payload": map[string]any{"run_id": "r1", "step_id": "s1"}})
	started := p.publish("run.started", nil)
	p.publish("note", nil)
	f := c.event()
	require.Equal(t, "run.started", f.Type)
	require.Equal(t, started.EventID, f.EventID)
	require.Equal(t, started.Cursor, f.Cursor)
	require.JSONEq(t, `{"run_id":"r1"}`, string(f.Payload))
	require.Equal(t, "note", c.event().Type, "one event comes once, however many subscriptions match")

	c.ok("events.unsubscribe", map[string]any{"subscription_id": runs.SubscriptionID}, nil)
	require.Equal(t, "not_found", c.refused("events.unsubscribe", map[string]any{"subscription_id": runs.SubscriptionID}).Code)
	require.Equal(t, "invalid_request", c.refused("events.unsubscribe", map[string]any{"subscription_id": "x"}).Code)
	p.publish("run.paused", nil)
	p.publish("note", nil)
	require.Equal(t, "note", c.event().Type)

	for _, payload := range []map[string]any{types(), types("run.*x"), {"types": []string{"*"}, "cursor": "12"}, {"types": "run"}} {
		require.Equal(t, "invalid_request", c.refused("events.subscribe", payload).Code, payload)
	}
	without := g.connect(t, grant{agent: "ada", scopes: []string{"presence.read"}})
	require.Equal(t, "events.read", without.refused("events.subscribe", types("*")).Details["scope"])
}

func TestListensAreBounded(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	c := w.gateway(t).connect(t, listener())
	for range maxListens {
		c.listen(types("*"))
	}
	require.Equal(t, "invalid_request", c.refused("events.subscribe", types("*")).Code)
}

// TestResume cuts a listener off, lets things happen, and lets it come back on
// another gateway that has read none of it.
func TestResume(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := g.connect(t, producer())
	c := g.connect(t, listener())
	c.listen(types("run.*"))
	for i := range 3 {
		p.publish("run.started", map[string]any{"payload": map[string]any{"run_id": fmt.Sprint(i)}})
	}
	require.Equal(t, "0", runOf(t, c.event()))
	last := c.event()
	require.Equal(t, "1", runOf(t, last))
	c.leave()

	p.publish("note", nil)
	p.publish("run.completed", map[string]any{"payload": map[string]any{"run_id": "3"}})
	for _, other := range []*gatewayRun{g, w.gateway(t)} {
		back := other.connect(t, listener())
		got := back.listen(resumed(last.Cursor, "run.*"))
		require.Equal(t, last.Cursor, got.Cursor)
		require.Equal(t, "2", runOf(t, back.event()))
		require.Equal(t, "3", runOf(t, back.event()))
		p.publish("run.started", map[string]any{"payload": map[string]any{"run_id": "live"}})
		require.Equal(t, "live", runOf(t, back.event()))
		back.leave()
		require.NoError(t, purgeSubject(t, w, "tenant.acme.event.run.started", "live"))
	}
}

// purgeSubject removes the last message of a subject.
func purgeSubject(t *testing.T, w *world, subject, run string) error {
	t.Helper()
	stream, err := w.bus.JS().Stream(t.Context(), subjects.StreamEvents)
	require.NoError(t, err)
	msg, err := stream.GetLastMsgForSubject(t.Context(), subject)
	require.NoError(t, err)
	require.Contains(t, string(msg.Data), run)
	return stream.DeleteMsg(t.Context(), msg.Sequence)
}

func runOf(t *testing.T, f frame) string {
	t.Helper()
	var p struct {
		RunID string `json:"run_id"`
	}
	require.NoError(t, json.Unmarshal(f.Payload, &p))
	return p.RunID
}

// TestResumeTooLate comes back with cursors behind which events are gone.
func TestResumeTooLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := g.connect(t, producer())
	first := p.publish("note", nil)
	for range 3 {
		p.publish("note", nil)
	}
	stream, err := w.bus.JS().Stream(t.Context(), subjects.StreamEvents)
	require.NoError(t, err)
	at, err := parseCursor(first.Cursor)
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context(), jetstream.WithPurgeSequence(at.seq+3)))
	last := w.lastSeq(t)

	for name, cursor := range map[string]string{
		"older than what is kept": first.Cursor,
		"of another stream":       position{origin: at.origin - 1, seq: last}.String(),
		"beyond the end":          at.with(last + 1000).String(),
	} {
		c := g.connect(t, listener())
		got := c.listen(resumed(cursor, "note"))
		f := c.event()
		require.Equal(t, "resync", f.Type, name)
		require.Equal(t, got.Cursor, f.Cursor, name)
		var e resyncEvent
		require.NoError(t, json.Unmarshal(f.Payload, &e))
		require.Equal(t, at.with(at.seq+2).String(), e.Oldest, name)
		live := p.publish("note", nil)
		require.Equal(t, live.EventID, c.event().EventID, "%s: then live", name)

		// From the oldest place on everything comes that is kept.
		c.listen(resumed(e.Oldest, "note"))
		require.Equal(t, "note", c.event().Type)
		c.leave()
	}
}

// TestWhoHears publishes an event of every scope, for everybody who must and
// must not get it.
func TestWhoHears(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	ada := grant{agent: "ada", scopes: []string{"events.read"}}
	device := newTestDevice(t)
	own, sibling := ada, ada
	own.device = device
	peers := map[string]*testClient{
		"the agent's device": g.connect(t, own),
		"the agent":          g.connect(t, sibling),
		"another agent":      g.connect(t, grant{agent: "bob", scopes: []string{"events.read"}}),
		"a screen":           g.connect(t, listener()),
		"an operator":        g.connect(t, grant{scopes: []string{"operator.read"}}),
		"another tenant":     g.connect(t, grant{tenant: "globex", agent: "ada", scopes: []string{"operator.write"}}),
	}
	for _, c := range peers {
		c.listen(types("note", "end"))
	}
	p := g.connect(t, producer())
	q := g.connect(t, grant{tenant: "globex", scopes: []string{"events.publish"}})
	want := map[string][]string{}
	send := func(scope map[string]any, hear ...string) {
		id := p.publish("note", map[string]any{"scope": scope}).EventID
		for _, peer := range hear {
			want[peer] = append(want[peer], id)
		}
	}
	send(map[string]any{"kind": "global"}, "the agent's device", "the agent", "another agent", "a screen", "an operator")
	send(map[string]any{"kind": "agent", "id": "ada"}, "the agent's device", "the agent", "an operator")
	send(map[string]any{"kind": "device", "id": device.id}, "the agent's device", "an operator")
	send(map[string]any{"kind": "session", "id": peers["the agent"].proof.ClientID}, "the agent", "an operator")
	send(map[string]any{"kind": "session", "id": subjects.NewID()}, "an operator")
	p.publish("end", nil)
	q.publish("end", nil)
	for name, c := range peers {
		var got []string
		for f := c.event(); f.Type != "end"; f = c.event() {
			got = append(got, f.EventID)
		}
		require.Equal(t, want[name], got, name)
	}
}

// TestListenAndSubscribe has one peer watch agents and listen to their changes: a
// change comes once, and in order with everything else.
func TestListenAndSubscribe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c := g.connect(t, grant{scopes: []string{"operator.read"}})
	publisher := g.connect(t, producer())
	c.listen(types("presence.*", "note"))
	require.NoError(t, p.status(t.Context(), "acme", "a1", "online", "offline"))
	c.subscribe(all())
	require.NoError(t, p.status(t.Context(), "acme", "a1", "working", "online"))
	publisher.publish("note", nil)
	require.Equal(t, subjects.StatusOnline, changed(t, c.event()).Status)
	require.Equal(t, subjects.StatusWorking, changed(t, c.event()).Status)
	require.Equal(t, "note", c.event().Type)
}

// TestProducedOverNATS publishes without a gateway, well and badly.
func TestProducedOverNATS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.connect(t, listener())
	c.listen(types("*"))
	operator := g.connect(t, grant{scopes: []string{"operator.read"}})
	operator.listen(types("audit.event.*"))

	put := func(subject, id, data string) {
		m := &nats.Msg{Subject: subject, Header: nats.Header{}, Data: []byte(data)}
		_, err := w.bus.JS().PublishMsg(t.Context(), m, jetstream.WithMsgID(id))
		require.NoError(t, err)
	}
	envelope := func(id, eventType, payload string) string {
		return fmt.Sprintf(`{"event_id":%q,"type":%q,"occurred_at":"2026-01-02T03:04:05Z","scope":{"kind":"global"},"payload":%s}`, id, eventType, payload)
	}
	bad := map[string]string{} // field by subject
	id := subjects.NewID()
	put("tenant.acme.event.run.started", id, envelope(id, "run.started", `{"run_id":5}`))
	bad["payload.run_id"] = id
	id = subjects.NewID()
	put("tenant.acme.event.lease.granted", id, envelope(id, "lease.granted", `{}`))
	bad["type"] = id
	id = subjects.NewID()
	put("tenant.acme.event.custom", subjects.NewID(), envelope(id, "custom", `{}`))
	bad["event_id"] = ""
	put("tenant.acme.event.nonsense", "not-an-id", "\x00")
	bad[""] = ""
	put("tenant.acme.event.Odd-Type", "odd", "{}")
	bad["subject"] = ""
	good := subjects.NewID()
	put("tenant.acme.event.run.started", good, envelope(good, "run.started", `{"run_id":"r1","and":"more"}`))

	f := c.event()
	for f.Type == "connection.opened" { // the operator's
		f = c.event()
	}
	require.Equal(t, good, f.EventID, "nothing else gets through")
	seen := map[string]string{}
	for range bad {
		f := operator.event()
		require.Equal(t, "audit.event.rejected", f.Type)
		var r subjects.EventRejected
		require.NoError(t, json.Unmarshal(f.Payload, &r))
		require.NotContains(t, string(f.Payload), "nonsense\x00")
		seen[r.Field] = r.EventID
	}
	for field, id := range bad {
		got, found := seen[field]
		require.True(t, found, "field %q in %v", field, seen)
		if id != "" {
			require.Equal(t, id, got)
		}
	}
	require.InDelta(t, 5, testutil.ToFloat64(g.metrics.rejected), 0)
}

// TestGatewaysReportOnce lets two gateways meet the same bad event.
func TestGatewaysReportOnce(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, b := w.gateway(t), w.gateway(t)
	for _, g := range []*gatewayRun{a, b} {
		g.connect(t, listener()).listen(types("*"))
	}
	_, err := w.bus.JS().Publish(t.Context(), "tenant.acme.event.custom", []byte("{"))
	require.NoError(t, err)
	within(t, func() bool {
		return testutil.ToFloat64(a.metrics.rejected) == 1 && testutil.ToFloat64(b.metrics.rejected) == 1 &&
			len(w.events(t, "tenant.acme.audit.event.rejected")) == 1
	})
	// Whatever the other one stores is dropped: it has the same id.
	_, err = w.bus.JS().Publish(t.Context(), "tenant.acme.event.custom", []byte("{"))
	require.NoError(t, err)
	within(t, func() bool { return len(w.events(t, "tenant.acme.audit.event.rejected")) == 2 })
}

// TestReportUnderAnIDThatIsUsedUp lets somebody foresee the id of the report on a bad
// event: it is reported all the same.
func TestReportUnderAnIDThatIsUsedUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	g.connect(t, listener()).listen(types("*"))
	const ahead = 20
	report := subjects.EventAudit("acme", subjects.AuditRejected)
	first := w.lastSeq(t) + 1 + ahead
	for seq := first; seq < first+ahead; seq++ {
		id := subjects.DeriveID("acme", report.String(), subjects.Cause(seq), report.Type())
		_, err := w.bus.Publish(t.Context(), bus.Message{Subject: "tenant.globex.event.loud.note", ID: id, Data: []byte("{}")})
		require.NoError(t, err)
	}
	bad, err := w.bus.JS().Publish(t.Context(), "tenant.acme.event.custom", []byte("{"))
	require.NoError(t, err)
	taken := subjects.DeriveID("acme", report.String(), subjects.Cause(bad.Sequence), report.Type())
	require.Less(t, bad.Sequence, first+ahead, "its id is used up")
	within(t, func() bool { return len(w.events(t, report.String())) == 1 })
	reported := w.events(t, report.String())[0]
	require.NotEqual(t, taken, reported.id)
	require.Equal(t, reported.id, reported.event.EventID)
	require.Equal(t, http.StatusOK, g.ready(t))
}

// TestCatchUpThroughASlowPeer comes back to more than the ring holds and reads it
// slowly: it gets everything, and is not taken for a slow reader.
func TestCatchUpThroughASlowPeer(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.SendQueue = 64; c.RequestBurst = 100_000 })
	p := g.connect(t, producer())
	start := p.publish("note", nil).Cursor
	const many = ringEntries + 500
	ids := make([]string, many)
	for i := range ids {
		ids[i] = subjects.NewID()
		event, err := subjects.NewEvent(ids[i], "note", time.Now(), subjects.Scope{Kind: "global"}, map[string]any{"n": i})
		require.NoError(t, err)
		data, err := json.Marshal(event)
		require.NoError(t, err)
		_, err = w.bus.Publish(t.Context(), bus.Message{Subject: "tenant.acme.event.note", ID: ids[i], Data: data})
		require.NoError(t, err)
	}
	other := g.connect(t, listener())
	other.listen(types("note"))
	c := g.connect(t, listener())
	c.listen(resumed(start, "note"))
	for i, id := range ids {
		if i == 100 {
			p.publish("note", map[string]any{"event_id": "01a217ca-d9da-77c0-ab94-feecf8e5c112"})
			require.Equal(t, "note", other.event().Type, "nobody else waits")
		}
		require.Equal(t, id, c.event().EventID, i)
	}
	require.Equal(t, "01a217ca-d9da-77c0-ab94-feecf8e5c112", c.event().EventID)
	require.Zero(t, testutil.ToFloat64(g.metrics.slow))
}

// TestBurst lets more wait for a socket than is written at once: everything comes.
func TestBurst(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.SendQueue = 100_000; c.SendBytes = 64 << 20 })
	c := g.connect(t, listener())
	c.listen(types("note"))
	const many = 2000
	acks := make([]jetstream.PubAckFuture, many)
	ids := make([]string, many)
	for i := range many {
		ids[i] = subjects.NewID()
		event, err := subjects.NewEvent(ids[i], "note", time.Now(), subjects.Scope{Kind: "global"}, map[string]any{"padding": strings.Repeat("x", i)})
		require.NoError(t, err)
		data, err := json.Marshal(event)
		require.NoError(t, err)
		acks[i], err = w.bus.JS().PublishAsync("tenant.acme.event.note", data, jetstream.WithMsgID(ids[i]))
		require.NoError(t, err)
	}
	for i, id := range ids {
		require.Equal(t, id, c.event().EventID, i)
		<-acks[i].Ok()
	}
}

// TestStreamMadeAnew removes EVENTS under a listener and makes it again.
func TestStreamMadeAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := g.connect(t, producer())
	c := g.connect(t, listener())
	c.listen(types("note"))
	p.publish("note", nil)
	old := c.event()
	require.NoError(t, w.bus.JS().DeleteStream(context.Background(), subjects.StreamEvents))
	for _, s := range subjects.Streams(0) {
		require.NoError(t, w.bus.EnsureStream(t.Context(), bus.Stream(s), 1))
	}
	id := p.publish("note", nil).EventID
	f := c.event()
	require.Equal(t, id, f.EventID)
	require.NotEqual(t, strings.Split(old.Cursor, "-")[0], strings.Split(f.Cursor, "-")[0])
	back := g.connect(t, listener())
	back.listen(resumed(old.Cursor, "note"))
	require.Equal(t, "resync", back.event().Type)
}
