package rollcall

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
)

// runEvents prints what happens until it is interrupted, or has seen enough.
func runEvents(ctx context.Context, args, env []string, std Streams) error {
	var (
		t      target
		types  []string
		cursor string
		count  int
		asJSON bool
	)
	s := settingsOf("events", &t)
	s.Strings(&types, "types", []string{"*"}, "types of events: run.started, run.* for all below, * for all; repeatable, or with commas")
	s.String(&cursor, "cursor", "", "begin behind this place, the cursor of an event or a listing; from now on when empty")
	s.Int(&count, "count", 0, "end after so many events; 0 goes on")
	s.Bool(&asJSON, "json", false, "print JSON lines: the event frames, cursors included")
	s.Check("count", func() error {
		if count < 0 {
			return errors.New("must not be negative")
		}
		return nil
	})
	g, err := t.open(s, args, env)
	if err != nil {
		return err
	}
	defer g.close()
	return untilStopped(ctx, tailEvents(ctx, g, std, strings.Join(types, ","), cursor, count, asJSON))
}

// untilStopped makes a proper end of what Ctrl-C interrupts. A listing that is
// interrupted is none.
func untilStopped(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func tailEvents(ctx context.Context, g *gateway, std Streams, types, cursor string, count int, asJSON bool) (err error) {
	if cursor == "" {
		if cursor, err = g.now(ctx); err != nil {
			return err
		}
	}
	follow := newTail(g, types, cursor)
	follow.report(std)
	seen := 0
	return follow.run(ctx, func(e event) error {
		if err := showEvent(std, e, asJSON); err != nil {
			return err
		}
		if e.Type != typeResync {
			seen++
		}
		if count > 0 && seen >= count {
			return errStop
		}
		return nil
	})
}

// report tells on stderr of losses and returns.
func (t *tail) report(std Streams) {
	away := false
	t.lost = func(err error) {
		if !away {
			_ = line(std.Err, "%v; trying again", err)
		}
		away = true
	}
	t.live = func() {
		if away {
			_ = line(std.Err, "rollcall: connected to %s again", t.gateway.url())
		}
		away = false
	}
}

// now is the cursor of this moment, so that a stream that breaks before its first
// event goes on from where it began. A token that may not read listings does
// without: it misses what happens between such a break and its return.
func (g *gateway) now(ctx context.Context) (string, error) {
	var p page
	err := g.get(ctx, "/presence", map[string][]string{"limit": {"1"}}, &p)
	if refused, ok := errors.AsType[*refusal](err); ok && refused.Status == http.StatusForbidden {
		return "", nil
	}
	return p.Cursor, err
}

// showEvent prints one event. A resync says that something is missing, to whoever
// reads stdout and to whoever watches.
func showEvent(std Streams, e event, asJSON bool) error {
	if e.Type == typeResync {
		if err := line(std.Err, "rollcall: the cursor is older than what is kept; what happened since is missing here"); err != nil {
			return err
		}
	}
	if asJSON {
		return jsonLine(std.Out, e.raw)
	}
	who := e.Scope.Kind
	if e.Scope.ID != "" {
		who = e.Scope.ID
	}
	return line(std.Out, "%s  %-24s  %-20s  %s", e.OccurredAt.UTC().Format(time.RFC3339), clean(e.Type), clean(who), compact(e.Payload))
}

// compact shows JSON on one line, safely.
func compact(raw json.RawMessage) string {
	var b bytes.Buffer
	if json.Compact(&b, raw) != nil {
		return clean(string(raw))
	}
	return clean(b.String())
}
