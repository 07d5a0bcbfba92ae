package rollcall

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"rollcall/shared/client"
	"rollcall/shared/daemon"
)

const (
	// silence is how long a stream may say nothing at all: the gateway says every
	// 15 s that it lives.
	silence = 40 * time.Second
	// maxLine bounds a line of a stream. No event is near it.
	maxLine = 16 << 20

	typeResync = "resync"
)

// event is one frame of the stream, and the frame as it came.
type event struct {
	EventID    string          `json:"event_id"`
	Type       string          `json:"type"`
	OccurredAt time.Time       `json:"occurred_at"`
	Scope      eventScope      `json:"scope"`
	Payload    json.RawMessage `json:"payload"`
	Cursor     string          `json:"cursor"`

	raw json.RawMessage
}

type eventScope struct {
	Kind string `json:"kind"`
	ID   string `json:"id"`
}

// decode reads the payload, whose faults are not worth an end of the stream.
func (e event) decode(into any) bool { return json.Unmarshal(e.Payload, into) == nil }

// tail follows the events of some types from a cursor on. It belongs to one
// goroutine.
type tail struct {
	gateway *gateway
	types   string
	cursor  string
	// base and most bound the wait between two attempts.
	base, most time.Duration
	// live is called when the stream flows (again), lost when it does not.
	live func()
	lost func(error)
	// quiet is [silence], unless a test has less patience.
	quiet time.Duration
}

func newTail(g *gateway, types, cursor string) *tail {
	return &tail{
		gateway: g, types: types, cursor: cursor, base: 500 * time.Millisecond, most: 5 * time.Second, quiet: silence,
		live: func() {}, lost: func(error) {},
	}
}

// errStop ends a tail from within.
var errStop = errors.New("enough")

// run hands events to take, each once and in order, until ctx ends or take
// returns an error. A stream that ends is opened again behind the last event,
// but the first attempt must succeed: whoever calls learns that nobody is there.
func (t *tail) run(ctx context.Context, take func(event) error) error {
	backoff := client.Backoff{Base: t.base, Max: t.most}
	for first := true; ; first = false {
		opened, err := t.once(ctx, take)
		switch {
		case errors.Is(err, errStop):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case first && !opened, !passing(err):
			return err
		}
		t.lost(err)
		if opened {
			backoff.Reset()
		}
		// A gateway that lets go of streams stops, and another is next.
		t.gateway.at = (t.gateway.at + 1) % len(t.gateway.urls)
		if !daemon.Pause(ctx, t.base/2+backoff.Next()) {
			return ctx.Err()
		}
	}
}

// once reads one stream to its end.
func (t *tail) once(ctx context.Context, take func(event) error) (opened bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	header := http.Header{"Accept": {"text/event-stream"}}
	if t.cursor != "" {
		header.Set("Last-Event-ID", t.cursor)
	}
	response, err := t.gateway.open(ctx, "/events", url.Values{"types": {t.types}}, header)
	if err != nil {
		return false, err
	}
	defer func() { _ = response.Body.Close() }()
	t.live()
	watchdog := time.AfterFunc(t.quiet, func() { cancel(fmt.Errorf("nothing heard for %s", t.quiet)) })
	defer watchdog.Stop()
	err = t.read(response.Body, func() { watchdog.Reset(t.quiet) }, take)
	if cause := context.Cause(ctx); cause != nil {
		err = &unreachable{err: fmt.Errorf("%s: %w", t.gateway.url(), cause)}
	}
	return true, err
}

// read takes events apart: lines "field: value", an empty one behind each event.
func (t *tail) read(body io.Reader, heard func(), take func(event) error) error {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, 64<<10), maxLine)
	var data []byte
	for lines.Scan() {
		heard()
		text := lines.Bytes()
		if len(text) > 0 {
			if value, found := bytes.CutPrefix(text, []byte("data:")); found {
				data = append(data, bytes.TrimPrefix(value, []byte(" "))...)
			}
			continue
		}
		if len(data) == 0 {
			continue
		}
		e := event{raw: bytes.Clone(data)}
		data = data[:0]
		if err := json.Unmarshal(e.raw, &e); err != nil {
			return failure(exitFailure, "GET /events: an event makes no sense: %w", err)
		}
		// Taken before it counts as seen: what was not printed comes again.
		if err := take(e); err != nil {
			return err
		}
		if e.Cursor != "" {
			t.cursor = e.Cursor
		}
	}
	err := lines.Err()
	if errors.Is(err, bufio.ErrTooLong) {
		return failure(exitFailure, "GET /events: an event is above %d MB", maxLine>>20)
	}
	if err == nil {
		err = errors.New("the gateway ended the stream")
	}
	return &unreachable{err: fmt.Errorf("%s: %w", t.gateway.url(), err)}
}
