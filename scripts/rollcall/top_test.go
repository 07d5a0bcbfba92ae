package rollcall

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// statusOf is an answer of GET /status.
func statusOf(status string, gateways int) statusDoc {
	var d statusDoc
	d.Status, d.Version, d.InstanceID = status, "1.0.0", "dev_gateway0"
	d.NATS.Connected, d.NATS.ServerVersion, d.NATS.Replicas, d.NATS.Sync = true, "2.15.2", 1, "unknown"
	d.Presence.Mode, d.Presence.LagMS = "per-agent", 3
	d.Tenant.TenantID = "acme"
	d.Tenant.Agents = map[subjects.Status]int{subjects.StatusOnline: 2, subjects.StatusWorking: 1, subjects.StatusOffline: 2}
	for i := range gateways {
		d.Gateways = append(d.Gateways, gatewayStatus{
			InstanceID: fmt.Sprintf("dev_gateway%d5kpdqzv7fja3rmx2", i), Incarnation: "i", Version: "1.0.0", LastSeenAt: at(99 - 20*i), Connections: 4 - i,
		})
	}
	return d
}

func eventOf(text string) event {
	_, text, _ = strings.Cut(text, "data: ")
	var e event
	if err := json.Unmarshal([]byte(strings.TrimSpace(text)), &e); err != nil {
		panic(err)
	}
	e.raw = json.RawMessage(strings.TrimSpace(text))
	return e
}

// fleetState is a state with agents, gateways and changes, live at 18:01:40.
func fleetState(t *testing.T, width, height int) state {
	t.Helper()
	f := newFake(t)
	f.fleet()
	f.rows["agents"] = append(f.rows["agents"], json.RawMessage(
		`{"agent_id":"fay-with-a-name-that-is-longer-than-any-screen-of-forty-columns","status":"online","since":"2026-11-26T18:00:50Z","reason":"connected","connections":[],"uncertain":true}`))
	g := newGateway([]string{f.URL}, secret, 10*time.Second)
	defer g.close()
	all, cursor, err := g.fleet(t.Context())
	require.NoError(t, err)
	require.Equal(t, "c-0", cursor)
	s := newState("http://127.0.0.1:8080")
	for _, in := range []input{
		resized{width, height},
		ticked{at(40)},
		all,
		linked{"http://127.0.0.1:8080"},
		polled{statusOf("ok", 2)},
		told{eventOf(changed(97, "bob", "online", "working", "lease_granted"))},
		told{eventOf(frame(98, "lease.granted", subjects.LeaseTransition{Lease: subjects.LeaseRow{AgentID: "bob", Resource: "read/\x1b[2J"}}))},
	} {
		s = step(s, in)
	}
	return s
}

