package lease

import (
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

const (
	requested  = subjects.TypeLeaseRequested
	granted    = subjects.TypeLeaseGranted
	denied     = subjects.TypeLeaseDenied
	held       = subjects.TypeLeaseHeld
	claimed    = subjects.TypeLeaseClaimed
	rolledBack = subjects.TypeLeaseRolledBack
	renewed    = subjects.TypeLeaseRenewed
	consumed   = subjects.TypeLeaseConsumed
	expired    = subjects.TypeLeaseExpired
	abandoned  = subjects.TypeLeaseAbandoned
)

func TestStoryOfALease(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.start(func(service *Service) { service.config.Retention = 3 * time.Second })
	ada, other := s.peer("ada"), s.peer("ada")

	lease := subjects.NewID()
	out := ok[subjects.LeaseOutcome](ada, "request", lease,
		subjects.LeaseRequest{Resource: "repo/site", Metadata: json.RawMessage(`{"ticket":7}`)})
	require.Equal(t, subjects.LeaseOutcome{LeaseID: lease, State: "GRANTED"}, out)
	require.Equal(t, uint64(1), ada.claim(lease))
	ok[subjects.LeaseOutcome](ada, "renew", lease, subjects.LeaseRenew{LeaseID: lease})
	back := ok[subjects.LeaseOutcome](other, "rollback", lease, subjects.LeaseRollback{LeaseID: lease, Fence: 1, Reason: "flaky"})
	require.Equal(t, "GRANTED", back.State)
	require.WithinDuration(t, time.Now().Add(time.Minute), back.ExpiresAt, 10*time.Second)
	require.Equal(t, uint64(2), ada.claim(lease))
	details := other.refused(subjects.CodeLeaseInvalid, "finalize", lease, subjects.LeaseFinalize{LeaseID: lease, Fence: 1})
	require.Equal(t, map[string]any{
		"lease_id": lease, "operation": "finalize", "state": "CLAIMED", "expected": []any{"CLAIMED"}, "fence": "stale",
	}, details)
	ok[subjects.LeaseOutcome](other, "finalize", lease, subjects.LeaseFinalize{LeaseID: lease, Fence: 2, MessageID: "m-1"})
	s.tells(lease, requested, granted, claimed, renewed, rolledBack, claimed, consumed)
	for _, e := range s.seen() {
		require.Equal(t, e.event.EventID, e.msgID, "event_id is the message id")
		require.Equal(t, subjects.Scope{Kind: "agent", ID: "ada"}, e.event.Scope)
		got, err := subjects.DecodePayload[subjects.LeaseTransition](e.event)
		require.NoError(t, err)
		require.Equal(t, "repo/site", got.Lease.Resource)
		require.JSONEq(t, `{"ticket":7}`, string(got.Lease.Metadata))
	}
	require.Equal(t, []string{granted}, ada.told())
	require.Empty(t, other.told())

	row := s.row("ada", lease)
	require.Equal(t, "m-1", row.MessageID)
	s.eventually(func() bool { return time.Since(row.EndedAt) > 1100*time.Millisecond }, "")
	other.refused(subjects.CodeLeaseInvalid, "renew", lease, subjects.LeaseRenew{LeaseID: lease})
	require.LessOrEqual(t, s.ttl(subjects.LeaseKey("acme", "ada", lease)), 2*time.Second, "a refused command does not prolong its row")
	s.eventually(func() bool { return !s.row("ada", lease).Exists() }, "an ended lease stays")
	other.refused(subjects.CodeLeaseNotFound, "claim", lease, subjects.LeaseClaim{LeaseID: lease})
	require.Empty(t, s.timers(), "no timer is left of a lease that ended")

	families, err := p.reg.Gather()
	require.NoError(t, err)
	names := map[string]bool{}
	for _, f := range families {
		names[f.GetName()] = true
	}
	for _, name := range []string{"transitions_total", "refusals_total", "command_lag_seconds", "claim_age_seconds", "oldest_claim_seconds", "leases"} {
		require.True(t, names["rollcall_lease_"+name], name)
	}
}

// ttl is the time to live that a row was stored with.
func (s *stage) ttl(key string) time.Duration {
	s.t.Helper()
	stream, err := s.conn.JS().Stream(s.t.Context(), rowsStream)
	require.NoError(s.t, err)
	msg, err := stream.GetLastMsgForSubject(s.t.Context(), rowsPrefix+key)
	require.NoError(s.t, err)
	ttl, err := time.ParseDuration(msg.Header.Get("Nats-TTL"))
	require.NoError(s.t, err)
	return ttl
}

// timers lists the schedule messages that wait.
func (s *stage) timers() []string {
	s.t.Helper()
	stream, err := s.conn.JS().Stream(s.t.Context(), subjects.StreamCommands)
	require.NoError(s.t, err)
	info, err := stream.Info(s.t.Context(), jetstream.WithSubjectFilter("tenant.*.lease.*.timer.schedule"))
	require.NoError(s.t, err)
	var found []string
	for subject := range info.State.Subjects {
		found = append(found, subject)
	}
	return found
}

func TestOneOfManyClaimsWins(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	s.start()
	ada := s.peer("ada")
	lease, _ := ada.request("repo", 0)
	const claims = 64
	commands := make([]string, claims)
	for i := range commands {
		commands[i] = ada.send("claim", lease, subjects.LeaseClaim{LeaseID: lease})
	}
	winners := 0
	for _, id := range commands {
		reply := s.reply(id)
		if reply.OK {
			winners++
			continue
		}
		require.Equal(t, subjects.CodeLeaseInvalid, reply.Error.Code)
		require.Equal(t, "CLAIMED", reply.Error.Details["state"])
	}
	require.Equal(t, 1, winners)
	require.Equal(t, uint64(1), s.row("ada", lease).Fence)
	for _, id := range commands {
		require.Len(t, s.replies(id), 1, "answered once")
	}
	s.tells(lease, requested, granted, claimed)
}

// TestManyLeasesOnTwoProcesses plays many lives at once, so that both processes
// meet rows and outboxes of each other.
func TestManyLeasesOnTwoProcesses(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	a, b := s.start(), s.start()
	const leases = 40
	ids := make([]string, leases)
	for i := range ids {
		ids[i] = subjects.NewID()
	}
	agents := make([]*peer, leases)
	rounds := func(name string, payload func(lease string) any) {
		commands := make([]string, leases)
		for i, lease := range ids {
			commands[i] = agents[i].send(name, lease, payload(lease))
		}
		for _, id := range commands {
			reply := s.reply(id)
			require.True(t, reply.OK, "%s: %+v", name, reply.Error)
		}
	}
	for i := range agents {
		agents[i] = s.peer(fmt.Sprintf("agent-%d", i%7))
	}
	rounds("request", func(string) any { return subjects.LeaseRequest{Resource: "repo"} })
	rounds("claim", func(lease string) any { return subjects.LeaseClaim{LeaseID: lease} })
	rounds("rollback", func(lease string) any { return subjects.LeaseRollback{LeaseID: lease, Fence: 1} })
	rounds("claim", func(lease string) any { return subjects.LeaseClaim{LeaseID: lease} })
	rounds("finalize", func(lease string) any { return subjects.LeaseFinalize{LeaseID: lease, Fence: 2} })
	for _, lease := range ids {
		s.tells(lease, requested, granted, claimed, rolledBack, claimed, consumed)
	}
	for _, p := range []*process{a, b} {
		count := 0.0
		families, err := p.reg.Gather()
		require.NoError(t, err)
		for _, f := range families {
			if f.GetName() == "rollcall_lease_transitions_total" {
				for _, m := range f.GetMetric() {
					count += m.GetCounter().GetValue()
				}
			}
		}
		require.Positive(t, count, "each process takes a share")
	}
}

// TestCommandsThatComeAgain stops the work on every command at every fault
// point. The command comes again; its answer and its events are stored once.
func TestCommandsThatComeAgain(t *testing.T) {
	t.Parallel()
	for point, every := range map[string]int64{FaultRowSaved: 1, FaultAnnounced: 1, FaultReplied: 2} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			s := newStage(t)
			crash := &crasher{point: point, every: every}
			s.start(crash.in)
			ada, op := s.peer("ada"), s.operator()
			s.policies(subjects.LeasePolicy{Prefix: "ask/", Policy: subjects.PolicyHook, HookTimeoutMS: new(int64(20_000))})
			mod := s.moderator()
			ok[struct{}](mod, "moderate", "", subjects.LeaseModerate{Resources: []string{"ask/"}})

			lease, state := ada.request("ask/1", 0)
			require.Equal(t, "PENDING", state)
			ok[subjects.LeaseResult](op, "resolve", lease, subjects.LeaseResolve{LeaseID: lease, AgentID: "ada", Verdict: "hold", Reason: "wait"})
			ok[subjects.LeaseResult](ada, "retry", lease, subjects.LeaseRetry{LeaseID: lease})
			got := ok[subjects.LeaseResult](op, "resolve", lease, subjects.LeaseResolve{LeaseID: lease, AgentID: "ada", Verdict: "grant"})
			require.Equal(t, "ask/1", got.Lease.Resource)
			require.Equal(t, uint64(1), ada.claim(lease))
			ok[subjects.LeaseOutcome](ada, "rollback", lease, subjects.LeaseRollback{LeaseID: lease, Fence: 1})
			ok[subjects.LeaseOutcome](ada, "renew", lease, subjects.LeaseRenew{LeaseID: lease})
			require.Equal(t, uint64(2), ada.claim(lease))
			ada.refused(subjects.CodeLeaseInvalid, "claim", lease, subjects.LeaseClaim{LeaseID: lease})
			ok[subjects.LeaseOutcome](ada, "finalize", lease, subjects.LeaseFinalize{LeaseID: lease, Fence: 2})

			s.tells(lease, requested, held, requested, granted, claimed, rolledBack, renewed, claimed, consumed)
			require.Equal(t, []string{held, granted}, ada.told())
			require.Len(t, received[subjects.EdgeRequest](s, mod.peer.ConnectionID), 2)
			require.Equal(t, []string{consumed}, op.told())
			s.mu.Lock()
			replies := map[string]int{}
			for _, d := range s.edge {
				if m, is := d.message.(subjects.EdgeReply); is {
					replies[m.CommandID]++
				}
			}
			s.mu.Unlock()
			for id, n := range replies {
				require.Equal(t, 1, n, id)
			}
			require.GreaterOrEqual(t, crash.hits.Load(), int64(4))
		})
	}
}

