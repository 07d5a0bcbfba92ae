package presence

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/services/presence/internal/replay"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// replayed runs the command on the stage and returns its report and exit code.
func (s *stage) replayed(args ...string) (replay.Report, int) {
	s.t.Helper()
	var out, stderr bytes.Buffer
	args = append([]string{"--json", "--nats-url", s.server.URL(), "--presence-retention", "1m", "--settle", "1s"}, args...)
	err := replay.Main(s.t.Context(), args, nil, &out, &stderr)
	code := 0
	if err != nil {
		coded, is := errors.AsType[daemon.Coded](err)
		require.True(s.t, is, "%v", err)
		code = coded.ExitCode()
	}
	var report replay.Report
	if code != 2 {
		require.NoError(s.t, json.Unmarshal(out.Bytes(), &report), out.String())
	}
	return report, code
}

// TestReplay holds that what presence makes of connects, leases, beacons, drops, a lost
// gateway and an opening of a dead one is what a replay makes of them, that a row that was
// tampered with is named, and that nothing is left behind.
func TestReplay(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start()
		g, lost := s.gateway("g1"), s.gateway("g2")
		ada, bob := g.open("ada", "laptop"), g.open("bob", "phone")
		doomed := lost.open("ada", "tower")
		lease := subjects.NewID()
		ada.lease("granted", lease)
		doomed.lease("granted", subjects.NewID())
		ada.beacon("2")
		alone := g.open("", "screen")
		alone.beacon("3")
		bob.close()
		s.requireChanges("bob", subjects.StatusOnline, subjects.StatusOffline)
		// Of the gateway that returned, whatever the one before it had still under way is
		// refused.
		dead := lost.incarnation
		lost.live()
		late := peer{gateway: &gateway{stage: s, id: lost.id, incarnation: dead}, tenant: "acme", agent: "eve", id: subjects.NewID(), instance: doomed.instance}
		late.publish("opened", subjects.NewID(), late.opened())
		s.eventually(func() bool { return len(s.agent("ada").Connections) == 1 }, "the lost gateway's connection is still there")
		s.eventually(func() bool { return len(s.events(subjects.TypeConnectionClosed)) == 3 }, "the late opening is not refused")

		report, code := s.replayed()
		require.Equal(t, []any{0, report.Rows}, []any{code, report.Equal}, "%+v", report)
		require.GreaterOrEqual(t, report.Rows, 6)

		key := subjects.AgentKey("acme", "ada")
		row := s.agent("ada")
		require.Equal(t, subjects.StatusWorking, row.Status)
		row.Status = subjects.StatusOnline
		s.overwrite(key, row)
		report, code = s.replayed()
		require.Equal(t, 1, code)
		require.Len(t, report.Differences, 1)
		found := report.Differences[0]
		require.Equal(t, []any{key, "status", `"online"`, `"working"`}, []any{found.Key, found.Field, found.Live, found.Replayed})
		require.Positive(t, found.Evidence.Seq)

		report, code = s.replayed("--tenant", "globex", "--keep")
		require.Equal(t, []any{0, 0, subjects.BucketReplay}, []any{code, report.Rows, report.Kept})
		_, code = s.replayed()
		require.Equal(t, 2, code, "one that was kept is not overwritten")
		_, code = s.replayed("--replace", "--keep")
		require.Equal(t, 1, code)
		kept, err := s.bucket(subjects.BucketReplay).Get(t.Context(), key)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(kept.Value, &row))
		require.Equal(t, subjects.StatusWorking, row.Status, "the kept bucket holds what the log gives")
		_, code = s.replayed("--replace")
		require.Equal(t, 1, code)
		_, err = s.conn.Bucket(t.Context(), subjects.BucketReplay)
		require.Error(t, err, "nothing is left behind")
	})
}

// overwrite replaces a row behind presence's back.
func (s *stage) overwrite(key string, row any) {
	s.t.Helper()
	entry, err := s.rows.Get(s.t.Context(), key)
	require.NoError(s.t, err)
	value, err := json.Marshal(row)
	require.NoError(s.t, err)
	_, err = s.rows.Save(s.t.Context(), key, value, entry.Revision, 0)
	require.NoError(s.t, err)
}

// TestReplayWhileRowsChange holds that a fleet that is in motion is no difference.
func TestReplayWhileRowsChange(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	s.start()
	g := s.gateway("g1")
	var peers []*peer
	for i := range 10 {
		peers = append(peers, g.open("agent-"+string(rune('a'+i)), "device-"+string(rune('a'+i))))
	}
	type result struct {
		out string
		err error
	}
	results := make(chan result, 1)
	go func() {
		var out, stderr bytes.Buffer
		err := replay.Main(t.Context(), []string{"--json", "--nats-url", s.server.URL(), "--settle", "5s"}, nil, &out, &stderr)
		results <- result{out.String(), err}
	}()
	for i, done := 0, false; !done; i++ {
		p := peers[i%len(peers)]
		switch i / len(peers) % 4 {
		case 0:
			p.lease("granted", p.id)
		case 1:
			p.beacon("1")
		case 2:
			p.lease("expired", p.id)
		default:
			p.close()
			peers[i%len(peers)] = g.open(p.agent, "device-"+strings.TrimPrefix(p.agent, "agent-"))
		}
		select {
		case r := <-results:
			done = true
			var report replay.Report
			require.NoError(t, r.err, r.out)
			require.NoError(t, json.Unmarshal([]byte(r.out), &report))
			require.Equal(t, []int{2 * len(peers), 2 * len(peers)}, []int{report.Rows, report.Equal}, "rows that are right where they are: %s", r.out)
		default:
		}
	}
	report, code := s.replayed("--settle", "45s") // presence may be far behind by now
	require.Equal(t, []any{0, report.Rows}, []any{code, report.Equal}, "%+v", report)
}

// TestReplayAsksForNoCopies holds that a row is looked at again by what the role replay
// may ask, which may not have messages copied.
func TestReplayAsksForNoCopies(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	p := s.start()
	s.gateway("g1").open("ada", "laptop")
	s.requireChanges("ada", online)
	s.eventually(func() bool { return len(s.events(subjects.TypePresenceUpserted)) == 1 }, "not announced")
	p.stop()
	row := s.agent("ada")
	row.Status = subjects.StatusWorking
	s.overwrite(subjects.AgentKey("acme", "ada"), row)
	copies, err := s.conn.NC().SubscribeSync("$JS.API.DIRECT.GET.>")
	require.NoError(t, err)
	report, code := s.replayed()
	require.Equal(t, 1, code)
	require.Len(t, report.Differences, 1)
	asked, _, err := copies.Pending()
	require.NoError(t, err)
	require.Zero(t, asked)
}

// TestReplayThatCannot holds that what keeps it from comparing is told apart from what
// it finds.
func TestReplayThatCannot(t *testing.T) {
	t.Parallel()
	for name, args := range map[string][]string{
		"no NATS there":  {"--nats-url", "nats://127.0.0.1:1", "--timeout", "1s"},
		"nothing stated": {"--dir", t.TempDir()},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var out bytes.Buffer
			err := replay.Main(t.Context(), args, nil, &out, &out)
			coded, is := errors.AsType[daemon.Coded](err)
			require.True(t, is, "%v", err)
			require.Equal(t, 2, coded.ExitCode())
		})
	}
	err := replay.Main(t.Context(), []string{"--tenant", "A", "--settle", "-1s", "--replicas", "9"}, nil, nil, nil)
	for _, want := range []string{"--tenant", "--settle", "--replicas"} {
		require.ErrorContains(t, err, want)
	}
}
