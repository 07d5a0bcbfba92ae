package gateway

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

const (
	// pastAgents bounds whose changes one question looks for, pastAsks how many it
	// looks for at once: the server answers a connection's questions one after the
	// other, and between these everything else the gateway wants.
	pastAgents = 100_000
	pastAsks   = 4
	// pastSkew is how far before the asked time changes are looked for. A change is
	// stored after its cause, but where the two had different leaders their clocks may
	// say otherwise.
	pastSkew = 5 * time.Second
	// detailWait is how long an answer waits for since when and why, detailBack how far
	// back that is looked for at first, detailHops at how many changes of one agent.
	detailWait = time.Second
	detailBack = 20 * time.Second
	detailHops = 64
	// pastSettled is how old a time is of which presence has nothing left to announce:
	// answers about it are kept for pastKeeps, so that paging asks once.
	pastSettled = time.Minute
	pastKeeps   = 30 * time.Second
	pastKept    = 4
	// pastBytes bounds how much of the stream lies between a time and now. The server
	// reads all of it once when nobody has looked for two minutes, a block of 8 MiB in
	// some 20 ms: this much in 6 of the 10 s that a question may take.
	pastBytes = 2 << 30
)

// parsePast reads the time a listing is to be of, and refuses what goes with the
// present only.
func parsePast(text string, q listQuery) (time.Time, error) {
	at, err := time.Parse(time.RFC3339Nano, text)
	switch {
	case err != nil:
		return at, subjects.Invalid("at", "must be a time such as 2026-01-31T03:12:00Z")
	case at.After(time.Now()):
		return at, subjects.Invalid("at", "must not be in the future")
	case q.kind != kindAgents:
		return at, subjects.Invalid("at", "must be left out when kind is instances")
	case q.gateway != "":
		return at, subjects.Invalid("gateway_id", "must be left out with at")
	case q.version != "":
		return at, subjects.Invalid("version", "must be left out with at")
	case q.role != "":
		return at, subjects.Invalid("role", "must be left out with at")
	case q.uncertain != "":
		return at, subjects.Invalid("uncertain", "must be left out with at")
	default:
		return at.UTC(), nil
	}
}

// answerPast answers GET /presence?at=.
func (g *Gateway) answerPast(w http.ResponseWriter, r *http.Request, tenant string, q listQuery) {
	cursor, err := g.cursor(r.Context(), tenant)
	if err != nil {
		g.writeError(w, err)
		return
	}
	var page listResult
	err = g.readPast(r.Context(), "more has happened since than can be looked at in time; ask about a later time, or about fewer agents, by agent_id or prefix", func(ctx context.Context, facts bus.Facts, take func() bool) error {
		if oldest := oldestOf(facts, time.Now()); q.at.Before(oldest) {
			return tooEarly(oldest)
		}
		then, err := g.then(ctx, tenant, q, facts, take)
		if err != nil {
			return err
		}
		page = then.list(q)
		g.explain(ctx, tenant, then, facts, page.Items)
		return nil
	})
	if err != nil {
		g.writeError(w, err)
		return
	}
	page.Cursor = cursor
	writeJSON(w, http.StatusOK, "application/json", presencePage{Status: "ok", GeneratedAt: time.Now().UTC(), At: q.at, listResult: page})
}

// then finds out what a tenant's agents were at a time. Of each agent one of these
// tells, the first that there is:
//
//	its row, where nothing has changed it since
//	the status that its first change after that time says was before
//	its last change at or before that time, where presence announced that late
//	its row as it was before, where it is ahead of its own announcement
//
// The rows are copied before the changes are looked for: a change that is announced
// later than that is in no row here, or its row says what was before. A change counts
// by when its cause was stored, not by when presence came to announce it. An agent
// that none of them tells of was offline: a row goes when it has been that for long.
//
// While presence is away, or has not come to the time, nobody vouches for the answer.
// It says so, and is not kept.
func (g *Gateway) then(ctx context.Context, tenant string, q listQuery, facts bus.Facts, take func() bool) (*bygone, error) {
	if kept := g.past.get(tenant, q, time.Now()); kept != nil {
		return kept, nil
	}
	unsure := func() bool { return g.doubt().all || time.Now().Add(-g.view.lag()).Before(q.at) }
	before := unsure()
	if _, err := g.feeds.begin(ctx); err != nil { // the rows are as new as the stream
		return nil, fmt.Errorf("%w: %w", bus.ErrUnavailable, err)
	}
	out := &bygone{at: q.at, agent: q.agent, prefix: q.prefix, known: map[string]subjects.AgentRow{}, next: map[string]uint64{}}
	out.begin(g.view.cut(selection{tenant: tenant, all: true}, doubt{}), q)
	if err := g.search(ctx, tenant, q, facts, out, take); err != nil {
		return nil, err
	}
	out.uncertain = unsure() || before
	// What the stream has let go of meanwhile may have been somebody's first change.
	facts, err := g.conn.Facts(ctx, subjects.StreamEvents)
	if err != nil {
		return nil, fmt.Errorf("look at the past: %w", err)
	}
	if oldest := oldestOf(facts, time.Now()); q.at.Before(oldest) {
		return nil, tooEarly(oldest)
	}
	g.past.put(tenant, out, time.Now())
	return out, nil
}

