package rollcall

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestTables(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.fleet()
	for name, args := range map[string][]string{
		"agents": {"presence"}, "instances": {"presence", "instances"}, "leases": {"leases"}, "connections": {"connections"}, "history": {"history", "ada", "--all"},
		"past": {"presence", "--at", "2026-11-26T18:01:35Z"},
	} {
		o := call(t, f, args...)
		require.NoError(t, o.err)
		require.Empty(t, o.stderr)
		golden(t, name, o.stdout)
	}
}

// Every page is read, and a row comes out as it is, keys that nobody knows yet
// included.
func TestJSONLines(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.fleet()
	f.rows["agents"] = append(f.rows["agents"], json.RawMessage(`{"agent_id":"zed","status":"online","new_key":"<&>"}`))
	o := call(t, f, "presence", "--json")
	require.NoError(t, o.err)
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	require.Len(t, lines, 6)
	for i, id := range []string{"ada", "bob", "cyd", "dan", "eve", "zed"} {
		var row subjects.AgentRow
		require.NoError(t, json.Unmarshal([]byte(lines[i]), &row))
		require.Equal(t, id, row.AgentID)
	}
	require.Contains(t, lines[5], `"new_key":`)
	require.Equal(t, []string{"/presence?kind=agents&limit=1000", "/presence?after=after-2&kind=agents&limit=1000", "/presence?after=after-4&kind=agents&limit=1000"}, f.asked)

	o = call(t, f, "leases", "--json")
	require.NoError(t, o.err)
	require.Equal(t, 3, strings.Count(o.stdout, "\n"))
}

// Leases come in one order, whatever they are printed as and whatever page they are on: by state,
// and of one state the oldest first; of what is over, the newest.
func TestLeasesInOrder(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	lease := func(id string, row subjects.LeaseRow) any {
		row.LeaseID, row.AgentID, row.RequestedAt = id, "agent-of-"+id, at(1)
		return row
	}
	f.rows["leases"] = []any{
		lease("over-old", subjects.LeaseRow{State: subjects.LeaseConsumed, EndedAt: at(5)}),
		lease("claimed-new", subjects.LeaseRow{State: subjects.LeaseClaimed, ResolvedAt: at(2), ClaimedAt: at(9)}),
		lease("over-new", subjects.LeaseRow{State: subjects.LeaseConsumed, EndedAt: at(6)}),
		lease("granted", subjects.LeaseRow{State: subjects.LeaseGranted, ResolvedAt: at(2)}),
		lease("of-tomorrow", subjects.LeaseRow{State: "PARKED"}),
		lease("claimed-old", subjects.LeaseRow{State: subjects.LeaseClaimed, ResolvedAt: at(3), ClaimedAt: at(8)}),
		lease("pending", subjects.LeaseRow{State: subjects.LeasePending}),
		lease("held", subjects.LeaseRow{State: subjects.LeaseHold, ResolvedAt: at(4)}),
	}
	want := []string{"claimed-old", "claimed-new", "pending", "held", "granted", "over-new", "over-old", "of-tomorrow"}
	for _, args := range [][]string{{"leases"}, {"leases", "--json"}} {
		o := call(t, f, args...)
		require.NoError(t, o.err)
		var got []string
		for line := range strings.Lines(o.stdout) {
			var row subjects.LeaseRow
			if json.Unmarshal([]byte(line), &row) != nil {
				row.LeaseID = strings.Fields(line)[0]
			}
			if row.LeaseID != "LEASE" {
				got = append(got, row.LeaseID)
			}
		}
		require.Equal(t, want, got, args)
	}
}

