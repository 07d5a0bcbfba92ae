package bus_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

func TestLookingUpBySubject(t *testing.T) {
	t.Parallel()
	conn := bustest.Start(t).Connect(t)
	ctx := t.Context()
	require.NoError(t, conn.EnsureStream(ctx, bus.Stream{Name: "S", Subjects: []string{"s.>"}}, 1))
	none, err := conn.SubjectsOf(ctx, "S", "s.*.x", 10)
	require.NoError(t, err)
	require.Empty(t, none)
	for _, subject := range []string{"s.b.x", "s.a.x", "s.b.x", "s.c.y", "s.a.x"} {
		_, err := conn.Publish(ctx, bus.Message{Subject: subject, Data: []byte(subject)})
		require.NoError(t, err)
	}
	found, err := conn.SubjectsOf(ctx, "S", "s.*.x", 2)
	require.NoError(t, err)
	require.Equal(t, []string{"s.a.x", "s.b.x"}, found)
	_, err = conn.SubjectsOf(ctx, "S", "s.*.x", 1)
	require.ErrorIs(t, err, bus.ErrTooMany)
	_, err = conn.SubjectsOf(ctx, "T", "s.*.x", 1)
	require.Error(t, err, "there is no such stream")

	for from, want := range map[uint64]uint64{1: 2, 2: 2, 3: 5, 5: 5, 6: 0} {
		d, found, err := conn.NextOn(ctx, "S", "s.a.x", from)
		require.NoError(t, err)
		require.Equal(t, want != 0, found, from)
		if found {
			require.Equal(t, want, d.Seq)
			require.Equal(t, "s.a.x", string(d.Data))
			require.Equal(t, "s.a.x", d.Subject)
			require.WithinDuration(t, time.Now(), d.Time, time.Minute)
		}
	}
}

func TestWarmLooksAtEveryBlock(t *testing.T) {
	t.Parallel()
	conn := bustest.Start(t).Connect(t)
	ctx := t.Context()
	require.NoError(t, conn.EnsureStream(ctx, bus.Stream{Name: "S", Subjects: []string{"s.>"}}, 1))
	for range 7 {
		_, err := conn.Publish(ctx, bus.Message{Subject: "s.a", Data: make([]byte, 900<<10)})
		require.NoError(t, err)
	}
	facts, err := conn.Facts(ctx, "S")
	require.NoError(t, err)
	asked := 0
	most := 100
	take := func() bool { asked++; return asked <= most }
	require.NoError(t, conn.Warm(ctx, "S", facts, 1, facts.Last, take))
	require.Equal(t, 2, asked, "at 2 and, about 2 MiB further, at 5")
	most = 3
	require.ErrorIs(t, conn.Warm(ctx, "S", facts, 1, facts.Last, take), bus.ErrTooMany)
	require.NoError(t, conn.Warm(ctx, "S", bus.Facts{}, 1, 0, take), "of nothing there is nothing to load")
	require.Error(t, conn.Warm(ctx, "T", facts, 1, facts.Last, func() bool { return true }), "there is no such stream")
}
