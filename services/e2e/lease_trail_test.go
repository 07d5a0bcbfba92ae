package e2e

import (
	"fmt"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// transition is a lease event as EVENTS holds it.
type transition struct {
	stored
	lease subjects.LeaseRow
}

// trails returns the events of all leases of tenant acme so far, in order.
func (j *journal) trails(t *testing.T) map[string][]transition {
	t.Helper()
	trails := map[string][]transition{}
	for _, e := range j.events(func(e stored) bool {
		return e.subject.Class == subjects.ClassAgentLease && e.subject.Tenant == acme
	}) {
		p, err := subjects.DecodePayload[subjects.LeaseTransition](e.event)
		require.NoError(t, err)
		require.Equal(t, e.subject.Agent, p.Lease.AgentID)
		trails[p.Lease.LeaseID] = append(trails[p.Lease.LeaseID], transition{e, p.Lease})
	}
	return trails
}

// moves are the transitions there are: from which states an event leads where.
func moves(eventType string) (from []string, to string) {
	switch eventType {
	case subjects.TypeLeaseRequested:
		return []string{"", subjects.LeaseHold}, subjects.LeasePending
	case subjects.TypeLeaseGranted:
		return []string{subjects.LeasePending}, subjects.LeaseGranted
	case subjects.TypeLeaseDenied:
		return []string{subjects.LeasePending}, subjects.LeaseDenied
	case subjects.TypeLeaseHeld:
		return []string{subjects.LeasePending}, subjects.LeaseHold
	case subjects.TypeLeaseClaimed:
		return []string{subjects.LeaseGranted}, subjects.LeaseClaimed
	case subjects.TypeLeaseRolledBack:
		return []string{subjects.LeaseClaimed}, subjects.LeaseGranted
	case subjects.TypeLeaseConsumed:
		return []string{subjects.LeaseClaimed}, subjects.LeaseConsumed
	case subjects.TypeLeaseExpired:
		return []string{subjects.LeaseHold, subjects.LeaseGranted, subjects.LeaseClaimed}, subjects.LeaseExpired
	case subjects.TypeLeaseAbandoned:
		return []string{subjects.LeasePending}, subjects.LeaseAbandoned
	default:
		return nil, ""
	}
}

// walk follows a trail and refuses the first event that no lease could have
// made after those before it. It returns where the trail ends. Closed is when
// the closing of the connection was stored, 0 if it was not: a claim that is
// rolled back after that has nobody to go to, and expires.
func walk(trail []transition, closed uint64) (state string, fence uint64, err error) {
	for _, e := range trail {
		kind := e.event.Type
		from, to := moves(kind)
		if kind == subjects.TypeLeaseRenewed {
			from, to = []string{subjects.LeaseGranted, subjects.LeaseClaimed}, state
		}
		if kind == subjects.TypeLeaseClaimed {
			fence++
		}
		switch {
		case !slices.Contains(from, state):
			return "", 0, fmt.Errorf("event %d: %s of a lease that is %q", e.seq, kind, state)
		case e.lease.State != to || e.lease.Fence != fence:
			return "", 0, fmt.Errorf("event %d: %s says %s with fence %d, not %s with fence %d", e.seq, kind, e.lease.State, e.lease.Fence, to, fence)
		case state == subjects.LeaseClaimed && to == subjects.LeaseExpired && e.lease.Reason != subjects.LeaseReasonClaimDeadline &&
			(e.lease.Reason != subjects.LeaseReasonDisconnect || closed == 0 || closed > e.seq):
			return "", 0, fmt.Errorf("event %d: a claim expired by %s", e.seq, e.lease.Reason)
		}
		state = to
	}
	return state, fence, nil
}

// checkTrails holds that each lease's events are a way that a lease can go and
// end where its row is, and that no lease has a row alone or events alone.
func (s *stack) checkTrails(j *journal) (map[string][]transition, map[string]subjects.LeaseRow) {
	s.t.Helper()
	s.awaitIdle(j)
	trails, rows, closed := j.trails(s.t), s.leaseRows(), j.closings(s.t)
	for id, trail := range trails {
		state, fence, err := walk(trail, closed[trail[0].lease.ConnectionID])
		require.NoError(s.t, err, "lease %s: %v", id, kinds(trail))
		require.Equal(s.t, state, rows[id].State, "lease %s: %v", id, kinds(trail))
		require.Equal(s.t, fence, rows[id].Fence, "lease %s: %v", id, kinds(trail))
	}
	for id, row := range rows {
		require.NotEmpty(s.t, trails[id], "lease %s is %s, and no event says so", id, row.State)
	}
	return trails, rows
}

// closings are the sequences at which the closings of connections are stored.
func (j *journal) closings(t *testing.T) map[string]uint64 {
	t.Helper()
	closed := map[string]uint64{}
	for _, e := range j.events(func(e stored) bool { return e.event.Type == subjects.TypeConnectionClosed }) {
		p, err := subjects.DecodePayload[subjects.ConnectionClosed](e.event)
		require.NoError(t, err)
		closed[p.ConnectionID] = e.seq
	}
	return closed
}

// kinds names the events of a trail.
func kinds(trail []transition) []string {
	out := []string{}
	for _, e := range trail {
		out = append(out, e.event.Type)
	}
	return out
}

// count is how many events of a type a trail has.
func count(trail []transition, eventType string) int {
	n := 0
	for _, e := range trail {
		if e.event.Type == eventType {
			n++
		}
	}
	return n
}

// TestWalk holds that the check of trails finds what it is for.
func TestWalk(t *testing.T) {
	t.Parallel()
	step := func(kind, state string, fence uint64) transition {
		return transition{stored{event: subjects.Event{Type: kind}}, subjects.LeaseRow{State: state, Fence: fence}}
	}
	begin := []transition{
		step(subjects.TypeLeaseRequested, subjects.LeasePending, 0), step(subjects.TypeLeaseGranted, subjects.LeaseGranted, 0),
		step(subjects.TypeLeaseClaimed, subjects.LeaseClaimed, 1),
	}
	state, fence, err := walk(append(slices.Clip(begin), step(subjects.TypeLeaseRolledBack, subjects.LeaseGranted, 1),
		step(subjects.TypeLeaseClaimed, subjects.LeaseClaimed, 2), step(subjects.TypeLeaseRenewed, subjects.LeaseClaimed, 2)), 0)
	require.NoError(t, err)
	require.Equal(t, subjects.LeaseClaimed, state)
	require.Equal(t, uint64(2), fence)
	for name, wrong := range map[string]transition{
		"claimed twice":          step(subjects.TypeLeaseClaimed, subjects.LeaseClaimed, 2),
		"the same event twice":   step(subjects.TypeLeaseClaimed, subjects.LeaseClaimed, 1),
		"expired by a time-out":  step(subjects.TypeLeaseExpired, subjects.LeaseExpired, 1),
		"abandoned":              step(subjects.TypeLeaseAbandoned, subjects.LeaseAbandoned, 1),
		"consumed by a stranger": step(subjects.TypeLeaseConsumed, subjects.LeaseConsumed, 2),
		"unknown":                step("lease.lost", subjects.LeaseClaimed, 1),
	} {
		_, _, err := walk(append(slices.Clip(begin), wrong), 0)
		require.Error(t, err, name)
	}
}
