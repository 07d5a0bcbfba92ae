package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/base32"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/heapprofiler"
	"github.com/chromedp/cdproto/performance"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/scripts/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

const (
	// benchAgents and benchRate are what the page has to bear.
	benchAgents, benchRate = 10_000, 200
	// mostPaint is how long a page of that many agents may take from its address to
	// its cells, mostFrame how long it may stand still.
	mostPaint, mostFrame = 1500 * time.Millisecond, 100 * time.Millisecond
	// playing is how many rows are written at once.
	playing = 16
)

// player plays presence for a fleet without sockets, so that what is measured is the
// page: it writes rows and announces their changes as presence does. The gateway and
// everything from there on is real.
type player struct {
	conn    *bus.Conn
	kv      *bus.KV
	gateway gateway
	// incarnation is that of the gateway which runs: connections of another are nobody's.
	incarnation string
	rows        []subjects.AgentRow
	revisions   []uint64
}

func (p *player) save(ctx context.Context, n int) error {
	data, err := json.Marshal(p.rows[n])
	if err != nil {
		return err
	}
	p.revisions[n], err = p.kv.Save(ctx, subjects.AgentKey(acme, p.rows[n].AgentID), data, p.revisions[n], 0)
	return err
}

// flip changes the status of one agent and announces it.
func (p *player) flip(ctx context.Context, n int) error {
	row := &p.rows[n]
	row.Previous, row.Since = row.Status, time.Now().UTC()
	row.Status, row.Reason = subjects.StatusWorking, subjects.ReasonLeaseGranted
	if row.Previous == subjects.StatusWorking {
		row.Status, row.Reason = subjects.StatusOnline, subjects.ReasonLeaseEnded
	}
	if err := p.save(ctx, n); err != nil {
		return err
	}
	event, err := subjects.NewEvent(subjects.NewID(), subjects.TypePresenceChanged, row.Since, subjects.Scope{Kind: subjects.ScopeAgent, ID: row.AgentID},
		subjects.PresenceChanged{AgentID: row.AgentID, Status: row.Status, Previous: row.Previous, Reason: row.Reason, Connections: 1, Since: row.Since})
	if err != nil {
		return err
	}
	data, err := json.Marshal(event)
	if err != nil {
		return err
	}
	_, err = p.conn.Publish(ctx, bus.Message{
		Subject: subjects.AgentPresence(acme, row.AgentID).String(), ID: event.EventID, Data: data,
		Header: nats.Header{subjects.HeaderRowRevision: {strconv.FormatUint(p.revisions[n], 10)}},
	})
	return err
}

// fill makes the fleet, and says that presence is there: agents that are online, each on a device of its own.
func (p *player) fill(ctx context.Context) error {
	p.rows, p.revisions = make([]subjects.AgentRow, benchAgents), make([]uint64, benchAgents)
	here, err := json.Marshal(subjects.ProcessRow{ProcessID: subjects.NewID(), Mode: subjects.ModePerAgent, StartedAt: time.Now().UTC()})
	if err != nil {
		return err
	}
	if _, err := p.kv.Save(ctx, subjects.PresenceProcessKey(subjects.NewID()), here, 0, time.Hour); err != nil {
		return err
	}
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(playing)
	for n := range benchAgents {
		work.Go(func() error {
			now, id := time.Now().UTC(), fmt.Sprintf("agent-%05d", n)
			hash := sha256.Sum256([]byte(id))
			device := "dev_" + strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(hash[:]))
			p.rows[n] = subjects.AgentRow{
				AgentID: id, Status: subjects.StatusOnline, Since: now, Reason: subjects.ReasonConnected, LastSeenAt: now,
				Connections: []subjects.AgentConnectionEntry{{
					ConnectionID: subjects.NewID(), InstanceID: device, GatewayID: p.gateway.InstanceID, Incarnation: p.incarnation, ConnectedAt: now, Leases: []string{},
				}},
				Evidence: &subjects.Evidence{Seq: 1, EventID: subjects.NewID(), Type: "connection.opened", At: now},
			}
			data, err := json.Marshal(subjects.InstanceRow{
				InstanceID: device, Role: subjects.RoleClient, Version: fmt.Sprintf("1.%d", n%5), Mode: "backend", AgentID: id,
				ConnectionID: p.rows[n].Connections[0].ConnectionID, ConnectedAt: now, LastSeenAt: now, Reason: subjects.InstanceConnected,
			})
			if err != nil {
				return err
			}
			if _, err := p.kv.Save(ctx, subjects.InstanceKey(acme, device), data, 0, 0); err != nil {
				return err
			}
			return p.save(ctx, n)
		})
	}
	return work.Wait()
}

// churn flips agents in turn, so many a second, for so long.
func (p *player) churn(ctx context.Context, d time.Duration) (int, error) {
	began, done := time.Now(), 0
	work, ctx := errgroup.WithContext(ctx)
	work.SetLimit(playing)
	for time.Since(began) < d && ctx.Err() == nil {
		for due := int(time.Since(began).Seconds() * benchRate); done < due; done++ {
			// 7919 is prime: neighbours are not flipped together, and none twice within a round.
			n := done * 7919 % benchAgents
			work.Go(func() error { return p.flip(ctx, n) })
		}
		time.Sleep(5 * time.Millisecond)
	}
	return done, work.Wait()
}