// search looks for the first change after the time of every agent that was announced
// at all and whose row does not tell. It asks the leader for each: by its index of
// subjects that takes a tenth of a millisecond, however far back, where a consumer
// would pass over everything that has happened since. The index is loaded before.
func (g *Gateway) search(ctx context.Context, tenant string, q listQuery, facts bus.Facts, out *bygone, take func() bool) error {
	announced, err := g.conn.SubjectsOf(ctx, subjects.StreamEvents, subjects.AgentPresence(tenant, cmp.Or(q.agent, "*")).String(), pastAgents)
	if errors.Is(err, bus.ErrTooMany) {
		return subjects.Invalid("agent_id", "must be given with at: more than 100000 agents have changed")
	}
	if err != nil {
		return err
	}
	from, found, err := g.conn.SeqAt(ctx, subjects.StreamEvents, ">", q.at.Add(-g.past.skew))
	if err != nil || !found {
		return err // or nothing has happened since
	}
	if bytesFrom(facts, from) > g.past.bytes {
		return tooFar(g.past.bytes)
	}
	out.from = from
	if err := g.conn.Warm(ctx, subjects.StreamEvents, facts, from, facts.Last, take); err != nil {
		return fmt.Errorf("look at the past: %w", err)
	}
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(pastAsks)
	var mu sync.Mutex
	for _, subject := range announced {
		parsed, err := subjects.Parse(subject)
		if err != nil || ctx.Err() != nil {
			continue
		}
		agent := parsed.Agent
		mu.Lock()
		row, known := out.known[agent]
		mu.Unlock()
		if known && !row.Since.IsZero() || !strings.HasPrefix(agent, q.prefix) {
			continue
		}
		asking.Go(func() error {
			told, next, err := g.firstAfter(ctx, subject, from, q.at, take)
			mu.Lock()
			defer mu.Unlock()
			out.next[agent] = next
			if told != nil {
				out.known[agent] = *told
			}
			return err
		})
	}
	return asking.Wait()
}

// bytesFrom estimates how much of a stream lies from a sequence on.
func bytesFrom(f bus.Facts, from uint64) uint64 {
	if from > f.Last || f.Last < f.First {
		return 0
	}
	return uint64(float64(f.Bytes) * float64(f.Last-from+1) / float64(f.Last-f.First+1))
}

// errEnough ends a search that has looked at too much; readPast says so.
var errEnough = errors.New("too much to look at")

// firstAfter finds what an agent was at a time: its last change up to it, if that is
// found on the way, else what the first after it says was before. Next is the place of
// that first one. No row: it has not changed since.
func (g *Gateway) firstAfter(ctx context.Context, subject string, from uint64, at time.Time, take func() bool) (row *subjects.AgentRow, next uint64, err error) {
	for {
		if !take() {
			return nil, 0, errEnough
		}
		change, d, err := g.nextChange(ctx, subject, from)
		switch {
		case err != nil:
			return nil, 0, err
		case d == nil:
			return row, math.MaxUint64, nil
		case change == nil: // the feed names what cannot be read
		case !change.Since.After(at):
			row = rowOf(change, d)
		case row == nil:
			before := subjects.OfflineAgent(change.AgentID)
			before.Status = change.Previous
			return &before, d.Seq, nil
		default:
			return row, d.Seq, nil
		}
		from = d.Seq + 1
	}
}

