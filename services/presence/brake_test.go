package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/services/presence/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// outage is three gateways with agents, of which it can take away all.
type outage struct {
	*stage
	gateways []*gateway
	agents   []string
}

func newOutage(s *stage) *outage {
	o := &outage{stage: s}
	for i := range 3 {
		g := s.gateway(fmt.Sprintf("g%d", i))
		o.gateways = append(o.gateways, g)
		for j := range 4 {
			agent := fmt.Sprintf("a-%d-%d", i, j)
			o.agents = append(o.agents, agent)
			g.open(agent, agent)
		}
	}
	s.eventually(func() bool { return len(s.events(subjects.TypePresenceChanged)) == len(o.agents) }, "not all online")
	return o
}

// strike lets the rows of all gateways lapse.
func (o *outage) strike() {
	for _, g := range o.gateways {
		g.beat(time.Second)
	}
}

func (o *outage) audits(name string) []stored {
	return o.events("audit.presence." + name)
}

func TestBrakeHoldsAFleetTogether(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		long := func(c *Config) { c.BrakeLimit = time.Hour }
		processes := []*process{s.start(long), s.start(long)}
		o := newOutage(s)
		o.strike()
		s.eventually(func() bool { return len(o.audits("brake_engaged")) == 2 }, "the brake does not engage")
		require.ElementsMatch(t, []string{"system", "acme"},
			[]string{o.audits("brake_engaged")[0].subject.Tenant, o.audits("brake_engaged")[1].subject.Tenant})
		var row subjects.BrakeRow
		require.True(t, s.read(subjects.PresenceBrakeKey, &row))
		require.True(t, row.Engaged)
		require.Equal(t, "gateways", row.Reason)
		require.GreaterOrEqual(t, len(row.Gateways), 2, "as many as make the half")
		for _, p := range processes {
			s.eventually(func() bool { return testutil.ToFloat64(p.metrics.brake) == 1 }, "a process does not see it")
		}
		// Long after the grace two return; the third is lost then, and not before.
		pauseFor(t, 4*processes[0].config.Grace)
		require.Len(t, s.events(subjects.TypePresenceChanged), len(o.agents), "somebody was taken to be offline")
		o.gateways[0].beat(0)
		o.gateways[1].beat(0)
		s.eventually(func() bool { return len(o.audits("brake_released")) == 2 }, "the brake does not release")
		for _, agent := range o.agents {
			if agent[2] == '2' {
				s.requireChanges(agent, online, offline)
			}
		}
		for _, agent := range o.agents[:8] {
			s.requireChanges(agent, online)
		}
		require.True(t, s.read(subjects.PresenceBrakeKey, &row))
		require.False(t, row.Engaged)
		require.Equal(t, "returned", row.Reason)
		require.Len(t, o.audits("brake_engaged"), 2, "once for each tenant")
	})
}

func TestBrakeGivesUp(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		p := s.start(func(c *Config) { c.BrakeLimit = 2 * time.Second })
		o := newOutage(s)
		o.strike()
		s.eventually(func() bool { return testutil.ToFloat64(p.metrics.brake) == 1 }, "the brake does not engage")
		for _, agent := range o.agents {
			s.requireChanges(agent, online, offline)
		}
		s.eventually(func() bool { return len(o.audits("brake_released")) >= 1 }, "not told")
		released, err := subjects.DecodePayload[subjects.BrakeChanged](o.audits("brake_released")[0].event)
		require.NoError(t, err)
		require.Equal(t, "limit", released.Reason)
		first := s.events(subjects.TypeConnectionClosed)[0]
		require.False(t, first.event.OccurredAt.Before(released.Since.Add(2*time.Second)), "it held for its whole limit")
		require.InDelta(t, 1, testutil.ToFloat64(p.metrics.brakeEngaged), 0)
	})
}