func TestQueries(t *testing.T) {
	t.Parallel()
	for want, args := range map[string][]string{
		"/presence?kind=agents&limit=1000&prefix=a&status=working":        {"presence", "--status", "working", "--prefix=a"},
		"/presence?kind=instances&limit=1000&role=node":                   {"presence", "--role", "node", "instances"},
		"/presence?kind=agents&limit=1000&role=node&uncertain=true":       {"presence", "--role", "node", "--uncertain"},
		"/presence?at=2026-11-26T03%3A12%3A00Z&kind=agents&limit=1000":    {"presence", "--at", "2026-11-26T03:12:00Z"},
		"/agents/ada/history?include=all&limit=1000":                      {"history", "--all", "ada"},
		"/connections?agent_id=ada&gateway_id=dev_g&limit=1000&role=node": {"connections", "--agent", "ada", "--role", "node", "--gateway", "dev_g"},
		"/leases?agent_id=ada&limit=1000&state=CLAIMED":                   {"leases", "--state", "claimed", "--agent", "ada"},
	} {
		f := newFake(t)
		require.NoError(t, call(t, f, args...).err)
		require.Equal(t, []string{want}, f.asked)
	}
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	bad := problem(http.StatusBadRequest, `{"title":"Bad Request","status":400,"detail":"status must be online, working or offline","code":"invalid_request","details":{"field":"status","rule":"must be online, working or offline"}}`)
	forbidden := problem(http.StatusForbidden, `{"title":"Forbidden","status":403,"detail":"the token does not allow it","code":"forbidden","details":{"scope":"presence.read"}}`)
	away := problem(http.StatusServiceUnavailable, `{"title":"Service Unavailable","status":503,"detail":"not now","code":"unavailable","details":{"retry_after_ms":20}}`)
	for name, c := range map[string]struct {
		args    []string
		answers []http.HandlerFunc
		code    int
		says    string
	}{
		"fine":              {args: []string{"presence"}},
		"nothing is fine":   {args: []string{"leases"}},
		"nothing is not":    {args: []string{"leases", "--fail-empty"}, code: 5, says: "rollcall: nothing matches"},
		"nothing, as JSON":  {args: []string{"presence", "--json", "--fail-empty"}, code: 5, says: "rollcall: nothing matches"},
		"help":              {args: []string{"--help"}, says: "usage: rollcall COMMAND"},
		"help of a command": {args: []string{"leases", "--help"}, says: "exit codes:"},
		"no command":        {code: 2, says: "a command is missing"},
		"unknown command":   {args: []string{"tidy"}, code: 2, says: `unknown command "tidy"`},
		"unknown flag":      {args: []string{"leases", "--nope"}, code: 2, says: "unknown flag --nope"},
		"a token as flag":   {args: []string{"leases", "--token", "x"}, code: 2, says: "unknown flag --token"},
		"unknown kind":      {args: []string{"presence", "nodes"}, code: 2, says: "KIND: must be agents or instances"},
		"bad tenant":        {args: []string{"leases", "--tenant", "../x"}, code: 2, says: "--tenant: "},
		"bad address":       {args: []string{"leases", "--url", "ftp://x"}, code: 2, says: "--url: must be http://host:port"},
		"a password":        {args: []string{"leases", "--url", "http://u:p@x"}, code: 2, says: "--url: must not hold a user"},
		"bad count":         {args: []string{"events", "--count=-1"}, code: 2, says: "--count: must not be negative"},
		"no agent":          {args: []string{"history"}, code: 2, says: "AGENT: is required"},
		"no agent's id":     {args: []string{"history", "../leases"}, code: 2, says: "AGENT: "},
		"no time":           {args: []string{"presence", "--at", "noon"}, code: 2, says: "is not a time"},
		"a watch of then":   {args: []string{"presence", "--watch", "--at", "2026-11-26T03:12:00Z"}, code: 2, says: "not with --watch"},
		"watch and role":    {args: []string{"presence", "--watch", "--role", "node"}, code: 2, says: "goes with --watch of instances only"},
		"watch and doubt":   {args: []string{"presence", "--watch", "--uncertain"}, code: 2, says: "does not go with --watch"},
		"watch and empty":   {args: []string{"presence", "--watch", "--fail-empty"}, code: 2, says: "does not go with --watch"},
		"the gateway says it is wrong": {
			args: []string{"presence", "--status", "busy"}, answers: []http.HandlerFunc{bad}, code: 2,
			says: "rollcall: GET /presence: 400 Bad Request: status must be online, working or offline (field: status; rule: must be online, working or offline)",
		},
		"forbidden": {
			args: []string{"presence"}, answers: []http.HandlerFunc{forbidden}, code: 3,
			says: "rollcall: GET /presence: 403 Forbidden: the token does not allow it (scope: presence.read)",
		},
		"away for a moment": {args: []string{"presence"}, answers: []http.HandlerFunc{away, away}},
		"away":              {args: []string{"presence", "--timeout", "50ms"}, answers: []http.HandlerFunc{away, away, away, away, away}, code: 4, says: "503 Service Unavailable: not now"},
		"no JSON":           {args: []string{"presence"}, answers: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) }}, code: 1, says: "the answer makes no sense"},
		"another server":    {args: []string{"presence"}, answers: []http.HandlerFunc{http.NotFound}, code: 1, says: "404 Not Found: 404 page not found"},
		"broken server": {
			args: []string{"presence"}, code: 1, says: `500 Internal Server Error: \x1b[31mred`,
			answers: []http.HandlerFunc{func(w http.ResponseWriter, _ *http.Request) {
				http.Error(w, "\x1b[31mred\nmore", http.StatusInternalServerError)
			}},
		},
		"a redirect takes no token along": {
			args: []string{"presence"}, code: 1, says: "302 Found",
			answers: []http.HandlerFunc{func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, "http://elsewhere.invalid/", http.StatusFound)
			}},
		},
		"a listing that stands still": {
			args: []string{"leases"}, code: 1, says: "does not go on",
			answers: []http.HandlerFunc{answerJSON(`{"items":[],"next":"x"}`), answerJSON(`{"items":[],"next":"x"}`)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFake(t)
			for _, handler := range c.answers {
				f.answer("/presence", handler)
				f.answer("/leases", handler)
			}
			o := call(t, f, c.args...)
			require.Equal(t, c.code, o.code, "%v", o.err)
			if c.says != "" {
				require.ErrorContains(t, o.err, c.says)
			}
		})
	}
}

