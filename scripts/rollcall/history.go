package rollcall

import (
	"context"
	"encoding/json"
	"errors"
	"net/url"
	"time"

	"rollcall/subjects"
)

// runHistory shows what happened to an agent, the newest first.
func runHistory(ctx context.Context, args, env []string, std Streams) error {
	var (
		t     target
		agent string
		all   bool
		out   listing
	)
	s := settingsOf("history", &t)
	s.Word(&agent, "agent", "", "whose history")
	s.Bool(&all, "all", false, "its connections, leases and audits too, not only changes of its status")
	out.settings(s)
	s.Check("agent", func() error {
		if agent == "" {
			return errors.New("is required")
		}
		return rule(subjects.CheckAgent("agent", agent)) // it becomes part of a path
	})
	g, err := t.open(s, args, env)
	if err != nil {
		return err
	}
	defer g.close()
	query := url.Values{}
	if all {
		query.Set("include", "all")
	}
	out.after = "before"
	_, err = out.read(ctx, g, std, "/agents/"+url.PathEscape(agent)+"/history", query, func(raw json.RawMessage) error {
		var e event
		if err := json.Unmarshal(raw, &e); err != nil {
			return failure(exitFailure, "an event makes no sense: %w", err)
		}
		return line(std.Out, "%s  %s", e.OccurredAt.UTC().Format(time.RFC3339), wordsOf(e))
	})
	if err != nil || out.asJSON {
		return err
	}
	return out.verdict()
}
