package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// Bounds of a question about the past.
const (
	// pastWait is how long it may take, pastEvents how many events it may look at.
	pastWait   = 10 * time.Second
	pastEvents = 500_000
	// pastReaders bounds the questions of one gateway that are worked on at once; one
	// more is told to come again.
	pastReaders = 4
)

// historyPage is the body of GET /agents/{agent_id}/history.
type historyPage struct {
	Status      string    `json:"status"`
	GeneratedAt time.Time `json:"generated_at"`
	AgentID     string    `json:"agent_id"`
	// Items are fewer than asked for where an event could not be read.
	Items []json.RawMessage `json:"items"`
	// Next is the `before` of the next page, absent on the last.
	Next string `json:"next,omitempty"`
	// Oldest is since when events are kept.
	Oldest time.Time `json:"oldest"`
}

// historyQuery is a checked question for a page of an agent's history.
type historyQuery struct {
	agent  string
	all    bool
	before position
	limit  int
}

func (g *Gateway) getHistory(w http.ResponseWriter, r *http.Request) {
	bearer, ok := g.authorize(w, r)
	if !ok {
		return
	}
	q, err := parseHistoryQuery(r.PathValue("agent_id"), r.URL.RawQuery)
	if err != nil {
		g.writeError(w, err)
		return
	}
	need := token.ScopePresenceRead
	if q.all {
		need = token.ScopeOperatorRead
	}
	if q.agent != bearer.Agent && !bearer.Scopes.Has(need) {
		g.writeError(w, forbidden(need))
		return
	}
	page, err := g.history(r.Context(), bearer.Tenant, q)
	if err != nil {
		g.writeError(w, err)
		return
	}
	writeJSON(w, http.StatusOK, "application/json", page)
}

func parseHistoryQuery(agent, raw string) (historyQuery, error) {
	q := historyQuery{agent: agent, limit: defaultLimit}
	var include, before string
	var limit *int
	if err := subjects.CheckAgent("agent_id", agent); err != nil {
		return q, err
	}
	if err := readQuery(raw, map[string]*string{"include": &include, "before": &before}, &limit); err != nil {
		return q, err
	}
	if limit != nil {
		q.limit = *limit
	}
	if q.limit < 1 || q.limit > maxLimit {
		return q, subjects.Invalid("limit", "must be 1 to 1000")
	}
	if include != "" && include != "changes" && include != "all" {
		return q, subjects.Invalid("include", "must be changes or all")
	}
	q.all = include == "all"
	if before != "" {
		at, err := parseCursor(before)
		if err != nil {
			return q, errBefore()
		}
		q.before = at
	}
	return q, nil
}

func errBefore() error { return subjects.Invalid("before", "must be the next of an earlier page") }

// filters are the subjects of an agent's history.
func (q historyQuery) filters(tenant string) []string {
	out := []string{subjects.AgentPresence(tenant, q.agent).String()}
	if q.all {
		of := "tenant." + tenant + ".agent." + q.agent
		out = append(out, of+".connection.opened", of+".connection.closed", of+".lease.*", subjects.Audit(tenant, q.agent, "*").String())
	}
	return out
}

// history reads all that is kept of an agent and answers with the newest page of what
// is before the asked place.
func (g *Gateway) history(ctx context.Context, tenant string, q historyQuery) (historyPage, error) {
	page := historyPage{Status: "ok", AgentID: q.agent, Items: []json.RawMessage{}}
	found := make([]*entry, 0, q.limit+1) // the newest, oldest first
	err := g.readPast(ctx, "more is kept than can be looked through in time; ask again, or with include=changes", func(ctx context.Context, facts bus.Facts, take func() bool) error {
		page.Oldest = oldestOf(facts, time.Now()).UTC()
		if q.before != (position{}) && q.before.origin != positionOf(facts.Created, 0).origin {
			return errBefore() // of a stream that is gone
		}
		// How much is kept has no bound here, as no question would get around it: what is
		// loaded in time is there for the next one.
		if err := g.conn.Warm(ctx, subjects.StreamEvents, facts, 1, facts.Last, always); err != nil {
			return fmt.Errorf("look at the past: %w", err)
		}
		reading, stop := context.WithCancel(ctx)
		defer stop()
		return g.conn.ReadStored(reading, subjects.StreamEvents, q.filters(tenant), 1, func(d *bus.Delivery) {
			if !take() {
				stop()
				return
			}
			e, err := newEntry(d)
			if err != nil || q.before.seq > 0 && e.at.seq >= q.before.seq {
				return // the log of the services names what cannot be read
			}
			if len(found) > q.limit {
				copy(found, found[1:])
				found = found[:q.limit]
			}
			found = append(found, e)
		})
	})
	if err != nil {
		return page, err
	}
	// Where the page ends is told by what it has looked at, not by what of it could be
	// read: an unreadable event makes the page shorter, never the history.
	if len(found) > q.limit {
		found = found[len(found)-q.limit:]
		page.Next = found[0].at.String()
	}
	for _, e := range slices.Backward(found) {
		frame, err := e.frame(nativeFrames)
		if err != nil {
			g.log.Warn().Err(err).Str("tenant_id", tenant).Uint64("seq", e.at.seq).Msg("unreadable event left out of a history")
			continue
		}
		page.Items = append(page.Items, frame.data)
	}
	page.GeneratedAt = time.Now().UTC()
	return page, nil
}

// readPast runs one reading of the past within its bounds. Take counts an event and is
// false when there were too many; any goroutine may call it. TooMuch
// is what whoever asks too much is told.
func (g *Gateway) readPast(ctx context.Context, tooMuch string, read func(ctx context.Context, facts bus.Facts, take func() bool) error) error {
	select {
	case g.historians <- struct{}{}:
		defer func() { <-g.historians }()
	default:
		return &subjects.Problem{
			Code: subjects.CodeRateLimited, Message: "too many questions about the past at once",
			Details: map[string]any{"retry_after_ms": retryAfter.Milliseconds()},
		}
	}
	limited, cancel := context.WithTimeout(ctx, pastWait)
	defer cancel()
	facts, err := g.conn.Facts(limited, subjects.StreamEvents)
	if err != nil {
		return fmt.Errorf("look at the past: %w", err)
	}
	var examined atomic.Int64
	most := int64(g.pastEvents)
	err = read(limited, facts, func() bool { return examined.Add(1) <= most })
	if examined.Load() > most || err != nil && errors.Is(limited.Err(), context.DeadlineExceeded) {
		return &subjects.Problem{
			Code: subjects.CodeTimeout, Message: tooMuch,
			Details: map[string]any{"examined": min(examined.Load(), most)},
		}
	}
	return err
}

// oldestOf is since when everything is kept. A stream that has lost nothing tells of
// all its life; one that is empty, of as long as it keeps events.
func oldestOf(f bus.Facts, now time.Time) time.Time {
	switch {
	case f.First <= 1 && f.Messages > 0 || f.Last == 0:
		return f.Created
	case f.Messages > 0:
		return f.FirstTime
	case f.MaxAge > 0 && now.Add(-f.MaxAge).After(f.Created):
		return now.Add(-f.MaxAge)
	default:
		return f.Created
	}
}