// statusChange is a presence.changed and the event that it is.
type statusChange struct {
	subjects.PresenceChanged

	event subjects.Event
}

// nextChange reads the first change on a subject from a place on; nil where it cannot
// be read, and with no message where there is none.
func (g *Gateway) nextChange(ctx context.Context, subject string, from uint64) (*statusChange, *bus.Delivery, error) {
	d, found, err := g.conn.NextOn(ctx, subjects.StreamEvents, subject, from)
	if err != nil || !found {
		return nil, nil, err
	}
	e, err := newEntry(d)
	if err != nil || e.open() != nil {
		return nil, d, nil //nolint:nilerr // passed over
	}
	changed, err := subjects.DecodePayload[subjects.PresenceChanged](e.event)
	if err != nil || changed.AgentID != e.agent {
		return nil, d, nil //nolint:nilerr // passed over
	}
	return &statusChange{PresenceChanged: changed, event: e.event}, d, nil
}

// rowOf is an agent as a change left it.
func rowOf(c *statusChange, d *bus.Delivery) *subjects.AgentRow {
	row := subjects.OfflineAgent(c.AgentID)
	row.Status, row.Since, row.Reason = c.Status, c.Since, c.Reason
	row.Evidence = &subjects.Evidence{Seq: d.Seq, EventID: c.event.EventID, Type: c.event.Type, At: d.Time.UTC()}
	return &row
}

// explain adds since when and why to the rows of a page that only what came after
// tells of. Nothing can be asked backwards, so it asks forwards from ever earlier
// times, each four times as far back as the one before. What it does not find in time
// stays out, and so does what it is kept from finding: the statuses are right without.
func (g *Gateway) explain(ctx context.Context, tenant string, then *bygone, facts bus.Facts, items []any) {
	var bare []int
	for i, item := range items {
		if row, is := item.(agentItem); is && row.Since.IsZero() && then.next[row.AgentID] > 0 {
			bare = append(bare, i)
		}
	}
	if len(bare) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, g.past.details)
	defer cancel()
	if err := g.explainAll(ctx, tenant, then, facts, items, bare); err != nil && ctx.Err() == nil {
		g.log.Debug().Err(err).Str("tenant_id", tenant).Msg("a listing of the past is without since when and why")
	}
}

func (g *Gateway) explainAll(ctx context.Context, tenant string, then *bygone, facts bus.Facts, items []any, bare []int) error {
	oldest, end := oldestOf(facts, time.Now()), then.from
	for back := detailBack; len(bare) > 0; back *= 4 {
		since := then.at.Add(-back)
		from, found, err := g.conn.SeqAt(ctx, subjects.StreamEvents, ">", since)
		if err != nil || !found || bytesFrom(facts, from) > g.past.bytes {
			return err
		}
		if from < end { // what is behind that is loaded
			if err := g.conn.Warm(ctx, subjects.StreamEvents, facts, from, end, always); err != nil {
				return fmt.Errorf("look at the past: %w", err)
			}
			if bare, err = g.explainFrom(ctx, tenant, then, from, items, bare); err != nil {
				return err
			}
			end = from
		}
		if since.Before(oldest) {
			break
		}
	}
	return nil
}

func always() bool { return true }

// explainFrom explains what there are changes of from a place on, and returns the rest.
func (g *Gateway) explainFrom(ctx context.Context, tenant string, then *bygone, from uint64, items []any, bare []int) ([]int, error) {
	asking, ctx := errgroup.WithContext(ctx)
	asking.SetLimit(pastAsks)
	rest := make([]bool, len(bare))
	for n, i := range bare {
		item, _ := items[i].(agentItem)
		asking.Go(func() error {
			last, more, err := g.lastBefore(ctx, subjects.AgentPresence(tenant, item.AgentID).String(), from, then.next[item.AgentID])
			rest[n] = more // nobody else writes to these places
			if last != nil && last.Status == item.Status && !last.Since.After(then.at) {
				items[i] = agentItem{AgentRow: *last, Uncertain: item.Uncertain}
			}
			return err
		})
	}
	err := asking.Wait()
	var out []int
	for n, i := range bare {
		if rest[n] {
			out = append(out, i)
		}
	}
	return out, err
}

