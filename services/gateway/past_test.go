package gateway

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// TestPastOfALargeFleet asks about times far back in a stream of as many events as
// ROLLCALL_PAST_EVENTS says, half of them changes of 10,000 agents: some change all the
// time, most now and then, some never again, and some are gone. It holds every answer
// to what was stored and says how long it took. `make past` runs it; TestFarPast is its
// short form.
func TestPastOfALargeFleet(t *testing.T) {
	t.Parallel()
	events, _ := strconv.Atoi(os.Getenv("ROLLCALL_PAST_EVENTS"))
	if events == 0 {
		t.Skip("takes minutes: make past runs it")
	}
	const agents = 10_000
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c, op := newContract(t, g), operator(t, w)
	// As many changes as a fleet makes in hours come within seconds here.
	g.past.skew, g.past.settled = 10*time.Millisecond, 0
	_, err := p.process(t.Context(), 0) // or answers would be uncertain, and looked up for every page
	require.NoError(t, err)
	within(t, func() bool { return g.view.alone() == 0 })
	js, err := jetstream.New(p.bus.NC(), jetstream.WithPublishAsyncMaxPending(1024))
	require.NoError(t, err)
	random := rand.New(rand.NewPCG(7, 7))
	now := make([]subjects.Status, agents)
	since := make([]time.Time, agents)
	for i := range now {
		now[i] = subjects.StatusOffline
	}
	choose := func(i int) int {
		switch {
		case i < 2*agents:
			return i / 2 // everybody once
		case random.IntN(10) < 8:
			return 1000 + random.IntN(1000) // those that change all the time
		default:
			return 2000 + random.IntN(agents-2000)
		}
	}
	type moment struct {
		at   time.Time
		want []subjects.Status
	}
	var moments []moment
	began := time.Now()
	other := json.RawMessage(`{"run":"r","step":1,"text":"some progress of a run, as long as such texts are in most events of an agent's work"}`)
	for i := range events {
		if i%(events/5) == events/10 {
			time.Sleep(20 * time.Millisecond)
			moments = append(moments, moment{at: time.Now().UTC(), want: append([]subjects.Status{}, now...)})
			time.Sleep(20 * time.Millisecond)
		}
		subject, data := "tenant.acme.event.run.progress", []byte(other)
		if i%2 == 0 {
			a := choose(i)
			next := subjects.Statuses()[random.IntN(3)]
			if next == now[a] {
				continue
			}
			id, at := fmt.Sprintf("agent-%05d", a), time.Now().UTC()
			s := subjects.AgentPresence("acme", id)
			event, err := subjects.NewEvent(subjects.NewID(), s.Type(), at, subjects.Scope{Kind: subjects.ScopeAgent, ID: id},
				subjects.PresenceChanged{AgentID: id, Status: next, Previous: now[a], Reason: "connected", Since: at})
			require.NoError(t, err)
			data, err = json.Marshal(event)
			require.NoError(t, err)
			subject, now[a], since[a] = s.String(), next, at
		}
		_, err := js.PublishAsync(subject, data, jetstream.WithStallWait(patience))
		require.NoError(t, err)
	}
	<-js.PublishAsyncComplete()
	rows := 0
	for a, status := range now {
		if status == subjects.StatusOffline && a%2 == 0 {
			continue // gone since
		}
		row := subjects.OfflineAgent(fmt.Sprintf("agent-%05d", a))
		row.Status, row.Since, row.Reason = status, since[a], "connected"
		_, err := p.write(t.Context(), subjects.AgentKey("acme", row.AgentID), row)
		require.NoError(t, err)
		rows++
	}
	t.Logf("%d events in %s, %d rows", events, time.Since(began).Round(time.Second), rows)
	for _, cold := range []bool{false, true} {
		if cold {
			w.nats.Restart(t) // its indexes are on the disk only
			within(t, g.conn.Connected)
			within(t, func() bool { return g.reachesJetStream() })
		}
		for i, m := range moments {
			g.past.kept = nil
			got := map[string]string{}
			query := "/presence?at=" + url.QueryEscape(m.at.Format(time.RFC3339Nano)) + "&limit="
			asked := time.Now()
			c.get(query+"1", op, http.StatusOK)
			first := time.Since(asked)
			for after := ""; ; {
				page := decodeInto[listed](t, c.get(query+"1000"+after, op, http.StatusOK))
				explained := 0
				for _, item := range page.Items {
					got[fmt.Sprint(item["agent_id"])] = fmt.Sprint(item["status"])
					if item["evidence"] != nil {
						explained++
					}
				}
				if page.Next == "" {
					t.Logf("server started anew %t, moment %d of %d: found out in %s, the pages of %d agents in %s, evidence on %d of %d of the last", cold, i+1, len(moments),
						first.Round(time.Millisecond), len(got), (time.Since(asked) - first).Round(time.Millisecond), explained, len(page.Items))
					break
				}
				after = "&after=" + page.Next
			}
			for a, want := range m.want {
				id := fmt.Sprintf("agent-%05d", a)
				if got[id] == "" {
					got[id] = string(subjects.StatusOffline)
				}
				require.Equal(t, string(want), got[id], "%s at %d", id, i)
			}
		}
	}
}

