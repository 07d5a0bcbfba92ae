package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// watcher may see others.
func watcher() grant { return grant{scopes: []string{"presence.read"}} }

// of returns the next event of a type, and drops others.
func (c *tyrumClient) of(kind string) tyrumSeen {
	c.t.Helper()
	for {
		if e := c.event(); e.Type == kind {
			return e
		}
	}
}

// entryFor returns the entry of the next presence.upserted about a device.
func (c *tyrumClient) entryFor(device string) tyrumSeenEntry {
	c.t.Helper()
	for {
		if e := c.upserted(c.of("presence.upserted")); e.InstanceID == device {
			return e
		}
	}
}

// TestTyrumPresence follows one device through the eyes of another client, on
// another gateway.
func TestTyrumPresence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, other := w.gateway(t), w.gateway(t)
	a := w.attend(t)
	screen := other.joinTyrum(t, watcher())
	require.Equal(t, "connect", screen.entryFor(screen.device.id).Reason, "a client sees itself come")

	d := newTestDevice(t)
	c := g.joinTyrum(t, grant{device: d})
	mine := c.entryFor(d.id)
	theirs := screen.entryFor(d.id)
	require.Equal(t, mine, theirs)
	require.Equal(t, tyrumSeenEntry{
		InstanceID: d.id, Role: "client", Host: "box", IP: "127.0.0.1", Version: "1.2.3", Mode: "cli",
		LastSeenAt: mine.LastSeenAt, Reason: "connect",
	}, mine)

	seconds := int64(7)
	answered := c.beacon(map[string]any{"host": " inner ", "ip": "10.0.0.9", "mode": "ui", "last_input_seconds": 7, "metadata": map[string]any{"k": "v"}})
	require.Equal(t, tyrumSeenEntry{
		InstanceID: d.id, Role: "client", Host: "inner", IP: "127.0.0.1", Version: "1.2.3", Mode: "ui",
		LastSeenAt: answered.LastSeenAt, LastInputSeconds: &seconds, Reason: "periodic", Metadata: map[string]any{"k": "v"},
	}, answered)
	require.Equal(t, []string{"presence.upserted", c.came[len(c.came)-1]}, c.came[len(c.came)-2:], "the event comes before the response")
	require.Equal(t, answered, c.entryFor(d.id))
	require.Equal(t, answered, screen.entryFor(d.id))
	answered = c.beacon(map[string]any{})
	require.Equal(t, "inner", answered.Host, "keys left out keep their values")
	require.Equal(t, map[string]any{}, answered.Metadata, "the metadata is replaced")
	require.Equal(t, answered, screen.entryFor(d.id))

	c.leave()
	gone := screen.entryFor(d.id)
	require.Equal(t, map[string]any{"connected": false}, gone.Metadata, "a device that is gone is told apart at once")
	require.Equal(t, "periodic", gone.Reason)

	back := g.again(t, c, grant{device: d})
	entry := screen.entryFor(d.id)
	require.Equal(t, "connect", entry.Reason)
	require.Equal(t, map[string]any{}, entry.Metadata)
	require.Equal(t, entry, back.entryFor(d.id))
	require.Len(t, a.presence.rows, 2, "a reconnect updates")

	back.leave()
	screen.entryFor(d.id)
	a.prune("acme", d.id)
	pruned := screen.of("presence.pruned")
	require.JSONEq(t, `{"instance_id":"`+d.id+`"}`, string(pruned.Payload))
	for _, c := range []*tyrumClient{screen, c, back} {
		require.Empty(t, c.repeated)
	}
}

// TestTyrumAudience holds who hears what: whose token may see others, everything;
// another client, what concerns its own device; a node nothing; another tenant's
// client nothing.
func TestTyrumAudience(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	w.attend(t)
	screen := g.joinTyrum(t, watcher())
	d := newTestDevice(t)
	own := g.joinTyrum(t, grant{device: d, agent: "a1"})
	twin := g.joinTyrum(t, grant{device: d, scopes: []string{"events.read"}})
	node := g.joinTyrum(t, grant{role: "node"})
	stranger := g.joinTyrum(t, grant{tenant: "globex", scopes: []string{"operator.write"}})

	entry := node.beacon(map[string]any{"metadata": map[string]any{"connected": false}})
	require.Equal(t, map[string]any{"connected": true}, entry.Metadata, "what a device says of that itself does not stand")
	twin.beacon(map[string]any{"version": "9"})
	for {
		if e := screen.entryFor(twin.device.id); e.Version == "9" {
			break
		}
	}
	require.Contains(t, screen.seenBy(), node.device.id)

	for {
		if e := own.entryFor(d.id); e.Version == "9" {
			break
		}
	}
	for _, c := range []*tyrumClient{own, twin} {
		c.ok("ping", map[string]any{})
		require.Equal(t, []string{d.id}, c.seenBy())
	}
	stranger.entryFor(stranger.device.id)
	stranger.quiet()
	node.quiet()
	require.Empty(t, node.seenBy())
	require.Equal(t, []string{stranger.device.id}, stranger.seenBy())
}

// seenBy lists the devices that the client was told of.
func (c *tyrumClient) seenBy() []string {
	c.t.Helper()
	var out []string
	for _, e := range c.told {
		if entry := c.upserted(e); !slices.Contains(out, entry.InstanceID) {
			out = append(out, entry.InstanceID)
		}
	}
	slices.Sort(out)
	return out
}

