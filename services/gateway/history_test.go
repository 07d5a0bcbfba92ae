package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// change stores a change of an agent that was caused at a time, and, where row is
// true, the row that goes with it.
func (p *presence) change(ctx context.Context, tenant, agent string, status, previous subjects.Status, since time.Time, row bool) error {
	if row {
		r := subjects.OfflineAgent(agent)
		r.Status, r.Previous, r.Since, r.Reason = status, previous, since, "connected"
		if _, err := p.write(ctx, subjects.AgentKey(tenant, agent), r); err != nil {
			return err
		}
	}
	subject := subjects.AgentPresence(tenant, agent)
	event, err := subjects.NewEvent(subjects.NewID(), subject.Type(), since, subjects.Scope{Kind: subjects.ScopeAgent, ID: agent},
		subjects.PresenceChanged{AgentID: agent, Status: status, Previous: previous, Reason: "connected", Since: since})
	if err != nil {
		return err
	}
	data, err := json.Marshal(event)
	if err != nil {
		return err
	}
	_, err = p.bus.Publish(ctx, bus.Message{Subject: subject.String(), ID: event.EventID, Data: data})
	return err
}

func (c *contract) then(at time.Time, query, bearer string) map[string]string {
	c.t.Helper()
	out := map[string]string{}
	after := ""
	for {
		page := decodeInto[listed](c.t, c.get("/presence?limit=2&at="+url.QueryEscape(at.Format(time.RFC3339Nano))+query+after, bearer, http.StatusOK))
		for _, item := range page.Items {
			out[fmt.Sprint(item["agent_id"])] = fmt.Sprint(item["status"])
		}
		if page.Next == "" {
			require.Len(c.t, out, page.Total)
			return out
		}
		after = "&after=" + page.Next
	}
}

func TestWhoWasWorkingThen(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c, op := newContract(t, g), operator(t, w)
	const off, on, work = subjects.StatusOffline, subjects.StatusOnline, subjects.StatusWorking
	// The stream is made now, so the script of the night is written into a time that
	// lies behind it: changes count by when their cause was stored.
	time.Sleep(time.Until(g.startedAt.Add(time.Second)))
	base := time.Now().UTC()
	minute := func(m int) time.Time { return base.Add(time.Duration(m) * 20 * time.Millisecond) }
	script := []struct {
		minute           int
		agent            string
		status, previous subjects.Status
		row              bool
	}{
		{1, "ada", on, off, false},
		{2, "bob", on, off, true},
		{5, "ada", work, on, false},
		{12, "cyd", on, off, false},
		{14, "ada", on, work, false},
		{20, "ada", off, on, false}, // its row has lapsed since
		{21, "cyd", off, on, true},
	}
	// Presence was behind: one announcement came long after what it tells of.
	for _, s := range script {
		require.NoError(t, p.change(t.Context(), "acme", s.agent, s.status, s.previous, minute(s.minute), s.row))
	}
	require.NoError(t, p.change(t.Context(), "globex", "spy", work, off, minute(1), true))
	// Who has not changed as long as events are kept has a row and no event; who changes
	// right now, a row that is ahead of its announcement.
	old, ahead := subjects.OfflineAgent("old"), subjects.OfflineAgent("ahead")
	old.Status, old.Since = work, base.Add(-time.Hour)
	ahead.Status, ahead.Previous, ahead.Since = off, work, minute(30)
	for _, row := range []subjects.AgentRow{old, ahead} {
		_, err := p.write(t.Context(), subjects.AgentKey("acme", row.AgentID), row)
		require.NoError(t, err)
	}
	within(t, func() bool { return g.view.list("acme", listQuery{kind: kindAgents, limit: 9}, doubt{}).Total == 4 })
	time.Sleep(time.Until(minute(31)))

	for m, want := range map[int]map[string]string{
		0:  {"ada": "offline", "bob": "offline", "cyd": "offline", "old": "working", "ahead": "working"},
		1:  {"ada": "online", "bob": "offline", "cyd": "offline", "old": "working", "ahead": "working"},
		12: {"ada": "working", "bob": "online", "cyd": "online", "old": "working", "ahead": "working"},
		13: {"ada": "working", "bob": "online", "cyd": "online", "old": "working", "ahead": "working"},
		14: {"ada": "online", "bob": "online", "cyd": "online", "old": "working", "ahead": "working"},
		20: {"ada": "offline", "bob": "online", "cyd": "online", "old": "working", "ahead": "working"},
		31: {"ada": "offline", "bob": "online", "cyd": "offline", "old": "working", "ahead": "offline"},
	} {
		require.Equal(t, want, c.then(minute(m), "", op), m)
	}
	at := minute(12)
	require.Equal(t, map[string]string{"ada": "working", "ahead": "working", "old": "working"}, c.then(at, "&status=working", op))
	require.Equal(t, map[string]string{"cyd": "online"}, c.then(at, "&agent_id=cyd", op))
	require.Equal(t, map[string]string{"spy": "working"}, c.then(at, "", w.token(t, grant{tenant: "globex", scopes: []string{token.ScopePresenceRead}})))
	page := decodeInto[listed](t, c.get("/presence?agent_id=ada&at="+at.Format(time.RFC3339Nano), op, http.StatusOK))
	since, err := time.Parse(time.RFC3339Nano, fmt.Sprint(page.Items[0]["since"]))
	require.NoError(t, err)
	require.True(t, since.Equal(minute(5)), "since when it was working")
	require.NotNil(t, page.Items[0]["evidence"])
}