func screenText(s state) string {
	var b strings.Builder
	for _, l := range render(s) {
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	return b.String()
}

func TestScreens(t *testing.T) {
	t.Parallel()
	golden(t, "top-80x24", screenText(fleetState(t, 80, 24)))
	golden(t, "top-40x16", screenText(fleetState(t, 40, 16)))
	golden(t, "top-120x40", screenText(fleetState(t, 120, 40)))
	stale := step(step(fleetState(t, 80, 24), lost{why: "no gateway answers: connection refused"}), ticked{at(52)})
	golden(t, "top-stale", screenText(stale))
	degraded := statusOf("degraded", 1)
	degraded.Presence.Brake, degraded.Presence.BrakeReason, degraded.NATS.Connected = true, "gateways_missing", false
	golden(t, "top-degraded", screenText(step(fleetState(t, 80, 24), polled{degraded})))
}

// A screen of any size is as high as it is and nowhere wider.
func TestScreenFits(t *testing.T) {
	t.Parallel()
	base := fleetState(t, 80, 24)
	for _, width := range []int{1, 7, 20, 40, 59, 60, 71, 72, 80, 300} {
		for _, height := range []int{1, 2, 6, 10, 24, 25, 70} {
			lines := render(step(base, resized{width, height}))
			if height >= aboveTable+belowTable+3 {
				require.Len(t, lines, height, "%dx%d", width, height)
			}
			require.LessOrEqual(t, len(lines), height, "%dx%d", width, height)
			for _, l := range lines {
				require.LessOrEqual(t, utf8.RuneCountInString(l.String()), width, "%dx%d: %q", width, height, l)
				require.NotContains(t, l.String(), "\x1b")
			}
		}
	}
}

func row(id string, status subjects.Status, since int, uncertain bool) agentRow {
	return agentRow{AgentRow: subjects.AgentRow{AgentID: id, Status: status, Since: at(since)}, Uncertain: uncertain}
}

// Whatever comes first, a listing or an event, the newer word on an agent stays.
func TestStepKeepsTheNewest(t *testing.T) {
	t.Parallel()
	s := step(newState("u"), ticked{at(0)})
	s = step(s, listed{at: at(50), rows: []agentRow{row("ada", "online", 40, false), row("bob", "online", 10, true)}})
	s = step(s, told{eventOf(changed(30, "ada", "offline", "working", "lease_granted"))})
	require.Equal(t, subjects.StatusOnline, s.agents["ada"].status, "an event from before the listing")
	require.Len(t, s.changes, 1, "it happened all the same")
	s = step(s, told{eventOf(changed(60, "ada", "online", "offline", "disconnected"))})
	s = step(s, told{eventOf(changed(61, "new", "offline", "online", "connected"))})
	s = step(s, told{eventOf(changed(62, "bob", "online", "working", "lease_granted"))})
	require.False(t, s.agents["bob"].uncertain, "who tells of itself is certain")
	// A listing that began before these events ends after them.
	s = step(s, listed{at: at(55), rows: []agentRow{row("ada", "online", 40, false), row("bob", "online", 10, false)}})
	require.Equal(t, subjects.StatusOffline, s.agents["ada"].status)
	require.Equal(t, subjects.StatusWorking, s.agents["bob"].status)
	require.Contains(t, s.agents, "new")
	// Whoever a later listing does not have is gone.
	s = step(s, listed{at: at(400), rows: []agentRow{row("bob", "online", 300, false)}})
	require.Len(t, s.agents, 1)
	require.Equal(t, subjects.StatusOnline, s.agents["bob"].status)
	for i := range 2 * maxChanges {
		s = step(s, told{eventOf(changed(500+i, "bob", "online", "working", "x"))})
	}
	require.Len(t, s.changes, maxChanges)
	require.Equal(t, at(500+2*maxChanges-1), s.changes[maxChanges-1].at)
}

// Nothing is certain while nobody tells.
func TestStepStale(t *testing.T) {
	t.Parallel()
	s := step(step(newState("u"), ticked{at(0)}), listed{at: at(0), rows: []agentRow{row("ada", "online", 0, false), row("bob", "working", 0, true)}})
	doubted := func(s state) int { return s.counts()[uncertain] }
	require.Equal(t, 2, doubted(s), "connecting")
	s = step(s, linked{"v"})
	require.Equal(t, 1, doubted(s))
	require.Equal(t, map[string]int{"online": 1, uncertain: 1}, s.counts(), "who is in doubt counts as nothing else")
	s = step(step(s, lost{"gone"}), ticked{at(5)})
	s = step(s, lost{"still gone"})
	why, since := s.stale()
	require.Equal(t, "still gone", why)
	require.Equal(t, at(0), since, "since the first of both")
	require.Equal(t, 2, doubted(s))
	s = step(s, linked{"v"})
	require.Equal(t, 1, doubted(s))
	s = step(s, ticked{at(11)})
	require.Equal(t, 2, doubted(s), "the stream may hang, and nobody answers")
	s = step(s, polled{statusOf("ok", 1)})
	require.Equal(t, 1, doubted(s))
}

func TestKeys(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"q"}, keysIn("q"))
	require.Equal(t, []string{"up", "down", "j", "pgdn", "ctrl-c"}, keysIn("\x1b[A\x1b[Bj\x1b[6~\x03"))
	require.Empty(t, keysIn("\x1b[1;5Q\x1b[15~\x1b"), "no letter of a sequence is a key")

	s := step(newState("u"), resized{80, 24})
	var rows []agentRow
	for i := range 100 {
		rows = append(rows, row(fmt.Sprintf("a%02d", i), []subjects.Status{"online", "working", "offline", "online"}[i%4], 0, i == 7))
	}
	s = step(step(s, listed{at: at(0), rows: rows}), linked{"u"})
	last := 100 - s.rows()
	for _, press := range []struct {
		key  string
		want int
	}{{"up", 0}, {"down", 1}, {"j", 2}, {"k", 1}, {"pgdn", 1 + s.rows() - 1}, {"pgup", 1}, {"end", last}, {"down", last}, {"home", 0}} {
		s = step(s, pressed(press.key))
		require.Equal(t, press.want, s.scroll, press.key)
	}
	for key, want := range map[string]int{"o": 49, "w": 25, "f": 25, "u": 1, "a": 100} {
		s = step(s, pressed(key))
		require.Len(t, s.shown(), want, key)
	}
	require.False(t, s.quit)
	require.True(t, step(s, pressed("q")).quit)
	require.True(t, step(s, pressed("ctrl-c")).quit)
}