func answerJSON(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(text)) }
}

// gone is an address where nobody listens.
func gone(t *testing.T) string {
	t.Helper()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	return server.URL
}

func TestReach(t *testing.T) {
	t.Parallel()
	token := "ROLLCALL_TOKEN=" + secret

	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		for _, command := range []string{"presence", "leases", "events"} {
			o := callWith(t, t.Context(), []string{token, "ROLLCALL_URL=" + gone(t)}, command)
			require.Equal(t, exitUnreachable, o.code, command)
			require.ErrorContains(t, o.err, "no gateway answers")
		}
	})

	t.Run("nobody answers", func(t *testing.T) {
		t.Parallel()
		f := newFake(t)
		f.answer("/presence", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
		o := call(t, f, "presence", "--timeout", "100ms")
		require.Equal(t, exitUnreachable, o.code, "%v", o.err)
	})

	t.Run("the second answers", func(t *testing.T) {
		t.Parallel()
		f := newFake(t)
		f.fleet()
		o := callWith(t, t.Context(), []string{token, "ROLLCALL_URL=" + gone(t) + "," + f.URL}, "presence", "--json")
		require.NoError(t, o.err)
		require.Equal(t, 5, strings.Count(o.stdout, "\n"))
	})

	t.Run("a bad token", func(t *testing.T) {
		t.Parallel()
		o := callWith(t, t.Context(), []string{"ROLLCALL_TOKEN=other", "ROLLCALL_URL=" + newFake(t).URL}, "presence")
		require.Equal(t, exitRefused, o.code)
		require.ErrorContains(t, o.err, "401 Unauthorized: a valid access token is required")
	})

	t.Run("interrupted listings are none", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		f := newFake(t)
		f.answer("/presence", func(_ http.ResponseWriter, r *http.Request) { cancel(); <-r.Context().Done() })
		o := callWith(t, ctx, []string{token, "ROLLCALL_URL=" + f.URL}, "presence")
		require.Equal(t, exitFailure, o.code, "%v", o.err)
	})
}

