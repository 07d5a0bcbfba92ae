package rollcall

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	"rollcall/subjects"
)

const (
	kindAgents    = "agents"
	kindInstances = "instances"
)

// presenceQuery is what is asked of presence.
type presenceQuery struct {
	kind, status, role, prefix, at string
	uncertain                      bool
}

func (q presenceQuery) values() url.Values {
	out := url.Values{"at": {q.at}, "kind": {q.kind}, "status": {q.status}, "role": {q.role}, "prefix": {q.prefix}}
	if q.uncertain {
		out.Set("uncertain", "true")
	}
	return out
}

// runPresence lists agents or instances, and goes on with what changes if asked.
func runPresence(ctx context.Context, args, env []string, std Streams) error {
	var (
		t     target
		q     presenceQuery
		out   listing
		watch bool
	)
	s := settingsOf("presence", &t)
	s.Word(&q.kind, "kind", kindAgents, "agents or instances")
	s.String(&q.status, "status", "", "only agents that are online, working or offline")
	s.String(&q.role, "role", "", "only instances that are a client, a node or a gateway, or agents with a connection of one")
	s.Bool(&q.uncertain, "uncertain", false, "only what the gateway cannot vouch for")
	s.String(&q.prefix, "prefix", "", "only ids that begin so")
	s.String(&q.at, "at", "", "the agents as they were then: a time such as 2026-11-26T03:12:00Z, as far back as events are kept; one that is not listed was offline")
	s.Bool(&watch, "watch", false, `go on with what changes; with --json a line {"listing":…} begins a listing, {"row":…} are its rows, {"event":…} the changes`)
	out.settings(s)
	s.Check("kind", func() error {
		if q.kind != kindAgents && q.kind != kindInstances {
			return errors.New("must be agents or instances")
		}
		return nil
	})
	s.Check("at", func() error {
		if q.at == "" {
			return nil
		}
		if _, err := time.Parse(time.RFC3339, q.at); err != nil {
			return fmt.Errorf("%q is not a time such as 2026-11-26T03:12:00Z", clean(q.at))
		}
		if watch || q.kind == kindInstances {
			return errors.New("goes with agents only, and not with --watch")
		}
		return nil
	})
	s.Check("role", func() error {
		if watch && q.role != "" && q.kind == kindAgents {
			return errors.New("goes with --watch of instances only: changes of agents do not tell it")
		}
		return nil
	})
	s.Check("uncertain", func() error {
		if watch && q.uncertain {
			return errors.New("does not go with --watch: doubt is no change")
		}
		return nil
	})
	s.Check("fail-empty", func() error {
		if watch && out.failEmpty {
			return errors.New("does not go with --watch")
		}
		return nil
	})
	g, err := t.open(s, args, env)
	if err != nil {
		return err
	}
	defer g.close()
	if watch {
		return untilStopped(ctx, watchPresence(ctx, g, std, q, out.asJSON))
	}
	if q.kind == kindInstances {
		return out.instances(ctx, g, std, q)
	}
	return out.agents(ctx, g, std, q)
}

func (l *listing) agents(ctx context.Context, g *gateway, std Streams, q presenceQuery) error {
	var rows []agentRow
	now, err := l.read(ctx, g, std, "/presence", q.values(), func(raw json.RawMessage) error { return appendRow(&rows, raw) })
	if err != nil || l.asJSON {
		return err
	}
	if q.at != "" {
		now, _ = time.Parse(time.RFC3339, q.at) // checked: ages are those of then
	}
	return l.table(std, agentHead(), cellsOf(rows, func(r agentRow) []string {
		cells := agentCells(now, r)
		if q.at != "" {
			cells[agentConnections], cells[agentLeases] = "-", "-" // nothing is known of those
		}
		return cells
	}))
}

// Where an agent's connections and leases are counted.
const agentConnections, agentLeases = 4, 5

func (l *listing) instances(ctx context.Context, g *gateway, std Streams, q presenceQuery) error {
	var rows []instanceRow
	now, err := l.read(ctx, g, std, "/presence", q.values(), func(raw json.RawMessage) error { return appendRow(&rows, raw) })
	if err != nil || l.asJSON {
		return err
	}
	return l.table(std, instanceHead(), cellsOf(rows, func(r instanceRow) []string { return instanceCells(now, r) }))
}

func agentHead() []string {
	return []string{"AGENT", "STATUS", "FOR", "REASON", "CONNECTIONS", "LEASES", "EVIDENCE"}
}

// agentCells marks a status that the gateway cannot vouch for.
func agentCells(now time.Time, r agentRow) []string {
	evidence, status := "-", dash(string(r.Status))
	if r.Uncertain {
		status += "?"
	}
	if r.Evidence != nil {
		evidence = strconv.FormatUint(r.Evidence.Seq, 10) + " " + clean(r.Evidence.Type)
	}
	return []string{
		dash(r.AgentID), status, ago(now, r.Since), dash(r.Reason),
		strconv.Itoa(len(r.Connections)), strconv.Itoa(r.Leases()), evidence,
	}
}