func TestPainter(t *testing.T) {
	t.Parallel()
	var out safeBuffer
	p := painter{out: &out}
	require.NoError(t, p.paint([]styled{{{bold, "a"}}, {{plain, "b"}}}))
	require.Equal(t, "\x1b[2J\x1b[1;1H\x1b[K\x1b[1ma\x1b[0m\x1b[2;1H\x1b[Kb", out.String())
	require.NoError(t, p.paint([]styled{{{bold, "a"}}, {{plain, "c"}}}))
	require.True(t, strings.HasSuffix(out.String(), "b\x1b[2;1H\x1b[Kc"), "only what changed")
	p = painter{out: &out, plain: true}
	require.Equal(t, "a", p.dress(styled{{bold, "a"}}))
	require.True(t, noColor([]string{"NO_COLOR=1"}))
	require.False(t, noColor([]string{"NO_COLOR="}))
}

// glass is a display of the test's own.
type glass struct {
	typed chan string

	mu     sync.Mutex
	width  int
	screen string
}

func (g *glass) size() (int, int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.width, 24
}

func (g *glass) paint(lines []styled) error {
	var b strings.Builder
	for _, l := range lines {
		b.WriteString(l.String() + "\n")
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.screen = b.String()
	return nil
}

func (g *glass) keys() <-chan string { return g.typed }

func (g *glass) await(t *testing.T, texts ...string) {
	t.Helper()
	holds := func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, text := range texts {
			if !strings.Contains(g.screen, text) {
				return false
			}
		}
		return true
	}
	if !poll(holds) {
		g.mu.Lock()
		defer g.mu.Unlock()
		t.Fatalf("the screen never showed %q:\n%s", texts, g.screen)
	}
}

func poll(holds func() bool) bool {
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if holds() {
			return true
		}
	}
	return false
}

// The screen follows the stream, says that it is stale while there is none, comes
// back at another gateway, follows its size, and ends by q.
func TestWatchFleet(t *testing.T) {
	t.Parallel()
	first, second := newFake(t), newFake(t)
	for _, f := range []*fake{first, second} {
		f.fleet()
		for range 100 {
			f.answer("/status", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(statusOf("ok", 1)) })
		}
	}
	// The second gateway refuses for a while, so that nobody answers.
	away := problem(http.StatusServiceUnavailable, `{"title":"Service Unavailable","detail":"not now","code":"unavailable"}`)
	second.answer("/events", away)
	second.streams = []string{changed(102, "eve", "online", "offline", "gateway_lost")}
	first.streams = []string{changed(101, "bob", "online", "working", "lease_granted"), ""}

	g := newGateway([]string{first.URL, second.URL}, secret, 10*time.Second)
	defer g.close()
	all, cursor, err := g.fleet(t.Context())
	require.NoError(t, err)
	release := make(chan struct{})
	first.answer("/events", func(w http.ResponseWriter, r *http.Request) {
		first.mu.Lock()
		first.lastIDs = append(first.lastIDs, r.Header.Get("Last-Event-ID"))
		first.mu.Unlock()
		_, _ = fmt.Fprint(w, changed(101, "bob", "online", "working", "lease_granted"))
		_ = http.NewResponseController(w).Flush()
		<-release
	})
	for range 100 {
		first.answer("/events", away)
	}
	d := &glass{typed: make(chan string), width: 80}
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { ended <- watchFleet(ctx, g, d, all, cursor) }()
	d.await(t, "live ", "bob online → working lease_granted", "acme at ")
	close(release)
	d.await(t, "STALE", "online 0", "uncertain 5")
	d.await(t, "live ", "eve online → offline gateway_lost", strings.TrimPrefix(second.URL, "http://"))
	require.Equal(t, "c-101", second.lastIDs[len(second.lastIDs)-1], "it goes on behind what it has seen")
	d.mu.Lock()
	d.width = 40
	d.mu.Unlock()
	d.await(t, "q quit  ↑↓ scroll")
	d.typed <- "w"
	d.await(t, "(working)")
	d.typed <- "q"
	require.NoError(t, <-ended)
}

