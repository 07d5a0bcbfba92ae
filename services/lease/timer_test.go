package lease

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

func TestTimeouts(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	s.start()
	s.policies(
		subjects.LeasePolicy{Prefix: "short/", Policy: subjects.PolicyGrant, ClaimTimeoutMS: new(int64(400))},
		subjects.LeasePolicy{Prefix: "endless/", Policy: subjects.PolicyGrant, ClaimTimeoutMS: new(int64(0)), LeaseTimeoutMS: new(int64(700))},
	)
	ada := s.peer("ada")

	lapsing, _ := ada.request("short/1", 300*time.Millisecond)
	row := s.becomes("ada", lapsing, subjects.LeaseExpired)
	require.Equal(t, subjects.LeaseReasonTimeout, row.Reason)
	require.WithinDuration(t, row.RequestedAt.Add(300*time.Millisecond), row.EndedAt, 2*time.Second)
	require.False(t, row.EndedAt.Before(row.RequestedAt.Add(300*time.Millisecond)), "not early")
	s.tells(lapsing, requested, granted, expired)

	late, _ := ada.request("short/2", 0)
	ada.claim(late)
	require.Equal(t, subjects.LeaseReasonClaimDeadline, s.becomes("ada", late, subjects.LeaseExpired).Reason)
	s.tells(late, requested, granted, claimed, expired)
	audits := 0
	for _, e := range s.seen() {
		if e.event.Type == "audit."+subjects.AuditLeaseClaimDeadline {
			record, err := subjects.DecodePayload[subjects.AuditRecord](e.event)
			require.NoError(t, err)
			require.Equal(t, late, record.LeaseID)
			audits++
		}
	}
	require.Equal(t, 1, audits)
	ada.refused(subjects.CodeLeaseInvalid, "finalize", late, subjects.LeaseFinalize{LeaseID: late, Fence: 1})

	endless, _ := ada.request("endless/1", 0)
	ada.claim(endless)
	rolled, _ := ada.request("endless/2", 0)
	require.Equal(t, uint64(1), ada.claim(rolled))
	s.eventually(func() bool { return time.Now().After(s.row("ada", rolled).ClaimedAt.Add(time.Second)) }, "")
	require.Equal(t, subjects.LeaseClaimed, s.row("ada", endless).State, "neither the grant's time-out nor a deadline")
	back := ok[subjects.LeaseOutcome](ada, "rollback", rolled, subjects.LeaseRollback{LeaseID: rolled, Fence: 1})
	require.Greater(t, time.Until(back.ExpiresAt), 300*time.Millisecond, "a fresh time-out")
	require.Equal(t, subjects.LeaseReasonTimeout, s.becomes("ada", rolled, subjects.LeaseExpired).Reason)
	s.tells(rolled, requested, granted, claimed, rolledBack, expired)
}

// TestTimersThatAreGone purges the stream that keeps the timers of a claim and of a grant.
func TestTimersThatAreGone(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	s.start()
	s.policies(subjects.LeasePolicy{Prefix: "", Policy: subjects.PolicyGrant, ClaimTimeoutMS: new(int64(2000))})
	ada := s.peer("ada")
	waits, _ := ada.request("repo", 2*time.Second)
	works, _ := ada.request("repo", 0)
	ada.claim(works)
	stream, err := s.conn.JS().Stream(t.Context(), subjects.StreamCommands)
	require.NoError(t, err)
	require.NoError(t, stream.Purge(t.Context()))
	require.Equal(t, subjects.LeaseReasonTimeout, s.becomes("ada", waits, subjects.LeaseExpired).Reason)
	require.Equal(t, subjects.LeaseReasonClaimDeadline, s.becomes("ada", works, subjects.LeaseExpired).Reason)
	s.tells(waits, requested, granted, expired)
	s.tells(works, requested, granted, claimed, expired)
}