func TestPastIsRefused(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c, op := newContract(t, g), operator(t, w)
	now := time.Now().UTC()
	for query, field := range map[string]string{
		"at=yesterday": "at", "at=" + now.Add(time.Hour).Format(time.RFC3339): "at", "kind=instances&at=" + now.Format(time.RFC3339): "at",
		"gateway_id=x&at=" + now.Format(time.RFC3339): "gateway_id", "version=x&at=" + now.Format(time.RFC3339): "version",
	} {
		require.Equal(t, field, decodeInto[httpProblem](t, c.get("/presence?"+query, op, http.StatusBadRequest)).Details["field"], query)
	}
	early := decodeInto[httpProblem](t, c.get("/presence?at="+now.Add(-48*time.Hour).Format(time.RFC3339), op, http.StatusBadRequest))
	require.Equal(t, "at", early.Details["field"])
	oldest, err := time.Parse(time.RFC3339Nano, fmt.Sprint(early.Details["oldest"]))
	require.NoError(t, err)
	require.WithinDuration(t, now, oldest, time.Minute)
	within(t, func() bool { return time.Now().After(oldest) })
	c.get("/presence?at="+fmt.Sprint(early.Details["oldest"]), op, http.StatusOK)

	for path, field := range map[string]string{
		"/agents/No/history": "agent_id", "/agents/a/history?include=x": "include", "/agents/a/history?limit=0": "limit",
		"/agents/a/history?before=x": "before", "/agents/a/history?before=abc-3": "before",
	} {
		require.Equal(t, field, decodeInto[httpProblem](t, c.get(path, op, http.StatusBadRequest)).Details["field"], path)
	}
	// What would take too long ends with a refusal that says so; too many at once are
	// told to come again.
	for _, agent := range []string{"ada", "ada", "ada", "ada", "bob", "cyd", "dan"} {
		require.NoError(t, p.change(t.Context(), "acme", agent, subjects.StatusOnline, subjects.StatusOffline, time.Now().UTC(), false))
	}
	g.pastEvents = 3
	require.Equal(t, subjects.CodeTimeout, decodeInto[httpProblem](t, c.get("/agents/ada/history", op, http.StatusGatewayTimeout)).Code)
	refused := decodeInto[httpProblem](t, c.get("/presence?at="+fmt.Sprint(early.Details["oldest"]), op, http.StatusGatewayTimeout))
	require.Equal(t, subjects.CodeTimeout, refused.Code)
	require.Contains(t, refused.Detail, "agent_id")
	for range pastReaders {
		g.historians <- struct{}{}
	}
	require.Equal(t, subjects.CodeRateLimited, decodeInto[httpProblem](t, c.get("/agents/ada/history", op, http.StatusTooManyRequests)).Code)
}