// TestTyrumReconnects holds that a client which was gone is told nothing of what was
// before, and nothing twice, whatever gateway it comes back to.
func TestTyrumReconnects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g, other := w.gateway(t), w.gateway(t, func(c *Config) { c.BeaconRate = 1000 })
	w.attend(t)
	loud := other.joinTyrum(t, grant{}) // a client's beacon is announced once it is answered
	beacon := func() { loud.beacon(map[string]any{"version": "1"}) }
	beacon()
	c := g.joinTyrum(t, watcher())
	for range 5 {
		for range 20 {
			beacon()
		}
		c.ok("ping", map[string]any{})
		c.leave()
		for range 20 {
			beacon()
		}
		g, other = other, g
		before := w.lastSeq(t)
		c = g.again(t, c, grant{scopes: []string{"presence.read"}})
		require.Equal(t, c.device.id, c.upserted(c.event()).InstanceID, "the first thing that a client hears is that it came")
		require.Greater(t, w.lastSeq(t), before)
	}
	require.Empty(t, c.repeated)
}

// TestTyrumBeaconWithoutPresence holds that a beacon is answered while nobody makes
// an event of it.
func TestTyrumBeaconWithoutPresence(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	c := g.joinTyrum(t, grant{})
	entry := c.beacon(map[string]any{"host": "inner", "metadata": map[string]any{"a": 1}})
	require.Equal(t, "inner", entry.Host)
	require.Equal(t, "periodic", entry.Reason)
	require.Len(t, w.events(t, subjects.InstanceConnection("acme", c.device.id, "beacon").String()), 1)
	c.quiet()
}

// TestTyrumIsAsked holds that the gateway's requests reach the client, and that all
// of its ways to answer are taken.
func TestTyrumIsAsked(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	w.attend(t)
	node := g.joinTyrum(t, grant{role: "node"})
	asker := g.connect(t, producer())
	within(t, func() bool {
		_, known := g.view.home("acme", peerTarget{Kind: "device", ID: node.device.id})
		return known
	})
	for answer, want := range map[string]string{
		`"ok":true`:               `{"connection_id":"` + node.welcome.ClientID + `","result":{}}`,
		`"ok":true,"result":{}`:   `{"connection_id":"` + node.welcome.ClientID + `","result":{}}`,
		`"ok":true,"result":null`: `{"connection_id":"` + node.welcome.ClientID + `","result":null}`,
		`"ok":false,"error":{"code":"task_failed","message":"no"}`:                             `{"code":"task_failed","message":"no","details":null}`,
		`"ok":false,"error":{"code":"task_failed","message":"no","details":{"evidence":[1]}}`:  `{"code":"task_failed","message":"no","details":{"evidence":[1]}}`,
		`"ok":false,"error":{"code":"unexpected_connect","message":"no","details":["free",2]}`: `{"code":"unexpected_connect","message":"no","details":{"details":["free",2]}}`,
	} {
		request := ask("device", node.device.id)
		request["type"] = "ping"
		request["payload"] = map[string]any{}
		id := asker.send("peer.request", request)
		asked := node.asked()
		require.Equal(t, "ping", asked.Type)
		node.raw(1, `{"request_id":"`+asked.RequestID+`","type":"ping",`+answer+`}`)
		f := asker.response(id)
		if f.Error != nil {
			said, err := json.Marshal(f.Error)
			require.NoError(t, err)
			require.JSONEq(t, want, string(said))
			continue
		}
		require.JSONEq(t, want, string(f.Result))
	}
	node.quiet()
}

// bulk announces a device with a great deal of metadata.
func (a *attendant) bulk(instance string, size int) {
	a.t.Helper()
	metadata, err := json.Marshal(map[string]string{"padding": strings.Repeat("x", size)})
	require.NoError(a.t, err)
	row := subjects.InstanceRow{
		InstanceID: instance, Role: "client", ConnectionID: subjects.NewID(), LastSeenAt: time.Now().UTC(),
		Reason: subjects.InstancePeriodic, Metadata: metadata,
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.causes++
	a.announce(a.t.Context(), "acme", row, 1<<40+a.causes, 0)
}

// skim reads up to an event about a device without a closer look: a reader must
// not be slow for all it checks.
func (c *tyrumClient) skim(device string) {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	for {
		_, data, err := c.conn.Read(ctx)
		require.NoError(c.t, err)
		if bytes.Contains(data, []byte(device)) {
			return
		}
	}
}

func TestTyrumSlowReader(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	a := w.attend(t)
	slow := g.joinTyrum(t, grant{agent: "slow", scopes: []string{"presence.read"}})
	fast := g.joinTyrum(t, watcher())
	device := newTestDevice(t).id
	sluggard := g.socketOf("slow")
	for i := 0; !sluggard.stopping(); i++ {
		require.Less(t, i, 1000, "the slow reader is never closed")
		a.bulk(device, 128<<10)
		fast.skim(device)
	}
	slow.requireClosed(1013, "slow consumer")
	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "slow", "closed"))
	require.Equal(t, subjects.ClosedSlowConsumer, closed.Reason)
	require.Equal(t, 1013, closed.Code)
	fast.ok("ping", map[string]any{})
}

func TestTyrumServerShutdown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	w.attend(t)
	c := g.joinTyrum(t, grant{agent: "a1"})
	halfWay := g.tyrum(t, w.token(t, grant{}), newTestDevice(t), "client")
	g.end()
	c.requireClosed(1001, "server shutdown")
	halfWay.requireClosed(1001, "server shutdown")
	require.NoError(t, g.stop(t))
	closed := w.awaitClosed(t, subjects.AgentConnection("acme", "a1", "closed"))
	require.Equal(t, subjects.ClosedGatewayDraining, closed.Reason)
	require.Equal(t, 1001, closed.Code)
	require.NotContains(t, c.came, "draining")
}

func TestTyrumTokenExpires(t *testing.T) {
	t.Parallel()
	g := newWorld(t).gateway(t)
	g.joinTyrum(t, grant{expires: time.Now().Add(3 * time.Second)}).requireClosed(4001, "token invalidated")
}
