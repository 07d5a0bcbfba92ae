package replay

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"rollcall/services/presence/internal/machine"
	"rollcall/subjects"
)

// The transcripts in testdata say what is a difference and what is not. Events are
// stored, and applied as presence would; then rows are tampered with, and what stands
// below `compare` is found. Rewrite them with go test -rewrite and read the difference.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		t.Helper()
		s := newStage()
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return s.run(t, d)
		})
	})
}

const (
	tenant    = "acme"
	retention = 5 * time.Minute
)

// stage plays presence over a log of its own. Each event is stored a second after the
// one before.
type stage struct {
	log       []Message
	seq       uint64
	now       time.Time
	rows      map[string]json.RawMessage
	revisions map[string]uint64
	facts     Facts
	set       time.Time
}

func newStage() *stage {
	s := &stage{
		now:  time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC),
		rows: map[string]json.RawMessage{}, revisions: map[string]uint64{},
	}
	s.facts = Facts{
		First: 1, Alive: map[Gateway]bool{},
		Retention: func(string) time.Duration { return retention }, Set: func(string) time.Time { return s.set },
	}
	return s
}

func id(name string) string { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)).String() }

func device(name string) string { return subjects.InstanceIDOfSPKI([]byte(name)) }

// incarnation is that of a run, which sort by their numbers.
func incarnation(run string) string { return "0190000" + run + "-0000-7000-8000-000000000000" }

func (s *stage) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	arg := func(name, preset string) string {
		d.MaybeScanArgs(t, name, &preset)
		return preset
	}
	s.now = s.now.Add(time.Second)
	switch d.Cmd {
	case "wait":
		span, err := time.ParseDuration(arg("for", "1s"))
		require.NoError(t, err)
		s.now = s.now.Add(span)
	case "cut": // the log's beginning is gone
		s.facts.First = s.seq + 1
		s.log = nil
	case "wipe": // the bucket is made anew
		s.facts.Made = s.now
		clear(s.rows)
		clear(s.revisions)
	case "alive":
		s.facts.Alive[Gateway{device(arg("gateway", "g1")), incarnation(arg("run", "1"))}] = true
	case "settings":
		s.set = s.now
	case "damage":
		s.damage(t, s.key(d, arg), arg("field", ""), d.Input)
	case "lapse", "remove":
		key := s.key(d, arg)
		delete(s.rows, key)
		s.revisions[key]++
		if d.Cmd == "remove" {
			delete(s.revisions, key)
		}
	case "pruned":
		delete(s.rows, s.key(d, arg))
		s.store(t, subjects.InstancePresence(tenant, device(arg("device", "laptop")), "pruned"), "7",
			subjects.PresencePruned{InstanceID: device(arg("device", "laptop")), Reason: subjects.PrunedTTL})
	case "compare":
		return s.compare()
	default:
		s.event(t, d, arg)
	}
	return ""
}

func (s *stage) key(d *datadriven.TestData, arg func(name, preset string) string) string {
	if d.HasArg("device") {
		return subjects.InstanceKey(tenant, device(arg("device", "")))
	}
	return subjects.AgentKey(tenant, arg("agent", "ada"))
}

func (s *stage) damage(t *testing.T, key, field, value string) {
	t.Helper()
	if field == "" {
		s.rows[key] = json.RawMessage(value)
		s.revisions[key]++
		return
	}
	row := map[string]json.RawMessage{}
	require.NoError(t, json.Unmarshal(s.rows[key], &row))
	row[field] = json.RawMessage(value)
	s.save(t, key, row)
}

func (s *stage) save(t *testing.T, key string, row any) {
	t.Helper()
	data, err := json.Marshal(row)
	require.NoError(t, err)
	s.rows[key] = data
	s.revisions[key]++
}

func (s *stage) store(t *testing.T, subject subjects.Subject, cause string, payload any) subjects.Event {
	t.Helper()
	s.seq++
	event, err := subjects.NewEvent(id(fmt.Sprint("event", s.seq)), subject.Type(), s.now, subjects.Scope{Kind: subjects.ScopeGlobal}, payload)
	require.NoError(t, err)
	data, err := json.Marshal(event)
	require.NoError(t, err)
	s.log = append(s.log, Message{Seq: s.seq, Subject: subject.String(), Time: s.now, Cause: cause, Data: data})
	return event
}