// TestFarPast holds that a question about a time costs one look per agent that has
// changed since, however much has happened, and that its pages are found out once.
func TestFarPast(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c, op := newContract(t, g), operator(t, w)
	const off, on, work = subjects.StatusOffline, subjects.StatusOnline, subjects.StatusWorking
	g.past.skew, g.past.settled, g.pastEvents = 0, 0, 20
	_, err := p.process(t.Context(), 0)
	require.NoError(t, err)
	within(t, func() bool { return g.view.alone() == 0 })
	change := func(agent string, status, previous subjects.Status, since time.Time, row bool) {
		t.Helper()
		require.NoError(t, p.change(t.Context(), "acme", agent, status, previous, since, row))
	}
	time.Sleep(time.Until(g.startedAt.Add(50 * time.Millisecond)))
	before := time.Now().UTC()
	for _, agent := range []string{"hot1", "hot2", "quiet", "gone", "gone-before"} {
		change(agent, on, off, before, false)
	}
	for _, agent := range []string{"hot1", "gone"} {
		change(agent, work, on, before.Add(time.Millisecond), false)
	}
	change("gone-before", off, on, before.Add(time.Millisecond), false)
	change("quiet", work, on, before.Add(time.Millisecond), true)
	time.Sleep(20 * time.Millisecond)
	at := time.Now().UTC()
	time.Sleep(20 * time.Millisecond)
	change("late", work, off, at.Add(-time.Millisecond), false) // announced after the time
	change("late", on, work, time.Now().UTC(), true)
	change("came", on, off, time.Now().UTC(), true)
	change("gone", off, work, time.Now().UTC(), false)
	for i := range 150 {
		states := []subjects.Status{on, work}
		change("hot1", states[i%2], states[(i+1)%2], time.Now().UTC(), false)
		change("hot2", states[(i+1)%2], states[i%2], time.Now().UTC(), i == 149)
	}
	want := map[string]string{
		"hot1": "working", "hot2": "online", "quiet": "working", "gone": "working", "late": "working", "came": "offline",
	}
	require.Equal(t, want, c.then(at, "", op))
	g.pastEvents = 0
	require.Equal(t, want, c.then(at, "", op), "nothing is looked up twice")
	other := at.Add(time.Microsecond)
	c.get("/presence?at="+other.Format(time.RFC3339Nano), op, http.StatusGatewayTimeout)
	for query, want := range map[string]map[string]string{
		"&prefix=hot": {"hot1": "working", "hot2": "online"}, "&agent_id=gone": {"gone": "working"}, "&agent_id=gone-before": {}, // it was offline
	} {
		g.pastEvents = 3 // one that the index is loaded with
		require.Equal(t, want, c.then(other, query, op), query)
		g.pastEvents = 0
		require.Equal(t, want, c.then(other, query, op), "nothing is looked up twice: %s", query)
	}

	// Since when and why is found before the time.
	page := decodeInto[listed](t, c.get("/presence?at="+at.Format(time.RFC3339Nano), op, http.StatusOK))
	since := map[string]string{}
	for _, item := range page.Items {
		if item["since"] != nil && item["agent_id"] != "quiet" { // its row tells of itself
			require.NotNil(t, item["evidence"])
			require.Equal(t, "connected", item["reason"])
			since[fmt.Sprint(item["agent_id"])] = fmt.Sprint(item["since"])
		}
	}
	first, second := before.Format(time.RFC3339Nano), before.Add(time.Millisecond).Format(time.RFC3339Nano)
	require.Equal(t, second, since["hot1"])
	require.Equal(t, first, since["hot2"])
	require.Equal(t, second, since["gone"])
	require.Equal(t, at.Add(-time.Millisecond).Format(time.RFC3339Nano), since["late"])
	require.NotContains(t, since, "came")

	// An answer waits for that no longer than it may, and is one without.
	g.past.details = time.Nanosecond
	page = decodeInto[listed](t, c.get("/presence?agent_id=hot1&at="+at.Format(time.RFC3339Nano), op, http.StatusOK))
	require.Len(t, page.Items, 1)
	require.Equal(t, "working", page.Items[0]["status"])
	require.NotContains(t, page.Items[0], "since")

	// How far back it goes is bounded by how much is stored since.
	g.past.bytes, g.past.kept, g.pastEvents = 1000, nil, 100
	refused := decodeInto[httpProblem](t, c.get("/presence?at="+at.Format(time.RFC3339Nano), op, http.StatusGatewayTimeout))
	require.Equal(t, subjects.CodeTimeout, refused.Code)
	require.Contains(t, refused.Detail, "later time")
}

