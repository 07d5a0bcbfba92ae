package gateway

import (
	"context"
	"net/http"
	"time"

	"rollcall/shared/bus"
	"rollcall/subjects"
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
	then, err := g.then(r.Context(), tenant, q.at)
	if err != nil {
		g.writeError(w, err)
		return
	}
	page := then.list(q)
	page.Cursor = cursor
	writeJSON(w, http.StatusOK, "application/json", presencePage{Status: "ok", GeneratedAt: time.Now().UTC(), At: q.at, listResult: page})
}

// then rebuilds what a tenant's agents were at a time, from what is announced of them
// since an hour before it. Of each agent one of these tells, the first that there is:
//
//	its last change at or before that time
//	the status that its first change after it says was before
//	its row, which nothing has changed since, as it is now or, where it is ahead of its
//	own announcement, as it was before
//
// The rows are copied before the end of the stream is looked up: a change that is
// announced later than that is in no row here, or its row says what was before. A
// change counts by when its cause was stored, not by when presence came to announce it.
func (g *Gateway) then(ctx context.Context, tenant string, at time.Time) (*bygone, error) {
	out := &bygone{at: at, known: map[string]subjects.AgentRow{}, settled: map[string]bool{}}
	err := g.readPast(ctx, func(ctx context.Context, facts bus.Facts, take func() bool) error {
		if oldest := oldestOf(facts, time.Now()); at.Before(oldest) {
			return tooEarly(oldest)
		}
		out.begin(g.view.cut(selection{tenant: tenant, all: true}, doubt{}))
		filter := subjects.AgentPresence(tenant, "*").String()
		from, found, err := g.conn.SeqAt(ctx, subjects.StreamEvents, filter, at.Add(-pastWindow))
		if err != nil || !found {
			return err
		}
		reading, stop := context.WithCancel(ctx)
		defer stop()
		return g.conn.ReadStored(reading, subjects.StreamEvents, []string{filter}, from, func(d *bus.Delivery) {
			if !take() {
				stop()
				return
			}
			out.add(d)
		})
	})
	return out, err
}

func tooEarly(oldest time.Time) error {
	// Rounded up, so that what the refusal names is good.
	text := oldest.UTC().Truncate(time.Millisecond).Add(time.Millisecond).Format(time.RFC3339Nano)
	p := subjects.Invalid("at", "must not be before "+text+", the oldest that is kept")
	p.Details["oldest"] = text
	return p
}

// bygone are a tenant's agents at a time in the past.
type bygone struct {
	at    time.Time
	known map[string]subjects.AgentRow
	// settled are the agents that a change tells of; rows of the others are as they
	// are now.
	settled map[string]bool
}

// begin takes the rows as they are now.
func (p *bygone) begin(now agentSnapshot) {
	for _, entry := range now.entries {
		row := subjects.OfflineAgent(entry.row.AgentID)
		if entry.row.Since.After(p.at) {
			row.Status = entry.previous
			if row.Status == "" {
				row.Status = subjects.StatusOffline
			}
		} else {
			row.Status, row.Since, row.Reason, row.Evidence = entry.row.Status, entry.row.Since, entry.row.Reason, entry.row.Evidence
		}
		p.known[row.AgentID] = row
	}
}

// add takes the next change.
func (p *bygone) add(d *bus.Delivery) {
	e, err := newEntry(d)
	if err != nil || e.open() != nil {
		return // the feed names what cannot be read
	}
	change, err := subjects.DecodePayload[subjects.PresenceChanged](e.event)
	if err != nil || change.AgentID != e.agent {
		return
	}
	row := subjects.OfflineAgent(change.AgentID)
	switch {
	case !change.Since.After(p.at):
		row.Status, row.Since, row.Reason = change.Status, change.Since, change.Reason
		row.Evidence = &subjects.Evidence{Seq: d.Seq, EventID: e.event.EventID, Type: e.kind, At: d.Time.UTC()}
	case p.settled[change.AgentID]:
		return // what was at the time is known
	default:
		row.Status = change.Previous
	}
	p.known[row.AgentID], p.settled[row.AgentID] = row, true
}

// list takes a page.
func (p *bygone) list(q listQuery) listResult {
	t := newTable[subjects.AgentRow]()
	for id, row := range p.known {
		t.put(id, row)
	}
	pages := pager{limit: q.limit}
	match := func(id string) bool { return q.status == "" || string(p.known[id].Status) == q.status }
	pages.add(idsOf(t, q.agent), q.prefix, q.after, match, func(id string) any { return p.known[id] })
	return pages.result()
}