// TestBrakeIsAnnouncedByWhoeverIsThere lets the process that engages the brake die
// before it can say so.
func TestBrakeIsAnnouncedByWhoeverIsThere(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	since := time.Now().UTC().Truncate(time.Millisecond)
	s.save(subjects.PresenceBrakeKey, subjects.BrakeRow{Since: since, Until: since.Add(time.Second), Reason: "returned", Gateways: []string{"x"}})
	p := s.start()
	s.eventually(func() bool { return len(s.events("audit.presence.brake_released")) == 1 }, "not told")
	p.stop()
	s.forgetMessageIDs()
	s.start()
	s.gateway("g1").open("ada", "laptop")
	s.requireChanges("ada", online)
	require.Len(t, s.events("audit.presence.brake_released"), 1, "told once, however often presence starts")
}

// TestOpeningOfADeadIncarnation stores an opening that was on its way when its
// gateway was started anew.
func TestOpeningOfADeadIncarnation(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		p := s.start()
		g := s.gateway("g1")
		old := *g
		g.live()
		g.open("ada", "laptop")
		s.requireChanges("ada", online)
		late := old.open("bob", "tablet")
		screen := old.open("", "screen")
		again := old.open("ada", "laptop")
		s.eventually(func() bool { return len(s.events(subjects.TypeConnectionClosed)) == 3 }, "not closed")
		for _, e := range s.events(subjects.TypeConnectionClosed) {
			closed, err := subjects.DecodePayload[subjects.ConnectionClosed](e.event)
			require.NoError(t, err)
			require.Equal(t, subjects.ClosedGatewayLost, closed.Reason)
			require.Contains(t, []string{late.id, screen.id, again.id}, closed.ConnectionID)
		}
		g.open("last", "last")
		s.requireChanges("last", online)
		require.Empty(t, s.changes("bob"))
		s.requireChanges("ada", online)
		require.Positive(t, testutil.ToFloat64(p.metrics.openRefused))
	})
}

// TestDeathBetweenRowAndAnnouncement has presence die after it saved the rows of an
// opening, and the opening's gateway start anew before it is handled again: what the
// rows say is announced all the same.
func TestDeathBetweenRowAndAnnouncement(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		g := s.gateway("g1")
		for _, p := range []*peer{{agent: "ada", instance: "laptop"}, {instance: "screen"}} {
			p.gateway, p.tenant, p.id, p.instance = g, "acme", subjects.NewID(), subjects.InstanceIDOfSPKI([]byte(p.instance))
			id := subjects.NewID()
			in := machine.Input{
				Seq: p.publish("opened", id, p.opened()), EventID: id, Type: subjects.TypeConnectionOpened,
				At: time.Now().UTC(), Fact: machine.Opened{ConnectionOpened: p.opened()},
			}
			if p.agent != "" {
				row, _ := machine.Step(subjects.OfflineAgent(p.agent), in)
				s.save(subjects.AgentKey(p.tenant, p.agent), row)
				continue
			}
			row, _ := machine.StepInstance(subjects.InstanceRow{InstanceID: p.instance}, "", in, time.Minute)
			s.save(subjects.InstanceKey(p.tenant, p.instance), row)
		}
		g.live()
		s.start()
		s.requireChanges("ada", online, subjects.StatusOffline)
		s.eventually(func() bool { return len(s.events(subjects.TypeConnectionClosed)) == 2 }, "not closed")
		screen := subjects.InstanceIDOfSPKI([]byte("screen"))
		s.eventually(func() bool {
			var upserted int
			for _, e := range s.events(subjects.TypePresenceUpserted) {
				if e.subject.Instance == screen {
					upserted++
				}
			}
			return upserted == 2
		}, "the screen's coming and going is not announced")
	})
}

