package lease

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

func TestViewKnowsItsOwnRowsAndReadsTheRest(t *testing.T) {
	t.Parallel()
	const key = "acme.build-7.01890a5d-ac96-774b-bcce-b302099a8057"
	claimed := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	put := func(value string, revision uint64) bus.Update {
		return bus.Update{Op: bus.Put, Key: key, Value: []byte(value), Revision: revision}
	}
	v := newView()

	v.saves(key, machine.Record{LeaseRow: subjects.LeaseRow{State: subjects.LeaseClaimed, ClaimedAt: claimed}}, []byte("what was saved"))
	v.apply(put("what was saved", 7))
	require.Equal(t, map[string]int{subjects.LeaseClaimed: 1}, v.states(), "it is not read again")
	require.Equal(t, claimed, v.oldestClaim())
	require.Empty(t, v.own)
	v.apply(put(`{"state":"CONSUMED"}`, 8))
	require.Equal(t, map[string]int{subjects.LeaseConsumed: 1}, v.states(), "a row of another process is read")

	v.saves(key, machine.Record{LeaseRow: subjects.LeaseRow{State: subjects.LeaseClaimed}}, []byte("written over before it was seen"))
	v.apply(put(`{"state":"EXPIRED"}`, 10))
	require.Equal(t, map[string]int{subjects.LeaseExpired: 1}, v.states())
	require.Empty(t, v.own)
	v.saves(key, machine.Record{LeaseRow: subjects.LeaseRow{State: subjects.LeaseClaimed}}, []byte("refused"))
	v.failed(key)
	require.Empty(t, v.own)

	v.saves(key, machine.Record{LeaseRow: subjects.LeaseRow{State: subjects.LeaseClaimed}}, []byte("of another bucket"))
	v.apply(bus.Update{Reset: true})
	v.apply(put(`{"state":"PENDING"}`, 11))
	require.Equal(t, map[string]int{subjects.LeasePending: 1}, v.states())
	require.Empty(t, v.own, "another bucket shows none of it")
}