// lastBefore finds the last change on a subject from a place on and before another.
// More is true where there is none, and one may be further back.
func (g *Gateway) lastBefore(ctx context.Context, subject string, from, end uint64) (last *subjects.AgentRow, more bool, err error) {
	for range detailHops {
		change, d, err := g.nextChange(ctx, subject, from)
		if err != nil {
			return nil, false, err
		}
		if d == nil || d.Seq >= end {
			return last, last == nil, nil
		}
		if change != nil {
			last = rowOf(change, d)
		}
		from = d.Seq + 1
	}
	return nil, false, nil // too many to find out in time
}

func tooFar(most uint64) error {
	return &subjects.Problem{
		Code: subjects.CodeTimeout, Message: "more has been stored since than is looked through for one question; ask about a later time",
		Details: map[string]any{"most_bytes": most},
	}
}

func tooEarly(oldest time.Time) error {
	// Rounded up, so that what the refusal names is good.
	text := oldest.UTC().Truncate(time.Millisecond).Add(time.Millisecond).Format(time.RFC3339Nano)
	p := subjects.Invalid("at", "must not be before "+text+", the oldest that is kept")
	p.Details["oldest"] = text
	return p
}

// bygone are a tenant's agents at a time in the past. It is not written to once it is
// made.
type bygone struct {
	at time.Time
	// agent and prefix say which agents, where not all were asked for.
	agent, prefix string
	// uncertain is true where nobody vouches for what it says.
	uncertain bool
	// from is where the search began, 0 where nothing had happened since.
	from  uint64
	known map[string]subjects.AgentRow
	// next are the places of the first changes after the time, by agent, of those that
	// were looked for.
	next map[string]uint64
}

// begin takes the rows as they are now, of the agents that are asked for. Those of
// which more has to be found out have no since.
func (p *bygone) begin(now agentSnapshot, q listQuery) {
	for _, entry := range now.entries {
		row := subjects.OfflineAgent(entry.row.AgentID)
		if q.agent != "" && q.agent != row.AgentID || !strings.HasPrefix(row.AgentID, q.prefix) {
			continue
		}
		if entry.row.Since.After(p.at) {
			row.Status = cmp.Or(entry.previous, subjects.StatusOffline)
		} else {
			row.Status, row.Since, row.Reason, row.Evidence = entry.row.Status, entry.row.Since, entry.row.Reason, entry.row.Evidence
		}
		p.known[row.AgentID] = row
	}
}

// bygones are the last answers about times of which all is known, so that the pages of
// one question are found out once. The oldest makes room.
type bygones struct {
	settled, skew, details time.Duration
	bytes                  uint64

	mu   sync.Mutex
	kept []keptBygone
}

type keptBygone struct {
	tenant string
	made   time.Time
	then   *bygone
}

// get is the answer that is kept to a question, or one about more agents at the same
// time, or nil.
func (b *bygones) get(tenant string, q listQuery, now time.Time) *bygone {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.kept = slices.DeleteFunc(b.kept, func(k keptBygone) bool { return now.Sub(k.made) > pastKeeps })
	for _, k := range b.kept {
		if k.tenant == tenant && k.then.answers(q) {
			return k.then
		}
	}
	return nil
}

// answers reports whether all that a question is about is known here.
func (p *bygone) answers(q listQuery) bool {
	all := p.agent == "" && p.prefix == ""
	return p.at.Equal(q.at) && (all || p.agent == q.agent && p.prefix == q.prefix)
}

// put keeps an answer, unless it is uncertain or its time so near that presence may
// have something left to say of it.
func (b *bygones) put(tenant string, then *bygone, now time.Time) {
	if then.uncertain || now.Sub(then.at) < b.settled {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) == pastKept {
		b.kept = slices.Delete(b.kept, 0, 1)
	}
	b.kept = append(b.kept, keptBygone{tenant: tenant, made: now, then: then})
}

// list takes a page.
func (p *bygone) list(q listQuery) listResult {
	t := newTable[subjects.AgentRow]()
	for id, row := range p.known {
		t.put(id, row)
	}
	pages := pager{limit: q.limit}
	match := func(id string) bool { return q.status == "" || string(p.known[id].Status) == q.status }
	pages.add(idsOf(t, q.agent), q.prefix, q.after, match, func(id string) any {
		return agentItem{AgentRow: p.known[id], Uncertain: p.uncertain}
	})
	return pages.result()
}