// TestTimersOutliveEverybody lets a deadline pass while no process is there,
// and NATS itself is restarted.
func TestTimersOutliveEverybody(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.start()
	ada := s.peer("ada")
	lease, _ := ada.request("repo", time.Second)
	p.stop()
	s.server.Restart(t)
	s.eventually(func() bool {
		stream, err := s.conn.JS().Stream(t.Context(), subjects.StreamCommands)
		if err != nil {
			return false
		}
		_, err = stream.GetLastMsgForSubject(t.Context(), subjects.LeaseCommand("acme", lease, "timer").String())
		return err == nil
	}, "the server has not fired the timer")
	require.Equal(t, subjects.LeaseGranted, s.row("ada", lease).State)
	s.start()
	require.Equal(t, subjects.LeaseReasonTimeout, s.becomes("ada", lease, subjects.LeaseExpired).Reason)
	s.tells(lease, requested, granted, expired)
}

// fire sends a timer as the server's scheduler does.
func (s *stage) fire(lease string, epoch uint64) {
	s.t.Helper()
	data, err := json.Marshal(subjects.LeaseTimer{AgentID: "ada", Epoch: epoch})
	require.NoError(s.t, err)
	_, err = s.conn.Publish(s.t.Context(), bus.Message{Subject: subjects.LeaseCommand("acme", lease, "timer").String(), Data: data})
	require.NoError(s.t, err)
}

// idle waits until all commands are done with.
func (s *stage) idle() {
	s.t.Helper()
	s.eventually(func() bool {
		consumer, err := s.conn.JS().PushConsumer(s.t.Context(), subjects.StreamCommands, commandsName)
		if err != nil {
			return false
		}
		info := consumer.CachedInfo()
		return info.NumPending == 0 && info.NumAckPending == 0
	}, "commands are left")
}

// TestTimersOfOtherEpochsDoNothing fires timers that are not the one of the
// deadline in force: at most the timer is set again.
func TestTimersOfOtherEpochsDoNothing(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	ada := s.peer("ada")
	lease, _ := ada.request("repo", 0)
	ada.claim(lease)
	_, row := s.entry("ada", lease)
	require.Equal(t, uint64(2), row.Book.Epoch)
	require.Equal(t, uint64(1), row.Book.ArmedEpoch, "the claim set no timer")
	for _, epoch := range []uint64{0, 1} {
		s.fire(lease, epoch)
	}
	s.fire(subjects.NewID(), 1)
	s.idle()
	_, after := s.entry("ada", lease)
	require.Equal(t, row.LeaseRow, after.LeaseRow)
	require.Equal(t, uint64(2), after.Book.Epoch)
	require.Equal(t, uint64(2), after.Book.ArmedEpoch)
	require.Equal(t, row.Book.Due, after.Book.Armed)
	require.Len(t, s.timers(), 1)
	s.tells(lease, requested, granted, claimed)

	// The one of the present epoch counts, once.
	s.fire(lease, 2)
	s.fire(lease, 2)
	s.becomes("ada", lease, subjects.LeaseExpired)
	s.idle()
	s.tells(lease, requested, granted, claimed, expired)
}

// TestTimerOfAProcessThatStoodStill replaces the timer in force by an older
// one, as a process does that wakes up after the duplicate window.
func TestTimerOfAProcessThatStoodStill(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	ada := s.peer("ada")
	lease, _ := ada.request("repo", time.Minute)
	ok[subjects.LeaseOutcome](ada, "renew", lease, subjects.LeaseRenew{LeaseID: lease, TimeoutMS: new(int64(1500))})
	data, err := json.Marshal(subjects.LeaseTimer{AgentID: "ada", Epoch: 1})
	require.NoError(t, err)
	message := bus.Message{Subject: subjects.LeaseCommand("acme", lease, subjects.TimerSchedule).String(), Data: data, Header: map[string][]string{
		"Nats-Schedule":        {"@at " + time.Now().Add(time.Second).UTC().Format(time.RFC3339Nano)},
		"Nats-Schedule-Target": {subjects.LeaseCommand("acme", lease, "timer").String()},
	}}
	_, err = s.conn.Publish(t.Context(), message)
	require.NoError(t, err)
	require.Len(t, s.timers(), 1)
	require.Equal(t, subjects.LeaseReasonTimeout, s.becomes("ada", lease, subjects.LeaseExpired).Reason)
}

