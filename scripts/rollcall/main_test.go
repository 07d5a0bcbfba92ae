package rollcall

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"rollcall/shared/daemon"
	"rollcall/subjects"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var update = flag.Bool("update", false, "write the goldens anew")

const secret = "eyJ0.s3cr3t"

// golden compares with a file of testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name+".golden")
	if *update {
		require.NoError(t, os.MkdirAll("testdata", 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// at is a moment of the made-up fleet.
func at(seconds int) time.Time {
	return time.Date(2026, 11, 26, 18, 0, 0, 0, time.UTC).Add(time.Duration(seconds) * time.Second)
}

// fake is a gateway of the test's making. A page has two rows, whatever limit is
// asked for.
type fake struct {
	*httptest.Server
	t *testing.T

	mu sync.Mutex
	// rows are what listings hold, by path and kind; of agents by default.
	rows map[string][]any
	// answers come before everything else, by path: each is used once.
	answers map[string][]http.HandlerFunc
	// streams are written to whoever opens /events, one after the other; the last
	// stays open.
	streams []string
	asked   []string
	lastIDs []string
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{t: t, rows: map[string][]any{}, answers: map[string][]http.HandlerFunc{}}
	f.Server = httptest.NewServer(http.HandlerFunc(f.serve))
	t.Cleanup(f.Close)
	return f
}

func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, r.URL.RequestURI())
	if queued := f.answers[r.URL.Path]; len(queued) > 0 {
		f.answers[r.URL.Path] = queued[1:]
		f.mu.Unlock()
		queued[0](w, r)
		return
	}
	f.mu.Unlock()
	switch {
	case r.Header.Get("Authorization") != "Bearer "+secret:
		problem(http.StatusUnauthorized, `{"title":"Unauthorized","status":401,"detail":"a valid access token is required","code":"unauthorized"}`)(w, r)
	case r.URL.Path == "/events":
		f.stream(w, r)
	case r.URL.Path == "/presence" && r.URL.Query().Get("kind") == "instances":
		f.page(w, r, "instances")
	case r.URL.Path == "/presence":
		f.page(w, r, "agents")
	case r.URL.Path == "/leases":
		f.page(w, r, "leases")
	case r.URL.Path == "/connections":
		f.page(w, r, "connections")
	case r.URL.Path == "/agents/ada/history":
		f.page(w, r, "history")
	default:
		http.NotFound(w, r)
	}
}

func (f *fake) page(w http.ResponseWriter, r *http.Request, of string) {
	f.mu.Lock()
	rows := slices.Clone(f.rows[of])
	f.mu.Unlock()
	body := map[string]any{"status": "ok", "generated_at": at(100), "cursor": "c-0", "total": len(rows)}
	from := 0
	_, _ = fmt.Sscanf(cmp.Or(r.URL.Query().Get("after"), r.URL.Query().Get("before")), "after-%d", &from)
	to := min(from+2, len(rows))
	body["items"] = rows[from:to]
	if to < len(rows) {
		body["next"] = fmt.Sprintf("after-%d", to)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

func (f *fake) stream(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.lastIDs = append(f.lastIDs, r.Header.Get("Last-Event-ID"))
	text, last := "", len(f.streams) <= 1
	if len(f.streams) > 0 {
		text = f.streams[0]
	}
	if !last {
		f.streams = f.streams[1:]
	} else {
		f.streams = nil
	}
	f.mu.Unlock()
	w.Header().Set("Content-Type", "text/event-stream")
	_, _ = fmt.Fprint(w, "retry: 2000\n\n"+text)
	_ = http.NewResponseController(w).Flush()
	if last {
		<-r.Context().Done()
	}
}

// answer queues an answer for a path.
func (f *fake) answer(path string, handler http.HandlerFunc) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[path] = append(f.answers[path], handler)
}

func problem(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/problem+json")
		w.WriteHeader(status)
		_, _ = fmt.Fprint(w, body)
	}
}

// frame is an event of a stream.
func frame(n int, kind string, payload any) string {
	data, err := json.Marshal(map[string]any{
		"event_id": fmt.Sprintf("e-%d", n), "type": kind, "occurred_at": at(n), "cursor": fmt.Sprintf("c-%d", n),
		"scope": map[string]string{"kind": "agent", "id": "ada"}, "payload": payload,
	})
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("id: c-%d\nevent: %s\ndata: %s\n\n", n, kind, data)
}

func changed(n int, agent string, from, to subjects.Status, reason string) string {
	return frame(n, subjects.TypePresenceChanged, subjects.PresenceChanged{
		AgentID: agent, Previous: from, Status: to, Reason: reason, Connections: 1, Since: at(n),
	})
}

// outcome is how a command ended.
type outcome struct {
	code           int
	stdout, stderr string
	err            error
}

// call runs a command against a fake gateway.
func call(t *testing.T, f *fake, args ...string) outcome {
	t.Helper()
	return callWith(t, t.Context(), []string{"ROLLCALL_URL=" + f.URL, "ROLLCALL_TOKEN=" + secret}, args...)
}

func callWith(t *testing.T, ctx context.Context, env []string, args ...string) outcome {
	t.Helper()
	var stdout, stderr safeBuffer
	err := Main(ctx, args, env, Streams{In: strings.NewReader(""), Out: &stdout, Err: &stderr})
	o := outcome{stdout: stdout.String(), stderr: stderr.String(), err: err, code: codeOf(err)}
	if err != nil {
		require.NotContains(t, err.Error(), secret)
	}
	require.NotContains(t, o.stdout+o.stderr, secret)
	return o
}

// codeOf is what [daemon.Main] makes of an error.
func codeOf(err error) int {
	var faults *daemon.SettingsError
	var coded daemon.Coded
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case errors.As(err, &faults):
		return exitUsage
	case errors.As(err, &coded):
		return coded.ExitCode()
	default:
		return exitFailure
	}
}