// TestPastThatNobodyVouchesFor holds that an answer about a time which presence has not
// come to says so, and is not the answer once presence has.
func TestPastThatNobodyVouchesFor(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c, op := newContract(t, g), operator(t, w)
	const off, on = subjects.StatusOffline, subjects.StatusOnline
	g.past.skew, g.past.settled = 0, 0
	time.Sleep(time.Until(g.startedAt.Add(50 * time.Millisecond)))
	require.NoError(t, p.change(t.Context(), "acme", "ada", on, off, time.Now().UTC(), true))
	within(t, func() bool { return g.view.list("acme", listQuery{kind: kindAgents, limit: 9}, doubt{}).Total == 1 })
	closed := time.Now().UTC() // stored, and presence is away
	time.Sleep(20 * time.Millisecond)
	at := time.Now().UTC()
	ask := func() map[string]any {
		t.Helper()
		page := decodeInto[listed](t, c.get("/presence?agent_id=ada&at="+at.Format(time.RFC3339Nano), op, http.StatusOK))
		require.Len(t, page.Items, 1)
		return page.Items[0]
	}
	require.Equal(t, true, ask()["uncertain"])
	key, err := p.process(t.Context(), 5*time.Second)
	require.NoError(t, err)
	within(t, func() bool { return g.view.alone() == 0 })
	require.Equal(t, true, ask()["uncertain"], "presence is not late enough to doubt the present, and behind the time")
	require.NoError(t, p.change(t.Context(), "acme", "ada", off, on, closed, true))
	require.NoError(t, p.kv.Purge(t.Context(), key, p.rows[key], nil))
	_, err = p.process(t.Context(), 0)
	require.NoError(t, err)
	within(t, func() bool { return !g.doubt().all && g.view.lag() == 0 })
	within(t, func() bool { return ask()["status"] == string(off) })
	require.NotContains(t, ask(), "uncertain")
}

func TestPastAnswersAreBounded(t *testing.T) {
	t.Parallel()
	b := bygones{settled: time.Minute}
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(at time.Time) listQuery { return listQuery{at: at} }
	b.put("acme", &bygone{at: now.Add(-time.Second)}, now)
	require.Nil(t, b.get("acme", at(now.Add(-time.Second)), now), "presence may be behind")
	b.put("acme", &bygone{at: now.Add(-time.Hour), uncertain: true}, now)
	require.Nil(t, b.get("acme", at(now.Add(-time.Hour)), now), "nobody vouches for it")
	b.put("acme", &bygone{at: now.Add(-time.Hour), prefix: "a"}, now)
	require.Nil(t, b.get("acme", at(now.Add(-time.Hour)), now))
	require.Nil(t, b.get("acme", listQuery{at: now.Add(-time.Hour), agent: "a"}, now))
	require.NotNil(t, b.get("acme", listQuery{at: now.Add(-time.Hour), prefix: "a"}, now))
	for i := range 5 {
		b.put("acme", &bygone{at: now.Add(-time.Duration(i+1) * time.Hour)}, now)
		when := at(now.Add(-time.Duration(i+1) * time.Hour))
		require.NotNil(t, b.get("acme", when, now))
		require.Nil(t, b.get("globex", when, now))
	}
	require.Len(t, b.kept, pastKept)
	require.Nil(t, b.get("acme", at(now.Add(-5*time.Hour)), now.Add(pastKeeps+1)))
	require.Empty(t, b.kept)
}

func TestHistoryOfAnAgent(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c, op := newContract(t, g), operator(t, w)
	began := time.Now().UTC()
	statuses := []subjects.Status{subjects.StatusOffline, subjects.StatusOnline, subjects.StatusWorking}
	for i := range 7 {
		require.NoError(t, p.change(t.Context(), "acme", "ada", statuses[(i+1)%3], statuses[i%3], began.Add(time.Duration(i)*time.Second), false))
		require.NoError(t, p.change(t.Context(), "acme", "bob", statuses[(i+1)%3], statuses[i%3], began, false))
	}
	require.NoError(t, p.change(t.Context(), "globex", "ada", statuses[1], statuses[0], began, false))
	read := func(query, bearer string) (seconds []int, next string) {
		page := decodeInto[historyPage](t, c.get("/agents/ada/history"+query, bearer, http.StatusOK))
		for _, item := range page.Items {
			frame := decodeInto[framedEvent](t, item)
			change, err := subjects.DecodePayload[subjects.PresenceChanged](frame.Event)
			require.NoError(t, err)
			require.Equal(t, "ada", change.AgentID)
			require.NotEmpty(t, frame.Cursor)
			seconds = append(seconds, int(change.Since.Sub(began)/time.Second))
		}
		return seconds, page.Next
	}
	all, next := read("", op)
	require.Equal(t, []int{6, 5, 4, 3, 2, 1, 0}, all, "newest first")
	require.Empty(t, next)
	var paged []int
	before := ""
	for {
		part, next := read("?limit=3"+before, op)
		paged = append(paged, part...)
		if next == "" {
			break
		}
		before = "&before=" + next
	}
	require.Equal(t, all, paged)
	empty := decodeInto[historyPage](t, c.get("/agents/nobody/history", op, http.StatusOK))
	require.Empty(t, empty.Items)
	require.WithinDuration(t, began, empty.Oldest, time.Minute)

	// An agent may see its own; others need a scope, and more for more.
	c.get("/agents/ada/history?include=all", w.token(t, grant{agent: "ada"}), http.StatusOK)
	c.get("/agents/ada/history", w.token(t, grant{agent: "bob"}), http.StatusForbidden)
	c.get("/agents/ada/history", w.token(t, grant{scopes: []string{token.ScopePresenceRead}}), http.StatusOK)
	c.get("/agents/ada/history?include=all", w.token(t, grant{scopes: []string{token.ScopePresenceRead}}), http.StatusForbidden)
	elsewhere, _ := read("", w.token(t, grant{tenant: "globex", scopes: []string{token.ScopeOperatorRead}}))
	require.Len(t, elsewhere, 1)

	// With everything its connections are told as well.
	socket := g.connect(t, grant{agent: "ada"})
	_ = socket
	page := decodeInto[historyPage](t, c.get("/agents/ada/history?include=all", op, http.StatusOK))
	require.Len(t, page.Items, 8)
	require.Equal(t, subjects.TypeConnectionOpened, decodeInto[framedEvent](t, page.Items[0]).Type)
}