// event stores an input and applies it. With `unseen` presence has not got to it, with
// `refused` it takes no notice of it, and with `silent` it announces nothing.
func (s *stage) event(t *testing.T, d *datadriven.TestData, arg func(name, preset string) string) {
	t.Helper()
	agent, conn, dev, lease := arg("agent", "ada"), id(arg("conn", "c1")), device(arg("device", "laptop")), id(arg("lease", "l1"))
	subject, payload := subjects.AgentConnection(tenant, agent, d.Cmd), any(nil)
	switch d.Cmd {
	case "opened":
		payload = subjects.ConnectionOpened{
			ConnectionID: conn, InstanceID: dev, GatewayID: device(arg("gateway", "g1")), Incarnation: incarnation(arg("run", "1")),
			Role: subjects.RoleClient, IP: "192.0.2.1",
		}
	case "closed":
		payload = subjects.ConnectionClosed{ConnectionID: conn, InstanceID: dev, Reason: arg("reason", subjects.ClosedByClient)}
	case "beacon":
		payload = subjects.ConnectionBeacon{ConnectionID: conn, InstanceID: dev, Reported: subjects.Reported{Host: arg("host", ""), Version: arg("version", "")}}
	case "granted", "expired", "claimed":
		subject = subjects.AgentLease(tenant, agent, d.Cmd)
		payload = subjects.LeaseTransition{Lease: subjects.LeaseRow{LeaseID: lease, AgentID: agent, ConnectionID: conn}}
	default:
		t.Fatalf("unknown command %q", d.Cmd)
	}
	event := s.store(t, subject, "", payload)
	if d.HasArg("unseen") || d.HasArg("refused") || !machine.Concerns(subject) {
		return
	}
	fact, instance, err := machine.FactOf(event)
	require.NoError(t, err)
	in := machine.Input{Seq: s.seq, EventID: event.EventID, Type: event.Type, At: s.now, Fact: fact}
	s.apply(t, agent, instance, in, d.HasArg("silent"))
}

func (s *stage) apply(t *testing.T, agent, instance string, in machine.Input, silent bool) {
	t.Helper()
	row, key := subjects.OfflineAgent(agent), subjects.AgentKey(tenant, agent)
	s.load(t, key, &row)
	cause := subjects.Cause(in.Seq)
	next, effects := machine.Step(row, in)
	if machine.Saves(effects) {
		s.save(t, key, next)
	}
	for _, effect := range effects {
		if changed, is := effect.(machine.Changed); is && !silent {
			s.store(t, subjects.AgentPresence(tenant, agent), cause, changed.PresenceChanged)
		}
	}
	if instance == "" {
		return
	}
	shown, key := subjects.InstanceRow{InstanceID: instance}, subjects.InstanceKey(tenant, instance)
	s.load(t, key, &shown)
	shown, effects = machine.StepInstance(shown, agent, in, retention)
	if machine.Saves(effects) {
		s.save(t, key, shown)
	}
	for _, effect := range effects {
		if upserted, is := effect.(machine.Upserted); is && !silent {
			s.store(t, subjects.InstancePresence(tenant, instance, "upserted"), cause, subjects.PresenceUpserted{Entry: upserted.Entry})
		}
	}
}

func (s *stage) load(t *testing.T, key string, row any) {
	t.Helper()
	if data, is := s.rows[key]; is {
		require.NoError(t, json.Unmarshal(data, row))
	}
}

// compare fills a book as a run does and prints what it finds.
func (s *stage) compare() string {
	s.facts.Last = s.seq
	b := NewBook(s.facts)
	for key, revision := range s.revisions {
		b.Row(Row{Key: key, Value: s.rows[key], Revision: revision, Exists: s.rows[key] != nil})
	}
	for _, m := range s.log {
		b.Sign(m)
	}
	for _, m := range s.log {
		b.Apply(m)
	}
	r := run{book: b, pending: b.Keys(), report: Report{First: s.facts.First, Last: s.facts.Last, Rows: len(b.Keys())}}
	r.judgeAt(s.now, true)
	var out strings.Builder
	r.report.print(&out)
	return short(out.String())
}

// short gives ids the names they were made from.
func short(text string) string {
	for _, name := range []string{"c1", "c2", "c3", "l1", "l2"} {
		text = strings.ReplaceAll(text, id(name), name)
	}
	for _, name := range []string{"laptop", "phone", "g1", "g2"} {
		text = strings.ReplaceAll(text, device(name), name)
	}
	for i := range 100 {
		text = strings.ReplaceAll(text, id(fmt.Sprint("event", i)), fmt.Sprint("e", i))
	}
	return text
}