func TestTokens(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	dir := t.TempDir()
	write := func(path, text string) string {
		path = filepath.Join(dir, path)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		return path
	}
	good := write("good", secret+"\n")
	write("one/tokens/acme.operator", secret+"\n")
	write("one/gateway.urls", gone(t)+"\n"+f.URL+"\n")
	write("two/tokens/acme.operator", "other")
	write("two/tokens/globex.operator", secret)
	write("odd/gateway.urls", "nonsense")
	write("odd/tokens/acme.operator", secret)
	url := "ROLLCALL_URL=" + f.URL
	for name, c := range map[string]struct {
		args, env []string
		code      int
		says      string
	}{
		"a file":                     {args: []string{"--token-file", good}, env: []string{url}},
		"a file by variable":         {env: []string{url, "ROLLCALL_TOKEN_FILE=" + good}},
		"a file before the variable": {args: []string{"--token-file", good}, env: []string{url, "ROLLCALL_TOKEN=other"}},
		"the stack's own":            {args: []string{"--dir", filepath.Join(dir, "one")}},
		"a stack by variable":        {env: []string{"ROLLCALL_DIR=" + filepath.Join(dir, "one"), "ROLLCALL_GATEWAYS=7"}},
		"the tenant's":               {args: []string{"--dir", filepath.Join(dir, "two"), "--tenant", "globex"}, env: []string{url}},
		"whose?":                     {args: []string{"--dir", filepath.Join(dir, "two")}, env: []string{url}, code: 2, says: "--tenant: must be one of acme, globex"},
		"nobody's":                   {args: []string{"--dir", filepath.Join(dir, "two"), "--tenant", "initech"}, env: []string{url}, code: 3, says: "no token"},
		"no stack":                   {args: []string{"--dir", filepath.Join(dir, "none")}, env: []string{url}, code: 3, says: "no token: give --token-file"},
		"no file":                    {args: []string{"--token-file", filepath.Join(dir, "none")}, env: []string{url}, code: 3, says: "no token"},
		"an empty file":              {args: []string{"--token-file", write("empty", "\n")}, env: []string{url}, code: 3, says: "the token is empty"},
		"no token at all":            {args: []string{"--token-file", write("prose", "to be\nor not")}, env: []string{url}, code: 2, says: "is not a token"},
		"a stack without gateways":   {args: []string{"--dir", filepath.Join(dir, "odd")}, code: 2, says: "does not say where a gateway is"},
	} {
		o := callWith(t, t.Context(), c.env, append([]string{"presence"}, c.args...)...)
		require.Equal(t, c.code, o.code, "%s: %v", name, o.err)
		if c.says != "" {
			require.ErrorContains(t, o.err, c.says, name)
		}
	}
}

// start runs a command that follows, until the test cancels it.
type running struct {
	stdout, stderr safeBuffer
	cancel         context.CancelFunc
	ended          chan error
}

func start(t *testing.T, f *fake, args ...string) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{cancel: cancel, ended: make(chan error, 1)}
	env := []string{"ROLLCALL_URL=" + f.URL, "ROLLCALL_TOKEN=" + secret}
	go func() {
		r.ended <- Main(ctx, args, env, Streams{In: strings.NewReader(""), Out: &r.stdout, Err: &r.stderr})
	}()
	t.Cleanup(func() { cancel() })
	return r
}

func (r *running) await(t *testing.T, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Contains(r.stdout.String(), text) }, 20*time.Second, 5*time.Millisecond, text)
}

// stop interrupts, as Ctrl-C does.
func (r *running) stop(t *testing.T) error {
	t.Helper()
	r.cancel()
	select {
	case err := <-r.ended:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("does not end")
		return nil
	}
}

// A tail goes on behind the last event it printed, and ends well by Ctrl-C.
func TestEventsResume(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.streams = []string{
		": alive\n\n" + changed(1, "ada", "offline", "online", "connected") + changed(2, "ada", "online", "offline", "disconnected"),
		"", // a stream that ends without an event
		frame(3, "run.started", map[string]string{"say": "\x1b[2Jhi"}),
	}
	r := start(t, f, "events", "--types", "presence.*", "--types", "run.*")
	r.await(t, "run.started")
	require.NoError(t, r.stop(t))
	golden(t, "events", r.stdout.String())
	require.Equal(t, []string{"c-0", "c-2", "c-2"}, f.lastIDs)
	require.Contains(t, f.asked, "/events?types=presence.%2A%2Crun.%2A")
	require.Contains(t, r.stderr.String(), "the gateway ended the stream; trying again")
	require.Contains(t, r.stderr.String(), "connected to "+f.URL+" again")
}

func TestEventsJSON(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.streams = []string{frame(1, "resync", map[string]string{"oldest": "c-1"}) + frame(2, "run.started", map[string]string{}) + frame(3, "run.started", map[string]string{})}
	o := call(t, f, "events", "--json", "--cursor", "old", "--count", "2")
	require.NoError(t, o.err)
	var kinds, cursors []string
	for one := range strings.SplitSeq(strings.TrimSpace(o.stdout), "\n") {
		var e event
		require.NoError(t, json.Unmarshal([]byte(one), &e))
		kinds, cursors = append(kinds, e.Type), append(cursors, e.Cursor)
	}
	require.Equal(t, []string{"resync", "run.started", "run.started"}, kinds, "a resync is none of the events that are counted")
	require.Equal(t, []string{"c-1", "c-2", "c-3"}, cursors)
	require.Contains(t, o.stderr, "older than what is kept")
	require.Equal(t, []string{"old"}, f.lastIDs)
}

