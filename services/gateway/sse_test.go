package gateway

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// streamEvent is one event of a stream over HTTP.
type streamEvent struct {
	id, kind string
	frame    frame
}

// stream is an open stream.
type stream struct {
	t      *testing.T
	answer *http.Response
	lines  *bufio.Scanner
	end    context.CancelFunc
}

// open asks for a stream, over HTTP/1.1 or over HTTP/2.
func (g *gatewayRun) open(t *testing.T, token string, query url.Values, lastEventID string, h2 bool) *stream {
	t.Helper()
	ctx, end := context.WithTimeout(context.Background(), 2*patience)
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.Addr()+"/events?"+query.Encode(), nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	if lastEventID != "" {
		request.Header.Set("Last-Event-ID", lastEventID)
	}
	transport := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
	transport.Protocols.SetHTTP1(!h2)
	transport.Protocols.SetUnencryptedHTTP2(h2)
	answer, err := (&http.Client{Transport: transport}).Do(request) //nolint:bodyclose // close does
	require.NoError(t, err)
	s := &stream{t: t, answer: answer, lines: bufio.NewScanner(answer.Body), end: end}
	s.lines.Buffer(nil, 1<<20)
	t.Cleanup(s.close)
	return s
}

func (s *stream) close() {
	s.end()
	_ = s.answer.Body.Close()
}

// next is the next event; false at the end of the stream.
func (s *stream) next() (streamEvent, bool) {
	s.t.Helper()
	var e streamEvent
	for s.lines.Scan() {
		key, value, _ := strings.Cut(s.lines.Text(), ": ")
		switch {
		case key == "id":
			e.id = value
		case key == "event":
			e.kind = value
		case key == "data":
			require.NoError(s.t, json.Unmarshal([]byte(value), &e.frame))
		case key == "" && e.kind != "":
			require.Equal(s.t, e.kind, e.frame.Type)
			require.Equal(s.t, e.id, e.frame.Cursor)
			return e, true
		}
	}
	return e, false
}

func (s *stream) event() streamEvent {
	s.t.Helper()
	e, ok := s.next()
	require.True(s.t, ok, "the stream ended: %v", s.lines.Err())
	return e
}

func TestStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := g.connect(t, producer())
	token := w.token(t, grant{scopes: []string{"events.read"}})
	for _, h2 := range []bool{false, true} {
		s := g.open(t, token, url.Values{"types": {"run.*,note"}}, "", h2)
		require.Equal(t, http.StatusOK, s.answer.StatusCode)
		require.Equal(t, "text/event-stream", s.answer.Header.Get("Content-Type"))
		if h2 {
			require.Equal(t, 2, s.answer.ProtoMajor)
		}
		p.publish("other", nil)
		first := p.publish("note", nil)
		second := p.publish("run.started", nil)
		got := s.event()
		require.Equal(t, first.EventID, got.frame.EventID)
		require.Equal(t, first.Cursor, got.id)
		require.Equal(t, second.EventID, s.event().frame.EventID)
		s.close()

		// A browser comes back with the id it saw last, whatever the address says.
		third := p.publish("note", nil)
		back := g.open(t, token, url.Values{"types": {"run.*,note"}, "cursor": {third.Cursor}}, first.Cursor, h2)
		require.Equal(t, second.EventID, back.event().frame.EventID)
		require.Equal(t, third.EventID, back.event().frame.EventID)
		back.close()
		again := g.open(t, token, url.Values{"cursor": {second.Cursor}}, "", h2)
		require.Equal(t, third.EventID, again.event().frame.EventID, "without types it is all")
	}
}