// safeBuffer may be read while it is written.
type safeBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// fleet fills a fake gateway.
func (f *fake) fleet() {
	link := subjects.AgentConnectionEntry{ConnectionID: "0191e5c0-0000-7000-8000-000000000001", InstanceID: "dev_a", GatewayID: "dev_gw", ConnectedAt: at(1)}
	working := link
	working.Leases = []string{"0191e5c0-0000-7000-8000-0000000000aa"}
	f.rows["agents"] = []any{
		subjects.AgentRow{
			AgentID: "ada", Status: subjects.StatusWorking, Since: at(40), Reason: subjects.ReasonLeaseGranted,
			Connections: []subjects.AgentConnectionEntry{working}, Evidence: &subjects.Evidence{Seq: 7, EventID: "e", Type: "lease.granted", At: at(40)},
		},
		subjects.AgentRow{
			AgentID: "bob", Status: subjects.StatusOnline, Since: at(10), Reason: subjects.ReasonConnected,
			Connections: []subjects.AgentConnectionEntry{link, link}, Evidence: &subjects.Evidence{Seq: 5, EventID: "e", Type: "connection.opened", At: at(10)},
		},
		subjects.AgentRow{AgentID: "cyd", Status: subjects.StatusOffline, Since: at(90), Reason: subjects.ReasonGatewayLost},
		subjects.OfflineAgent("dan"),
		subjects.AgentRow{AgentID: "eve", Status: subjects.StatusOnline, Since: at(-7200), Reason: subjects.ReasonConnected, Connections: []subjects.AgentConnectionEntry{link}},
	}
	f.rows["instances"] = []any{
		subjects.InstanceRow{InstanceID: "dev_gw", Role: subjects.RoleGateway, Version: "1.0.0", Mode: "backend", LastSeenAt: at(99), Reason: "self"},
		subjects.InstanceRow{
			InstanceID: "dev_a", Role: subjects.RoleClient, AgentID: "ada", Mode: "cli", Host: "box", IP: "127.0.0.1",
			ConnectionID: link.ConnectionID, LastSeenAt: at(70), Reason: "periodic", Reported: &subjects.ReportedAddress{Host: "ada-laptop", IP: "10.0.0.7"},
		},
		subjects.InstanceRow{InstanceID: "dev_b", Role: subjects.RoleNode, LastSeenAt: at(-200000), Reason: "disconnect", Host: "evil\x1b[2J"},
	}
	f.rows["connections"] = []any{
		connectionRow{
			ConnectionID: link.ConnectionID, InstanceID: "dev_a", AgentID: "ada", Role: "client", GatewayID: "dev_gateway05kpdqzv7fja3rmx2",
			ConnectedAt: at(1), IP: "127.0.0.1", Mode: "cli", Leases: working.Leases,
		},
		connectionRow{ConnectionID: "0191e5c0-0000-7000-8000-000000000002", Role: "node", GatewayID: "dev_gone", ConnectedAt: at(2), Uncertain: true},
	}
	f.rows["history"] = []any{
		eventOf(changed(3, "ada", "online", "offline", "gateway_lost")).raw,
		eventOf(changed(2, "ada", "working", "online", "lease_ended")).raw,
		eventOf(frame(1, "connection.opened", map[string]string{"ip": "127.0.0.1"})).raw,
	}
	f.rows["leases"] = []any{
		subjects.LeaseRow{
			LeaseID: "0191e5c0-0000-7000-8000-0000000000aa", AgentID: "ada", Resource: "deploy/prod", State: subjects.LeaseClaimed,
			Fence: 3, RequestedAt: at(40), ClaimExpiresAt: at(940), Verdict: &subjects.Verdict{Decision: "grant", By: "policy"},
		},
		subjects.LeaseRow{
			LeaseID: "0191e5c0-0000-7000-8000-0000000000bb", AgentID: "bob", Resource: "rm/ü\u202e", State: subjects.LeaseDenied,
			RequestedAt: at(20), EndedAt: at(20), Reason: "never",
		},
		subjects.LeaseRow{
			LeaseID: "0191e5c0-0000-7000-8000-0000000000cc", AgentID: "bob", Resource: "read/x", State: subjects.LeaseGranted,
			RequestedAt: at(95), ExpiresAt: at(155), Verdict: &subjects.Verdict{Decision: "grant", Reason: "default", By: "policy"},
		},
	}
}
