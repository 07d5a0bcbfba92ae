package rollcall

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"rollcall/shared/daemon"
	"rollcall/subjects"
)

const (
	// pollEvery is how often the screen asks how the gateways are.
	pollEvery = 2 * time.Second
	// pollPatience is how long it waits for that.
	pollPatience = 5 * time.Second
	// relistEvery is how often the rows are read anew: events tell of a status, not
	// of a second connection.
	relistEvery = 30 * time.Second
	// paintEvery bounds how often the screen is painted, and how soon it follows a
	// change of its size.
	paintEvery = 200 * time.Millisecond
)

// runTop shows the fleet on the whole screen. Where stdout is no terminal it
// prints lines, as `presence --watch` does.
func runTop(ctx context.Context, args, env []string, std Streams) error {
	var t target
	s := settingsOf("top", &t)
	g, err := t.open(s, args, env)
	if err != nil {
		return err
	}
	defer g.close()
	out, isFile := std.Out.(*os.File)
	if !isFile || !term.IsTerminal(int(out.Fd())) {
		return untilStopped(ctx, watchPresence(ctx, g, std, presenceQuery{kind: kindAgents}, false))
	}
	// What is refused is said before the screen is taken.
	first, cursor, err := g.fleet(ctx)
	if err != nil {
		return untilStopped(ctx, err)
	}
	screen, err := openTerminal(out, noColor(env))
	if err != nil {
		return failure(exitFailure, "%w", err)
	}
	defer screen.close()
	return untilStopped(ctx, watchFleet(ctx, g, screen, first, cursor))
}

// noColor follows the convention of no-color.org.
func noColor(env []string) bool {
	return slices.ContainsFunc(env, func(pair string) bool {
		value, found := strings.CutPrefix(pair, "NO_COLOR=")
		return found && value != "" || pair == "TERM=dumb"
	})
}

// display is where frames go and keys come from.
type display interface {
	size() (width, height int)
	paint(lines []styled) error
	// keys hands over what is typed until the display is closed.
	keys() <-chan string
}

// watchFleet feeds the state and paints it. It ends with ctx, by q, or when the
// gateway refuses. Whoever feeds waits for room: the stream is not read meanwhile,
// and is resumed where the gateway gave it up for that.
func watchFleet(ctx context.Context, g *gateway, d display, first listed, cursor string) error {
	ctx, cancel := context.WithCancel(ctx)
	inputs := make(chan input, 256)
	failed := make(chan error, 1)
	var feeds sync.WaitGroup
	defer feeds.Wait()
	defer cancel()
	send := func(in input) {
		select {
		case inputs <- in:
		case <-ctx.Done():
		}
	}
	poller := g.fork()
	feeds.Go(func() { failed <- followFleet(ctx, g, cursor, send) })
	feeds.Go(func() { defer poller.close(); pollFleet(ctx, poller, send) })

	width, height := d.size()
	s := step(step(newState(g.url()), resized{width, height}), ticked{time.Now()})
	s = step(s, first)
	ticker := time.NewTicker(paintEvery)
	defer ticker.Stop()
	for !s.quit {
		select {
		case in := <-inputs:
			s = step(s, in)
			continue // painted with the next tick
		case key := <-d.keys():
			s = step(s, pressed(key))
		case now := <-ticker.C:
			width, height := d.size()
			s = step(step(s, resized{width, height}), ticked{now})
		case err := <-failed:
			return err
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := d.paint(render(s)); err != nil {
			return printing(err)
		}
	}
	return nil
}

// followFleet tells what changes, and that it does not hear of it any more.
func followFleet(ctx context.Context, g *gateway, cursor string, send func(input)) error {
	follow := newTail(g, subjects.TypePresenceChanged+",lease.*", cursor)
	follow.live = func() { send(linked{url: g.url()}) }
	follow.lost = func(err error) { send(lost{why: strings.TrimPrefix(err.Error(), "rollcall: ")}) }
	return follow.run(ctx, func(e event) error {
		if e.Type == typeResync {
			all, _, err := g.fleet(ctx)
			if err != nil {
				return err
			}
			send(all)
			return nil
		}
		send(told{event: e})
		return nil
	})
}

// pollFleet asks how the gateways are, and for all rows whenever what it hears
// puts rows in doubt, or out of it, and from time to time. How often is bounded by
// how long that takes.
func pollFleet(ctx context.Context, g *gateway, send func(input)) {
	g.timeout = min(g.timeout, pollPatience)
	var known []gatewayStatus
	inDoubt := false // when the rows were read last
	relisted, rest := time.Now(), time.Duration(0)
	for daemon.Pause(ctx, pollEvery) {
		var doc statusDoc
		err := g.get(ctx, "/status", nil, &doc)
		if refused, ok := errors.AsType[*refusal](err); ok && refused.Status == http.StatusNotFound {
			err = nil // a gateway of before there was one
		}
		if err != nil {
			continue // the screen sees how old the last answer is
		}
		send(polled{doc: doc})
		doubted := doc.Tenant.Uncertain > 0 || inDoubt || !slices.EqualFunc(known, doc.Gateways, sameGateway)
		since := time.Since(relisted)
		if since < rest || !doubted && since < relistEvery {
			continue
		}
		began := time.Now()
		if all, _, err := g.fleet(ctx); err == nil {
			known, inDoubt = doc.Gateways, doc.Tenant.Uncertain > 0
			send(all)
		}
		relisted = time.Now()
		rest = 10 * relisted.Sub(began)
	}
}

func sameGateway(a, b gatewayStatus) bool {
	return a.InstanceID == b.InstanceID && a.Incarnation == b.Incarnation
}

// fleet reads all agents. Whatever happens behind the cursor may be in it or not.
func (g *gateway) fleet(ctx context.Context) (listed, string, error) {
	var all listed
	var cursor string
	err := g.pages(ctx, "/presence", presenceQuery{kind: kindAgents}.values(), "after", func(p page) error {
		if all.at.IsZero() {
			all.at, cursor = p.GeneratedAt, p.Cursor
		}
		for _, raw := range p.Items {
			var row agentRow
			if err := json.Unmarshal(raw, &row); err != nil {
				return failure(exitFailure, "a row makes no sense: %w", err)
			}
			all.rows = append(all.rows, row)
		}
		return nil
	})
	return all, cursor, err
}
