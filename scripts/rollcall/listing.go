package rollcall

import (
	"cmp"
	"context"
	"encoding/json"
	"net/url"
	"time"

	"rollcall/shared/daemon"
)

// listing prints what GET listings hold, from the first page to the last.
type listing struct {
	asJSON, failEmpty bool
	// after is what the parameter is called that says where a page begins.
	after string

	found int
}

func (l *listing) settings(s *daemon.Settings) {
	s.Bool(&l.asJSON, "json", false, "print JSON lines: the rows as the gateway has them")
	s.Bool(&l.failEmpty, "fail-empty", false, "end with 5 when nothing matches")
}

// read gives every row to take or, where JSON is asked for, prints it at once.
// The time it returns is the gateway's: ages are told by one clock.
func (l *listing) read(
	ctx context.Context, g *gateway, std Streams, path string, query url.Values, take func(json.RawMessage) error,
) (time.Time, error) {
	var at time.Time
	err := g.pages(ctx, path, query, cmp.Or(l.after, "after"), func(p page) error {
		at = p.GeneratedAt
		for _, raw := range p.Items {
			l.found++
			show := take
			if l.asJSON {
				show = func(raw json.RawMessage) error { return jsonLine(std.Out, raw) }
			}
			if err := show(raw); err != nil {
				return err
			}
		}
		return nil
	})
	if err == nil && l.asJSON {
		err = l.verdict()
	}
	return at, err
}

// table prints the rows and ends as --fail-empty asks.
func (l *listing) table(std Streams, head []string, rows [][]string) error {
	if err := table(std.Out, head, rows); err != nil {
		return err
	}
	return l.verdict()
}

func (l *listing) verdict() error {
	if l.failEmpty && l.found == 0 {
		return failure(exitNothing, "nothing matches")
	}
	return nil
}

func appendRow[T any](rows *[]T, raw json.RawMessage) error {
	var row T
	if err := json.Unmarshal(raw, &row); err != nil {
		return failure(exitFailure, "a row makes no sense: %w", err)
	}
	*rows = append(*rows, row)
	return nil
}

func cellsOf[T any](rows []T, cells func(T) []string) [][]string {
	var out [][]string
	for _, row := range rows {
		out = append(out, cells(row))
	}
	return out
}