// A token for events alone is enough for a tail; one whose time is over ends it.
func TestEventsRefused(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.answer("/presence", problem(http.StatusForbidden, `{"title":"Forbidden","detail":"no","details":{"scope":"presence.read"}}`))
	f.streams = []string{frame(1, "run.started", map[string]string{}), ""}
	f.answer("/events", func(w http.ResponseWriter, r *http.Request) {
		f.stream(w, r)
		f.answer("/events", problem(http.StatusUnauthorized, `{"title":"Unauthorized","detail":"a valid access token is required"}`))
	})
	o := call(t, f, "events")
	require.Equal(t, exitRefused, o.code, "%v", o.err)
	require.Contains(t, o.stdout, "run.started")
	require.Equal(t, []string{""}, f.lastIDs)
}

// A stream that says nothing at all is given up.
func TestSilentStream(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.streams = []string{"open"}
	g := newGateway([]string{f.URL}, secret, time.Second)
	defer g.close()
	follow := newTail(g, "*", "c-9")
	follow.quiet = 50 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	var lost error
	follow.lost = func(err error) { lost = err; cancel() }
	require.ErrorIs(t, follow.run(ctx, func(event) error { return nil }), context.Canceled)
	require.ErrorContains(t, lost, "nothing heard for 50ms")
}

func TestWatch(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	f.fleet()
	f.streams = []string{
		changed(101, "bob", "online", "working", "lease_granted") + changed(102, "ada", "working", "online", "lease_ended") + changed(103, "bob", "working", "offline", "gateway_lost"),
	}
	r := start(t, f, "presence", "--watch", "--prefix", "bob")
	r.await(t, "working → offline gateway_lost\n")
	require.NoError(t, r.stop(t))
	_, after, found := strings.Cut(r.stdout.String(), "eve")
	require.True(t, found, "the listing first")
	_, after, _ = strings.Cut(after, "\n")
	require.Equal(t, "2026-11-26T18:01:41Z  bob online → working lease_granted\n2026-11-26T18:01:43Z  bob working → offline gateway_lost\n", after)

	f.streams = []string{frame(104, "resync", map[string]string{}) + changed(105, "bob", "offline", "online", "connected")}
	r = start(t, f, "presence", "--watch", "--json", "--status", "online")
	r.await(t, `"event"`)
	require.NoError(t, r.stop(t))
	lines := strings.Split(strings.TrimSpace(r.stdout.String()), "\n")
	require.Len(t, lines, 13, "two listings and an event")
	require.JSONEq(t, `{"listing":{"cursor":"c-0","total":5}}`, lines[0])
	require.Contains(t, lines[1], `{"row":{`)
	require.JSONEq(t, `{"listing":{"cursor":"c-0","total":5}}`, lines[6])
	require.Contains(t, lines[12], `{"event":{`)

	f.streams = []string{
		frame(106, "presence.upserted", subjects.PresenceUpserted{Entry: subjects.InstanceRow{InstanceID: "dev_x", Role: "node", Reason: "disconnect"}}) +
			frame(107, "presence.pruned", subjects.PresencePruned{InstanceID: "dev_x", Reason: "ttl"}),
	}
	r = start(t, f, "presence", "instances", "--watch")
	r.await(t, "dev_x pruned ttl\n")
	require.Contains(t, r.stdout.String(), "dev_x node gone disconnect\n")
	require.NoError(t, r.stop(t))
}

func TestDiagnostics(t *testing.T) {
	t.Parallel()
	f := newFake(t)
	say := func(text string) { f.answer("/diagnostics", answerJSON(text)) }
	say("{\n \"build\": {}\n}")
	o := call(t, f, "diagnostics")
	require.NoError(t, o.err)
	require.Equal(t, "{\"build\":{}}\n", o.stdout)
	path := filepath.Join(t.TempDir(), "report.json")
	say(`{"build":{}}`)
	o = call(t, f, "diagnostics", "-o", path)
	require.NoError(t, o.err)
	require.Empty(t, o.stdout)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "{\"build\":{}}\n", string(data))
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	say("<html>")
	require.Equal(t, exitFailure, call(t, f, "diagnostics", "-o", path).code)
	say("{}")
	require.ErrorContains(t, call(t, f, "diagnostics", "-o", filepath.Join(path, "x")).err, "-o: ")
}