// TestRefusalOvertakenByARow has one process refuse an opening of a dead incarnation
// that another, which stood still meanwhile, then saves all the same: the row is cleared
// at once, although the refusal has closed the connection before.
func TestRefusalOvertakenByARow(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start()
		// Each by a gateway of its own: what one lost gateway holds is closed at once,
		// and what turns up later a minute after that.
		g, other := s.gateway("g1"), s.gateway("g2")
		old, older := *g, *other
		g.live()
		other.live()
		g.open("ada", "laptop")
		other.open("eve", "phone")
		s.requireChanges("ada", online)
		s.requireChanges("eve", online)
		late := []*peer{old.open("bob", "tablet"), older.open("", "screen")}
		s.eventually(func() bool { return len(s.events(subjects.TypeConnectionClosed)) == len(late) }, "not refused")
		opened := s.events(subjects.TypeConnectionOpened)
		for i, p := range late {
			e := opened[len(opened)-len(late)+i]
			in := machine.Input{
				Seq: e.seq, EventID: e.event.EventID, Type: e.event.Type,
				At: e.at, Fact: machine.Opened{ConnectionOpened: p.opened()},
			}
			if p.agent != "" {
				row, _ := machine.Step(subjects.OfflineAgent(p.agent), in)
				s.save(subjects.AgentKey(p.tenant, p.agent), row)
				continue
			}
			row, _ := machine.StepInstance(subjects.InstanceRow{InstanceID: p.instance}, "", in, time.Minute)
			s.save(subjects.InstanceKey(p.tenant, p.instance), row)
		}
		s.eventually(func() bool { return s.agent("bob").Status == subjects.StatusOffline }, "a ghost")
		s.eventually(func() bool {
			row, _ := s.instance("screen")
			return row.ConnectionID == ""
		}, "a ghost")
	})
}

// standStill makes JetStream not answer a process until it is told to: what a server
// that stands still looks like.
func (s *stage) standStill(p *process) (answers func()) {
	s.t.Helper()
	s.eventually(func() bool { return p.pulse.Answers(time.Now()) }, "JetStream does not answer")
	pauseFor(s.t, 5*reaperTick) // the reaper has seen that it does
	over, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			p.pulse.Felt(time.Now().Add(-time.Minute))
			select {
			case <-over:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	return func() {
		close(over)
		<-done
	}
}

// TestNothingIsLostWhilePresenceIsBlind lets JetStream stop answering presence, and
// gateways lapse meanwhile.
func TestNothingIsLostWhilePresenceIsBlind(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	p := s.start()
	g := s.gateway("g1")
	g.open("ada", "laptop")
	s.requireChanges("ada", online)
	answers := s.standStill(p)
	g.beat(time.Second)
	s.eventually(func() bool { return len(p.gateways.snapshot()) == 0 }, "the row does not lapse")
	pauseFor(t, 3*p.config.Grace)
	answers()
	g.beat(0)
	g.open("end", "end")
	s.requireChanges("end", online)
	s.requireChanges("ada", online)
}

// TestNotReadyWithoutJetStream takes JetStream away and leaves the connection.
func TestNotReadyWithoutJetStream(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	p := s.start()
	s.server.StopJetStream(t)
	s.eventually(func() bool { return p.health.Ready() != nil }, "ready without JetStream")
	require.ErrorContains(t, p.health.Ready(), "JetStream does not answer")
	s.server.Restart(t)
	s.eventually(func() bool { return p.health.Ready() == nil }, "not ready with JetStream")
}

// TestJetStreamGoesDuringTheStart takes JetStream away when everything is known and
// nothing is done yet: the process waits for it, however long that takes.
func TestJetStreamGoesDuringTheStart(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	p := s.opened()
	s.server.StopJetStream(t)
	close(p.synced)
	ctx, cancel := context.WithCancel(t.Context())
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return p.serve(ctx, group) })
	pauseFor(t, 6*time.Second) // longer than a question without a deadline is asked
	require.NoError(t, ctx.Err(), "it gave up")
	require.ErrorContains(t, p.health.Ready(), "starting")
	s.server.Restart(t)
	s.eventually(func() bool { return p.health.Ready() == nil }, "presence is not ready")
	cancel()
	require.NoError(t, group.Wait())
}