func TestStreamRefuses(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	reading := w.token(t, grant{scopes: []string{"events.read"}})
	for name, tc := range map[string]struct {
		token string
		query url.Values
		last  string
		want  int
	}{
		"no token":        {"", nil, "", http.StatusUnauthorized},
		"no scope":        {w.token(t, grant{scopes: []string{"presence.read"}}), nil, "", http.StatusForbidden},
		"a bad type":      {reading, url.Values{"types": {"Run"}}, "", http.StatusBadRequest},
		"a bad cursor":    {reading, url.Values{"cursor": {"x"}}, "", http.StatusBadRequest},
		"a bad header":    {reading, nil, "17", http.StatusBadRequest},
		"a bad parameter": {reading, url.Values{"limit": {"1"}}, "", http.StatusBadRequest},
	} {
		s := g.open(t, tc.token, tc.query, tc.last, false)
		require.Equal(t, tc.want, s.answer.StatusCode, name)
		require.Equal(t, "application/problem+json", s.answer.Header.Get("Content-Type"), name)
		body, err := io.ReadAll(s.answer.Body)
		require.NoError(t, err)
		require.Contains(t, string(body), `"code"`)
	}
}

func TestStreamResyncs(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := g.connect(t, producer())
	token := w.token(t, grant{scopes: []string{"operator.read"}})
	at, err := parseCursor(p.publish("note", nil).Cursor)
	require.NoError(t, err)
	s := g.open(t, token, url.Values{"types": {"note"}}, position{origin: at.origin - 5, seq: 1}.String(), false)
	resync := s.event()
	require.Equal(t, "resync", resync.kind)
	live := p.publish("note", nil)
	require.Equal(t, live.EventID, s.event().frame.EventID)
	back := g.open(t, token, url.Values{"types": {"note"}}, resync.id, false)
	require.Equal(t, live.EventID, back.event().frame.EventID, "its id is where it goes on")
}

func TestStreamEnds(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	lapsing := g.open(t, w.token(t, grant{scopes: []string{"events.read"}, expires: time.Now().Add(2 * time.Second)}), nil, "", false)
	draining := g.open(t, w.token(t, grant{scopes: []string{"events.read"}}), nil, "", false)
	_, more := lapsing.next()
	require.False(t, more, "the token lapsed")
	require.Equal(t, 1, g.streams.places.count())
	p := g.connect(t, producer())
	p.publish("note", nil)
	for e := draining.event(); e.kind != "note"; e = draining.event() {
		require.NotEmpty(t, e.id)
	}
	require.NoError(t, g.stop(t))
	for more := true; more; {
		_, more = draining.next()
	}
	require.NoError(t, draining.lines.Err(), "it ends in order")
	require.Zero(t, g.streams.places.count())
}

// TestStreamsPerTenant fills a tenant's places.
func TestStreamsPerTenant(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t, func(c *Config) { c.MaxConnections = 2 })
	token := w.token(t, grant{scopes: []string{"events.read"}})
	first := g.open(t, token, nil, "", false)
	g.open(t, token, nil, "", false)
	require.Equal(t, http.StatusTooManyRequests, g.open(t, token, nil, "", false).answer.StatusCode)
	other := g.open(t, w.token(t, grant{tenant: "globex", scopes: []string{"events.read"}}), nil, "", false)
	require.Equal(t, http.StatusOK, other.answer.StatusCode)
	first.close()
	within(t, func() bool { return g.streams.places.count() == 2 })
	require.Equal(t, http.StatusOK, g.open(t, token, nil, "", false).answer.StatusCode)
}

// TestSlowStream never reads: the stream is closed, and the one beside it goes on.
func TestSlowStream(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	g := w.gateway(t)
	p := w.presence(t)
	token := w.token(t, grant{scopes: []string{"operator.read"}})
	g.open(t, token, nil, "", false)
	fast := g.open(t, token, url.Values{"types": {"presence.changed"}}, "", false)
	for i := 0; g.streams.places.count() == 2; i++ {
		require.Less(t, i, 1000, "the slow one is not closed at once")
		require.NoError(t, p.announceBig(t.Context(), "acme", "a1", 128<<10))
		require.Equal(t, "presence.changed", fast.event().kind)
	}
	require.NoError(t, p.status(t.Context(), "acme", "a2", subjects.StatusOnline, subjects.StatusOffline))
	require.Equal(t, "presence.changed", fast.event().kind)
}