// TestHistoryGoesOnBehindWhatCannotBeRead holds that an unreadable event makes no page
// the last one, wherever in a page it comes to lie, and that no event comes twice.
func TestHistoryGoesOnBehindWhatCannotBeRead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c, op := newContract(t, g), operator(t, w)
	began := time.Now().UTC()
	const events = 9
	for i := range events {
		if i == 2 || i == 5 || i == 6 || i == 8 {
			_, err := p.bus.Publish(t.Context(), bus.Message{
				Subject: subjects.AgentPresence("acme", "ada").String(), ID: subjects.NewID(), Data: []byte("{"),
			})
			require.NoError(t, err)
			continue
		}
		require.NoError(t, p.change(t.Context(), "acme", "ada", subjects.StatusOnline, subjects.StatusOffline, began.Add(time.Duration(i)*time.Second), false))
	}
	for limit := 1; limit <= events+1; limit++ {
		var seconds []int
		before, pages := "", 0
		for {
			page := decodeInto[historyPage](t, c.get(fmt.Sprintf("/agents/ada/history?limit=%d%s", limit, before), op, http.StatusOK))
			pages++
			for _, item := range page.Items {
				change, err := subjects.DecodePayload[subjects.PresenceChanged](decodeInto[framedEvent](t, item).Event)
				require.NoError(t, err)
				seconds = append(seconds, int(change.Since.Sub(began)/time.Second))
			}
			if page.Next == "" {
				break
			}
			before = "&before=" + page.Next
		}
		require.Equal(t, []int{7, 4, 3, 1, 0}, seconds, "limit %d", limit)
		require.Equal(t, (events+limit-1)/limit, pages, "limit %d", limit)
	}
}

// TestThenUnderChurn asks about moments of a fleet that changes all the time, and
// compares with what a test that made the changes knows.
func TestThenUnderChurn(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	c, op := newContract(t, g), operator(t, w)
	statuses := subjects.Statuses()
	now := map[string]subjects.Status{}
	type moment struct {
		at   time.Time
		want map[string]string
	}
	var moments []moment
	random := rand.New(rand.NewPCG(3, 12))
	for i := range 240 {
		agent := fmt.Sprintf("a%d", random.IntN(12))
		before, known := now[agent]
		if !known {
			before = subjects.StatusOffline
		}
		after := statuses[random.IntN(3)]
		if after == before {
			continue
		}
		require.NoError(t, p.change(t.Context(), "acme", agent, after, before, time.Now().UTC(), true))
		now[agent] = after
		if i%20 == 10 {
			m := moment{at: time.Now().UTC(), want: map[string]string{}}
			for agent, status := range now {
				m.want[agent] = string(status)
			}
			moments = append(moments, m)
		}
	}
	require.NotEmpty(t, moments)
	for _, m := range moments {
		got := c.then(m.at, "", op)
		for agent, status := range got {
			if _, known := m.want[agent]; !known {
				require.Equal(t, "offline", status, "%s came later", agent)
				delete(got, agent)
			}
		}
		require.Equal(t, m.want, got)
	}
}