func instanceHead() []string {
	return []string{"INSTANCE", "ROLE", "AGENT", "MODE", "VERSION", "HOST", "IP", "REPORTED", "SEEN", "STATE"}
}

// instanceRow is a row of the inventory.
type instanceRow struct {
	subjects.InstanceRow

	Uncertain bool `json:"uncertain"`
}

// instanceCells keeps apart what was seen and what the peer says of itself.
func instanceCells(now time.Time, r instanceRow) []string {
	state, reported := "connected", "-"
	switch {
	case r.Role == subjects.RoleGateway:
		state = "alive"
	case r.ConnectionID == "":
		state = "gone"
	}
	if r.Uncertain {
		state += "?"
	}
	if r.Reported != nil {
		reported = dash(strings.TrimSpace(r.Reported.Host + " " + r.Reported.IP))
	}
	return []string{
		dash(r.InstanceID), dash(r.Role), dash(r.AgentID), dash(r.Mode), dash(r.Version), dash(r.Host), dash(r.IP), reported,
		ago(now, r.LastSeenAt), state,
	}
}

// watchPresence prints a listing and then every change behind it. After a gap
// that cannot be filled it prints a listing again.
func watchPresence(ctx context.Context, g *gateway, std Streams, q presenceQuery, asJSON bool) error {
	types := subjects.TypePresenceChanged
	if q.kind == kindInstances {
		types = subjects.TypePresenceUpserted + "," + subjects.TypePresencePruned
	}
	list := func() (string, error) { return listForWatch(ctx, g, std, q, asJSON) }
	cursor, err := list()
	if err != nil {
		return err
	}
	follow := newTail(g, types, cursor)
	follow.report(std)
	return follow.run(ctx, func(e event) error {
		switch {
		case e.Type == typeResync:
			_, err := list()
			return err
		case !q.wants(e):
			return nil
		case asJSON:
			return jsonLine(std.Out, map[string]json.RawMessage{"event": e.raw})
		default:
			return line(std.Out, "%s  %s", e.OccurredAt.UTC().Format(time.RFC3339), wordsOf(e))
		}
	})
}

func listForWatch(ctx context.Context, g *gateway, std Streams, q presenceQuery, asJSON bool) (cursor string, err error) {
	var l listing
	if !asJSON {
		cursor, err = g.now(ctx)
		if err != nil {
			return "", err
		}
		show := l.agents
		if q.kind == kindInstances {
			show = l.instances
		}
		return cursor, show(ctx, g, std, q)
	}
	first := true
	err = g.pages(ctx, "/presence", q.values(), "after", func(p page) error {
		if first {
			first, cursor = false, p.Cursor
			if err := jsonLine(std.Out, map[string]any{"listing": map[string]any{"cursor": p.Cursor, "total": p.Total}}); err != nil {
				return err
			}
		}
		for _, raw := range p.Items {
			if err := jsonLine(std.Out, map[string]json.RawMessage{"row": raw}); err != nil {
				return err
			}
		}
		return nil
	})
	return cursor, err
}

// wants says whether a change is of something that was asked for: an agent that
// leaves the status asked for is, too.
func (q presenceQuery) wants(e event) bool {
	switch e.Type {
	case subjects.TypePresenceChanged:
		var p subjects.PresenceChanged
		return e.decode(&p) && strings.HasPrefix(p.AgentID, q.prefix) &&
			(q.status == "" || string(p.Status) == q.status || string(p.Previous) == q.status)
	case subjects.TypePresenceUpserted:
		var p subjects.PresenceUpserted
		return e.decode(&p) && strings.HasPrefix(p.Entry.InstanceID, q.prefix) && (q.role == "" || p.Entry.Role == q.role)
	default:
		var p subjects.PresencePruned
		return e.decode(&p) && strings.HasPrefix(p.InstanceID, q.prefix)
	}
}

// wordsOf says what changed, in one line.
func wordsOf(e event) string {
	switch e.Type {
	case subjects.TypePresenceChanged:
		var p subjects.PresenceChanged
		if e.decode(&p) {
			return clean(changeOf(p))
		}
	case subjects.TypePresenceUpserted:
		var p subjects.PresenceUpserted
		if e.decode(&p) {
			state := "connected"
			if p.Entry.ConnectionID == "" {
				state = "gone"
			}
			return strings.Join([]string{clean(p.Entry.InstanceID), clean(p.Entry.Role), state, clean(p.Entry.Reason)}, " ")
		}
	case subjects.TypePresencePruned:
		var p subjects.PresencePruned
		if e.decode(&p) {
			return clean(p.InstanceID) + " pruned " + clean(cmp.Or(p.Reason, "-"))
		}
	}
	return clean(e.Type) + " " + compact(e.Payload)
}

// changeOf says how an agent's status changed.
func changeOf(p subjects.PresenceChanged) string {
	return strings.Join([]string{p.AgentID, string(p.Previous), "→", string(p.Status), p.Reason}, " ")
}