// Rows are read again when doubt comes, and at once when it has gone.
func TestPollRelistsWhenDoubtEnds(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.fleet()
	for i := range 50 {
		f.answer("/status", func(w http.ResponseWriter, _ *http.Request) {
			d := statusOf("ok", 1)
			d.Tenant.Uncertain = max(1-i, 0)
			_ = json.NewEncoder(w).Encode(d)
		})
	}
	g := newGateway([]string{f.URL}, secret, 10*time.Second)
	defer g.close()
	ctx, cancel := context.WithTimeout(t.Context(), relistEvery-pollEvery)
	defer cancel()
	var doubts []int
	pollFleet(ctx, g, func(in input) {
		if told, is := in.(polled); is {
			doubts = append(doubts, told.doc.Tenant.Uncertain)
		} else if doubts[len(doubts)-1] == 0 {
			cancel() // those are the rows
		}
	})
	require.Equal(t, []int{1, 0}, doubts, "the first answer without doubt is followed by the rows")
}

// What is refused later ends the screen with the reason.
func TestWatchFleetRefused(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.answer("/events", problem(http.StatusForbidden, `{"title":"Forbidden","detail":"no","code":"forbidden","details":{"scope":"events.read"}}`))
	g := newGateway([]string{f.URL}, secret, 10*time.Second)
	defer g.close()
	err := watchFleet(t.Context(), g, &glass{width: 80}, listed{at: at(0)}, "")
	require.Equal(t, exitRefused, codeOf(err))
	require.ErrorContains(t, err, "scope: events.read")
	var refused *refusal
	require.True(t, errors.As(err, &refused))
}

// Without a terminal there are lines.
func TestTopWithoutTerminal(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.fleet()
	f.streams = []string{changed(101, "bob", "online", "working", "lease_granted")}
	r := start(t, f, "top")
	r.await(t, "bob online → working lease_granted\n")
	require.Contains(t, r.stdout.String(), "AGENT  STATUS")
	require.NotContains(t, r.stdout.String(), "\x1b")
	require.NoError(t, r.stop(t))
}

func TestStatus(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	say := func(status string) {
		f.answer("/status", func(w http.ResponseWriter, _ *http.Request) { _ = json.NewEncoder(w).Encode(statusOf(status, 2)) })
	}
	say("ok")
	o := call(t, f, "status")
	require.NoError(t, o.err)
	golden(t, "status", strings.ReplaceAll(o.stdout, f.URL, "http://gateway"))
	say("degraded")
	o = call(t, f, "status", "--json")
	require.Equal(t, exitFailure, o.code)
	require.ErrorContains(t, o.err, "is degraded")
	var doc statusDoc
	require.NoError(t, json.Unmarshal([]byte(o.stdout), &doc))
	require.Equal(t, 1, strings.Count(o.stdout, "\n"))
	require.Equal(t, exitFailure, call(t, f, "status").code, "a gateway that does not know it")
	f.answer("/status", func(w http.ResponseWriter, _ *http.Request) {
		d := statusOf("degraded", 2)
		d.NATS.Faults = []string{"KV_LEASES has 1 replicas, not 3"}
		_ = json.NewEncoder(w).Encode(d)
	})
	require.Contains(t, call(t, f, "status").stdout, "; KV_LEASES has 1 replicas, not 3\n")
}