// TestPublishingBesideThePast asks about a time with 320 MB behind it, of which the
// server has no index loaded, as after two idle minutes, while somebody publishes. The
// twin asks the server for the same without loading the index before, block by block.
func TestPublishingBesideThePast(t *testing.T) {
	t.Parallel()
	if os.Getenv("ROLLCALL_PAST_EVENTS") == "" {
		t.Skip("takes minutes: make past runs it")
	}
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c, op := newContract(t, g), operator(t, w)
	g.past.skew, g.past.settled = 0, 0
	_, err := p.process(t.Context(), 0)
	require.NoError(t, err)
	js, err := jetstream.New(p.bus.NC(), jetstream.WithPublishAsyncMaxPending(256))
	require.NoError(t, err)
	fill := func(n int) {
		text := make([]byte, 1000)
		for i := range n {
			_, err := js.PublishAsync(fmt.Sprintf("tenant.acme.event.run.progress%d", i%1000), text, jetstream.WithStallWait(patience))
			require.NoError(t, err)
		}
		<-js.PublishAsyncComplete()
	}
	time.Sleep(time.Until(g.startedAt.Add(50 * time.Millisecond)))
	fill(1000)
	require.NoError(t, p.change(t.Context(), "acme", "rare", subjects.StatusWorking, subjects.StatusOffline, time.Now().UTC(), false))
	time.Sleep(20 * time.Millisecond)
	at := time.Now().UTC()
	time.Sleep(20 * time.Millisecond)
	fill(300_000)
	require.NoError(t, p.change(t.Context(), "acme", "rare", subjects.StatusOffline, subjects.StatusWorking, time.Now().UTC(), false))
	fill(1000)
	facts, err := w.bus.Facts(t.Context(), subjects.StreamEvents)
	require.NoError(t, err)
	t.Logf("%d MB in %d messages", facts.Bytes>>20, facts.Messages)

	// A server that starts has no index loaded but of what it may have to tell duplicates of.
	stream, err := js.Stream(t.Context(), subjects.StreamEvents)
	require.NoError(t, err)
	config := stream.CachedInfo().Config
	config.Duplicates = 100 * time.Millisecond
	_, err = js.UpdateStream(t.Context(), config)
	require.NoError(t, err)
	subject := subjects.AgentPresence("acme", "rare").String()
	longest := func(name string, ask func()) time.Duration {
		w.nats.Restart(t)
		within(t, func() bool { return g.conn.Connected() && g.reachesJetStream() && w.bus.Connected() })
		var most time.Duration
		done := make(chan struct{})
		var publishing errgroup.Group
		publishing.Go(func() error {
			for {
				select {
				case <-done:
					return nil
				case <-time.After(5 * time.Millisecond):
				}
				began := time.Now()
				if _, err := p.bus.Publish(t.Context(), bus.Message{Subject: "tenant.acme.event.run.other", Data: []byte("{}")}); err != nil {
					return err
				}
				most = max(most, time.Since(began))
			}
		})
		time.Sleep(500 * time.Millisecond)
		began := time.Now()
		ask()
		took := time.Since(began)
		close(done)
		require.NoError(t, publishing.Wait())
		t.Logf("%s took %s, the longest publish beside it %s", name, took.Round(time.Millisecond), most.Round(time.Millisecond))
		return most
	}
	longest("nothing", func() { time.Sleep(time.Second) })
	bare := longest("one look", func() {
		_, found, err := w.bus.NextOn(t.Context(), subjects.StreamEvents, subject, 1500)
		require.NoError(t, err)
		require.True(t, found)
	})
	asked := longest("/presence?at=", func() {
		require.Equal(t, map[string]string{"rare": "working"}, c.then(at, "", op))
	})
	require.Less(t, asked, bare/2)
	longest("a consumer", func() {
		read := 0
		require.NoError(t, w.bus.ReadStored(t.Context(), subjects.StreamEvents, []string{subject}, 1, func(*bus.Delivery) { read++ }))
		require.Equal(t, 2, read)
	})
	for _, include := range []string{"changes", "all"} {
		asked = longest("/history "+include, func() {
			page := decodeInto[listed](t, c.get("/agents/rare/history?include="+include, op, http.StatusOK))
			require.Len(t, page.Items, 2)
		})
		require.Less(t, asked, bare/2)
	}
}