// TestAnswersAsTheFirstTime delivers old commands again, long after the lease
// has moved on.
func TestAnswersAsTheFirstTime(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.start()
	ada := s.peer("ada")
	lease := subjects.NewID()
	seq := uint64(1_000_000)
	type sent struct {
		message bus.Message
		first   string
	}
	var history []sent
	run := func(m bus.Message, seq uint64) string {
		d := s.delivery(m, seq)
		subject, err := subjects.Parse(d.Subject)
		require.NoError(t, err)
		command, err := subjects.DecodeCommand(d.Data)
		require.NoError(t, err)
		c := call{Service: p.Service, tenant: subject.Tenant, lease: subject.Lease, name: subject.Name, cause: causeOf(d), command: command}
		out, err := c.run(t.Context())
		require.NoError(t, err)
		text, err := json.Marshal([]any{out.result, out.problem})
		require.NoError(t, err)
		return string(text)
	}
	for _, step := range []struct {
		name    string
		payload any
	}{
		{"request", subjects.LeaseRequest{Resource: "repo", Metadata: json.RawMessage(`{"a":1}`)}},
		{"renew", subjects.LeaseRenew{LeaseID: lease}},
		{"claim", subjects.LeaseClaim{LeaseID: lease}},
		{"claim", subjects.LeaseClaim{LeaseID: lease}},
		{"finalize", subjects.LeaseFinalize{LeaseID: lease, Fence: 9}},
		{"rollback", subjects.LeaseRollback{LeaseID: lease, Fence: 1}},
		{"claim", subjects.LeaseClaim{LeaseID: lease}},
		{"retry", subjects.LeaseRetry{LeaseID: lease}},
		{"finalize", subjects.LeaseFinalize{LeaseID: lease, Fence: 2}},
	} {
		m, _ := ada.command(step.name, lease, step.payload)
		seq++
		history = append(history, sent{m, run(m, seq)})
	}
	s.tells(lease, requested, granted, renewed, claimed, rolledBack, claimed, consumed)
	entry, _ := s.entry("ada", lease)
	for i, h := range history {
		require.JSONEq(t, h.first, run(h.message, 1_000_001+uint64(i)), h.message.Subject)
	}
	again, _ := s.entry("ada", lease)
	require.Equal(t, entry.Revision, again.Revision, "nothing is written")
	require.Equal(t, []string{granted}, ada.told())
	s.tells(lease, requested, granted, renewed, claimed, rolledBack, claimed, consumed)
}