// TestInputAboutALaterRow has a timer, and a close, be ahead of the row that is
// read. They are not done with, or the lease would be nobody's.
func TestInputAboutALaterRow(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.start()
	ada := s.peer("ada")
	lease, _ := ada.request("repo", 0)
	data, err := json.Marshal(subjects.LeaseTimer{AgentID: "ada", Epoch: 2})
	require.NoError(t, err)
	m := bus.Message{Subject: subjects.LeaseCommand("acme", lease, "timer").String(), Data: data}
	d := s.delivery(m, 1_000_000)
	err = p.handle(t.Context(), d)
	require.ErrorIs(t, err, errBehind)
	var permanent *bus.PermanentError
	require.NotErrorAs(t, err, &permanent)
	d.Attempt = timerAttempts
	require.ErrorAs(t, p.handle(t.Context(), d), &permanent, "it is not of this row")

	ada.claim(lease)
	require.NoError(t, p.handle(t.Context(), d))
	require.Equal(t, subjects.LeaseExpired, s.row("ada", lease).State)

	absent := machine.Input{LeaseID: subjects.NewID(), Cause: "e1", Fact: machine.ConnectionClosed{ConnectionID: ada.peer.ConnectionID}}
	_, err = p.apply(t.Context(), task{tenant: "acme", agent: "ada", in: absent})
	require.NoError(t, err)
	_, err = p.apply(t.Context(), task{tenant: "acme", agent: "ada", in: absent, listed: true})
	require.ErrorIs(t, err, errBehind)
}

// TestTimerIsTriedUntilTheLogCanBeRead holds that a timer is given up for want of a row
// alone: given up for a log that could not be read, its lease would never end.
func TestTimerIsTriedUntilTheLogCanBeRead(t *testing.T) {
	t.Parallel()
	require.False(t, ofNoRow(fmt.Errorf("look up event: 0 of 1 messages came: %w", errBehind), 10*timerAttempts))
	require.False(t, ofNoRow(bus.ErrUnavailable, 10*timerAttempts))
	require.False(t, ofNoRow(fmt.Errorf("row: %w", errOutrun), timerAttempts-1))
	require.True(t, ofNoRow(fmt.Errorf("row: %w", errOutrun), timerAttempts))
}

func TestMessagesNobodyCanRead(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	lease := subjects.NewID()
	for subject, data := range map[string]string{
		subjects.LeaseCommand("acme", lease, "claim").String(): `{"command_id":"x"}`,
		subjects.LeaseCommand("acme", lease, "get").String():   `no json`,
		subjects.LeaseCommand("acme", lease, "timer").String(): `{"epoch":1}`,
		"tenant.acme.lease.not-a-lease.claim":                  `{}`,
	} {
		_, err := s.conn.Publish(t.Context(), bus.Message{Subject: subject, Data: []byte(data)})
		require.NoError(t, err)
	}
	s.idle()
	ada := s.peer("ada")
	details := ada.refused(subjects.CodeInvalidRequest, "claim", lease, map[string]any{"lease_id": lease, "fence": 1})
	require.Equal(t, "fence", details["field"])
	details = ada.refused(subjects.CodeInvalidRequest, "claim", lease, subjects.LeaseClaim{LeaseID: subjects.NewID()})
	require.Equal(t, "lease_id", details["field"])
	details = ada.refused(subjects.CodeInvalidRequest, "request", lease, subjects.LeaseRequest{Resource: "a\nb"})
	require.Equal(t, "resource", details["field"])
	require.False(t, s.row("ada", lease).Exists())
}

// TestNATSRestartsUnderCommands stops NATS in the middle of a command. The
// command is applied once; what EDGE held is gone with it, as EDGE lives in
// memory, but EDGE itself is there again for the next reply.
func TestNATSRestartsUnderCommands(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	ada := s.peer("ada")
	lease, _ := ada.request("repo", 0)
	ada.send("claim", lease, subjects.LeaseClaim{LeaseID: lease})
	s.server.Restart(t)
	s.eventually(func() bool {
		entry, err := s.rows.Get(t.Context(), subjects.LeaseKey("acme", "ada", lease))
		var row subjects.LeaseRow
		return err == nil && json.Unmarshal(entry.Value, &row) == nil && row.State == subjects.LeaseClaimed
	}, "the claim is lost")
	out := ok[subjects.LeaseOutcome](ada, "finalize", lease, subjects.LeaseFinalize{LeaseID: lease, Fence: 1})
	require.Equal(t, subjects.LeaseConsumed, out.State)
	s.tells(lease, requested, granted, claimed, consumed)
}