// heap is how much the page's scripts hold once what they dropped is collected.
func (s *screen) heap() float64 {
	s.t.Helper()
	var used float64
	s.run(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		if _, err := cdp.Call(ctx, target, heapprofiler.CollectGarbage, cdp.Empty{}); err != nil {
			return err
		}
		usage, err := cdp.Call(ctx, target, runtime.GetHeapUsage, cdp.Empty{})
		used = usage.UsedSize
		return err
	}))
	return used / (1 << 20)
}

// busy is for how long the page's main thread has computed, in seconds. Unlike frames it
// does not depend on what else the machine does.
func (s *screen) busy() float64 {
	s.t.Helper()
	var seconds float64
	s.run(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		result, err := cdp.Call(ctx, target, performance.GetMetrics, cdp.Empty{})
		if err != nil {
			return err
		}
		for _, metric := range result.Metrics {
			if metric.Name == "ThreadTime" {
				seconds = metric.Value
			}
		}
		return nil
	}))
	return seconds
}

// TestScreensBench holds the page to its promises about 10,000 agents. It takes as long
// as ROLLCALL_UI_BENCH says (make ui-bench).
func TestScreensBench(t *testing.T) {
	text := os.Getenv("ROLLCALL_UI_BENCH")
	if text == "" {
		t.Skip("a benchmark: make ui-bench runs it")
	}
	lasts, err := time.ParseDuration(text)
	require.NoError(t, err)
	s := newStack(t, options{abrupt: true, args: []string{"--gateways", "1", "--presence", "0", "--lease", "0"}, env: []string{"ROLLCALL_LOG_LEVEL=info"}})
	p := &player{conn: s.conn(), kv: s.bucket(subjects.BucketPresence), gateway: s.Gateways[0]}
	var status struct{ Incarnation string }
	require.Equal(t, 200, s.get(t, s.Gateways[0], "/status", s.Tenants[acme].OperatorToken, &status))
	p.incarnation = status.Incarnation
	require.NotEmpty(t, p.incarnation)
	require.NoError(t, p.fill(t.Context()))

	page := openBrowser(t, s.Gateways[0], 1280, 800)
	operator, err := s.mint(token.Grant{Scopes: []string{scopeOperate}})
	require.NoError(t, err)
	page.run(chromedp.Navigate(page.origin + "/"))
	page.until("sign-in", "document.querySelector('input[name=token]')")
	page.fill("input[name=token]", operator+"\r")
	painted := fmt.Sprintf("document.querySelector('#cells')?.dataset.painted === '%d'", benchAgents)
	page.until("all cells", painted)
	var paints []time.Duration
	for range 3 {
		page.run(chromedp.Reload())
		page.until("all cells again", painted)
		paints = append(paints, time.Duration(eval[float64](page, `performance.getEntriesByName("fleet-painted")[0].startTime`)*float64(time.Millisecond)))
	}
	t.Logf("%d agents painted %v after the page was asked for", benchAgents, paints)
	page.until("the inventory", "document.querySelectorAll('.filters select')[3].options.length === 6")

	page.run(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, performance.Enable, performance.EnableParams{TimeDomain: performance.EnableTimeDomainThreadTicks})
		return err
	}))
	eval[bool](page, `(() => {
		const f = (window.frames_ = {n: 0, longest: 0, late: 0, last: performance.now()});
		const tick = (now) => {
			const gap = now - f.last;
			f.n++; f.last = now; f.longest = Math.max(f.longest, gap);
			if (gap > 100) f.late++;
			requestAnimationFrame(tick);
		};
		requestAnimationFrame((now) => { f.last = now; requestAnimationFrame(tick); });
		return true;
	})()`)
	// What the first quarter fills (rings, samples, compiled code) is not growth.
	warm, err := p.churn(t.Context(), lasts/4)
	require.NoError(t, err)
	first := page.heap()
	eval[bool](page, "(Object.assign(window.frames_, {n: 0, longest: 0, late: 0, last: performance.now()}), true)")
	before, began := page.busy(), time.Now()
	n, err := p.churn(t.Context(), lasts-lasts/4)
	require.NoError(t, err)
	frames := eval[struct {
		N       int     `json:"n"`
		Longest float64 `json:"longest"`
		Late    int     `json:"late"`
	}](page, "({...window.frames_})")
	took := time.Since(began)
	busy := 100 * (page.busy() - before) / took.Seconds()
	last := page.heap()
	t.Logf("%d changes before, then %d in %s (%.0f/s): %d frames (%.0f/s), the longest %.0f ms, %d above 100 ms; main thread busy %.1f %%; heap %.1f MiB, then %.1f MiB",
		warm, n, took.Round(time.Second), float64(n)/took.Seconds(), frames.N, float64(frames.N)/took.Seconds(), frames.Longest, frames.Late, busy, first, last)

	working := 0
	for _, row := range p.rows {
		if row.Status == subjects.StatusWorking {
			working++
		}
	}
	page.until("the right view", fmt.Sprintf("document.querySelector('#count-working').textContent === '%d'", working))
	page.shoot("bench")
	page.requireQuiet()
	require.Greater(t, float64(n)/took.Seconds(), 0.95*benchRate, "the load itself")
	for _, paint := range paints {
		require.Less(t, paint, mostPaint)
	}
	require.Zero(t, frames.Late, "frames above %s", mostFrame)
	require.Positive(t, busy)
	require.Less(t, busy, 50.0, "percent of the main thread")
	require.Less(t, last, 1.1*first+2, "memory")
}