// TestOvertakenProcess lets one process save a row and stop there, and another
// one move the lease on. The events are stored in the order of the transitions.
func TestOvertakenProcess(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	stopped := s.start((&crasher{point: FaultRowSaved, every: 1}).in)
	ada := s.peer("ada")
	lease := subjects.NewID()
	m, _ := ada.command("request", lease, subjects.LeaseRequest{Resource: "repo"})
	d := s.delivery(m, 1_000_000)
	require.ErrorIs(t, stopped.handle(t.Context(), d), errCrash)
	require.Equal(t, "GRANTED", s.row("ada", lease).State)
	require.Empty(t, s.story(lease))
	stopped.stop()

	other := s.start()
	require.Equal(t, uint64(1), ada.claim(lease))
	s.tells(lease, requested, granted, claimed)
	require.Equal(t, []string{granted}, ada.told())

	require.NoError(t, other.handle(t.Context(), d), "the request comes again")
	s.eventually(func() bool {
		replies := received[subjects.EdgeReply](s, ada.peer.ConnectionID)
		return len(replies) == 2
	}, "request not answered")
	s.tells(lease, requested, granted, claimed)
}

// TestRepetitionAfterTheDuplicateWindow settles a row as if it had been saved
// long ago: what is in the log is not stored again, what is not is.
func TestRepetitionAfterTheDuplicateWindow(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.start((&crasher{point: FaultRowSaved, every: 1}).in)
	ada := s.peer("ada")
	lease := subjects.NewID()
	m, _ := ada.command("request", lease, subjects.LeaseRequest{Resource: "repo"})
	require.ErrorIs(t, p.handle(t.Context(), s.delivery(m, 1_000_000)), errCrash)
	entry, row := s.entry("ada", lease)
	entry.Time = entry.Time.Add(-2 * trustDedupe)
	tk := task{tenant: "acme", agent: "ada", in: machine.Input{LeaseID: lease}}
	effects := machine.Again(row)

	missing, err := p.missing(t.Context(), tk, effects, entry.Time)
	require.NoError(t, err)
	require.Equal(t, effects, missing)
	// One event is stored, and the next is not.
	require.NoError(t, p.perform(t.Context(), tk, time.Now(), effects[:len(effects)-1], nil))
	missing, err = p.missing(t.Context(), tk, effects, entry.Time)
	require.NoError(t, err)
	require.Equal(t, effects[len(effects)-1:], missing)
	require.NoError(t, p.settle(t.Context(), tk, entry, row))
	s.tells(lease, requested, granted)
	missing, err = p.missing(t.Context(), tk, effects, entry.Time)
	require.NoError(t, err)
	require.Empty(t, missing)
}