// TestWhoIsMissingAfterAStallIsHeld lets one gateway of two not come back when JetStream
// answers again.
func TestWhoIsMissingAfterAStallIsHeld(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	p := s.start(func(c *Config) { c.BrakeLimit = 4 * time.Second })
	lives, dies := s.gateway("g1"), s.gateway("g2")
	lives.open("ada", "laptop")
	dies.open("bob", "phone")
	s.requireChanges("ada", online)
	s.requireChanges("bob", online)
	answers := s.standStill(p)
	dies.beat(time.Second)
	s.eventually(func() bool { return len(p.gateways.snapshot()) == 1 }, "the row does not lapse")
	answers()
	s.eventually(func() bool { return testutil.ToFloat64(p.metrics.brake) == 1 }, "the brake does not engage")
	s.requireChanges("bob", online, offline)
	s.requireChanges("ada", online)
	s.eventually(func() bool { return len(s.events("audit.presence.brake_released")) >= 1 }, "not told")
	engaged, err := subjects.DecodePayload[subjects.BrakeChanged](s.events("audit.presence.brake_engaged")[0].event)
	require.NoError(t, err)
	require.Equal(t, machine.BrakeStall, engaged.Reason)
	closed := s.events(subjects.TypeConnectionClosed)[0]
	require.False(t, closed.event.OccurredAt.Before(engaged.Since.Add(4*time.Second)), "it held for its whole limit")
}

// TestWhoIsMissingAfterAStallBeforeTheStart is that with a process that starts while
// JetStream does not answer.
func TestWhoIsMissingAfterAStallBeforeTheStart(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	before := s.start()
	lives, dies := s.gateway("g1"), s.gateway("g2")
	lives.open("ada", "laptop")
	dies.open("bob", "phone")
	s.requireChanges("ada", online)
	s.requireChanges("bob", online)
	before.stop()
	dies.beat(time.Second)
	s.server.StopJetStream(t)
	const limit = 6 * time.Second
	p := s.begin(func(c *Config) { c.BrakeLimit, c.Grace = limit, 2*time.Second })
	pauseFor(t, 2*bus.SilentAfter)
	s.server.Restart(t)
	p.requireReady(s)
	ready := time.Now()
	lives.beat(0)
	s.requireChanges("bob", online, offline)
	s.requireChanges("ada", online)
	closed := s.events(subjects.TypeConnectionClosed)[0]
	require.False(t, closed.event.OccurredAt.Before(ready.Add(limit)), "it held for its whole limit")
	require.NotEmpty(t, s.events("audit.presence.brake_engaged"))
}

// TestSight tells a stall of JetStream from one of this process.
func TestSight(t *testing.T) {
	t.Parallel()
	now := time.Unix(1000, 0)
	owners, alive := []machine.Owner{{Gateway: "g1"}, {Gateway: "g2"}}, map[string]string{"g1": ""}
	pass := func(v *sight, d time.Duration, paused, answered bool) []string {
		now = now.Add(d)
		v.look(now, paused, answered)
		return v.stayed(now, owners, alive)
	}
	v := &sight{grace: 4 * time.Second, asleep: true}
	require.Empty(t, pass(v, 0, false, false), "it has just begun")
	require.Empty(t, pass(v, time.Second, false, true))
	require.Empty(t, pass(v, 3*time.Second, false, true))
	require.Empty(t, pass(v, time.Minute, true, false), "it stood still itself")
	require.Empty(t, pass(v, time.Second, false, true))
	require.Empty(t, pass(v, 3*time.Second, false, true))
	require.Empty(t, pass(v, time.Second, false, false), "JetStream stands still")
	require.Empty(t, pass(v, time.Minute, false, true), "whoever lives says so first")
	require.Equal(t, []string{"g2"}, pass(v, 3*time.Second, false, true))
	delete(alive, "g1")
	require.Equal(t, []string{"g2"}, pass(v, 4*time.Second, false, true), "who is missing later was lost later")
	require.Empty(t, pass(v, time.Second, false, true), "that was long ago")
}

// pauseFor waits where nothing that could be waited for must happen.
func pauseFor(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// save writes a row as presence would.
func (s *stage) save(key string, row any) {
	s.t.Helper()
	value, err := json.Marshal(row)
	require.NoError(s.t, err)
	entry, err := s.rows.Get(s.t.Context(), key)
	require.NoError(s.t, err)
	_, err = s.rows.Save(s.t.Context(), key, value, entry.Revision, 0)
	require.NoError(s.t, err)
}