// TestWriterThatStoodStill lets more time than the streams remember ids for
// pass between a save and what it announces. The writer leaves it to the
// command's repetition, which looks the log up.
func TestWriterThatStoodStill(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	var late atomic.Int64 // by how much the clock is ahead
	p := s.start(func(service *Service) {
		service.now = func() time.Time { return time.Now().Add(time.Duration(late.Load())) }
		service.fault = func(at string) error {
			if at == FaultRowSaved {
				late.Store(int64(2 * trustDedupe))
			}
			return nil
		}
	})
	ada := s.peer("ada")
	lease := subjects.NewID()
	m, id := ada.command("request", lease, subjects.LeaseRequest{Resource: "repo", TimeoutMS: new(int64(600_000))})
	d := s.delivery(m, 1_000_000)
	require.ErrorIs(t, p.handle(t.Context(), d), errLate)
	require.Equal(t, subjects.LeaseGranted, s.row("ada", lease).State)
	require.Empty(t, s.story(lease))
	require.Empty(t, s.timers())
	require.Empty(t, s.replies(id))

	require.NoError(t, p.handle(t.Context(), d), "it comes again")
	require.True(t, s.reply(id).OK)
	s.tells(lease, requested, granted)
	require.Len(t, s.timers(), 1)
}

// TestCommandThatCameTooLate sends commands while nobody is there and lets
// their time pass.
func TestCommandThatCameTooLate(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	first := s.start()
	ada := s.peer("ada")
	lease, _ := ada.request("repo", 0)
	first.stop()
	ada.patience = 10 * time.Millisecond
	orphan := subjects.NewID()
	late := []string{
		ada.send("request", orphan, subjects.LeaseRequest{Resource: "repo"}),
		ada.send("claim", lease, subjects.LeaseClaim{LeaseID: lease}),
	}
	// Nothing observable marks the end of a command's time.
	time.Sleep(lateGrace + 100*time.Millisecond)
	s.start()
	for _, id := range late {
		reply := s.reply(id)
		require.False(t, reply.OK)
		require.Equal(t, subjects.CodeUnavailable, reply.Error.Code)
	}
	require.Equal(t, subjects.LeaseGranted, s.row("ada", lease).State)
	ada.patience = patience
	require.Equal(t, uint64(1), ada.claim(lease))
	require.Empty(t, s.row("ada", orphan).LeaseID, "nobody knows of it, so it must not be")
}
