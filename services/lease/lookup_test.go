package lease

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// listing stores rows and makes a fresh consumer of them.
func (s *stage) listing(rows int) (jetstream.Stream, jetstream.Consumer) {
	s.t.Helper()
	for i := range rows {
		_, err := s.rows.Save(s.t.Context(), fmt.Sprintf("acme.ada.%d", i), []byte(`{}`), 0, 0)
		require.NoError(s.t, err)
	}
	stream, err := s.conn.JS().Stream(s.t.Context(), rowsStream)
	require.NoError(s.t, err)
	consumer, err := stream.CreateConsumer(s.t.Context(), jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		FilterSubject: rowsPrefix + "acme.ada.*", MemoryStorage: true, InactiveThreshold: time.Minute,
	})
	require.NoError(s.t, err)
	return stream, consumer
}

// lose takes messages from a consumer as a connection does that breaks before
// they arrive.
func lose(t *testing.T, consumer jetstream.Consumer, n int) {
	t.Helper()
	batch, err := consumer.FetchNoWait(n)
	require.NoError(t, err)
	lost := 0
	for range batch.Messages() {
		lost++
	}
	require.Equal(t, n, lost)
}

func TestEachReadsAllOrFails(t *testing.T) {
	t.Parallel()
	const more = 10
	const rows = fetchBatch + more
	for name, test := range map[string]struct {
		before func(*testing.T, jetstream.Stream, jetstream.Consumer)
		within func(*testing.T, jetstream.Stream, jetstream.Consumer) // after the first batch
		seen   int
		behind bool
	}{
		"nothing happens": {seen: rows},
		"the first are lost": {
			before: func(t *testing.T, _ jetstream.Stream, c jetstream.Consumer) { t.Helper(); lose(t, c, more) },
			behind: true,
		},
		"all are lost": {
			before: func(t *testing.T, _ jetstream.Stream, c jetstream.Consumer) { t.Helper(); lose(t, c, rows) },
			behind: true,
		},
		"the last are lost": {
			within: func(t *testing.T, _ jetstream.Stream, c jetstream.Consumer) { t.Helper(); lose(t, c, more) },
			seen:   fetchBatch, behind: true,
		},
		"the last lapse": {
			within: func(t *testing.T, s jetstream.Stream, _ jetstream.Consumer) {
				t.Helper()
				require.NoError(t, s.Purge(t.Context()))
			},
			seen: fetchBatch,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			stream, consumer := newStage(t).listing(rows)
			if test.before != nil {
				test.before(t, stream, consumer)
			}
			seen := 0
			err := each(t.Context(), consumer, func(jetstream.Msg, *jetstream.MsgMetadata) {
				if seen++; seen == fetchBatch && test.within != nil {
					test.within(t, stream, consumer)
				}
			})
			require.Equal(t, test.seen, seen)
			if test.behind {
				require.ErrorIs(t, err, errBehind)
				return
			}
			require.NoError(t, err)
		})
	}
}

func TestEachHasADeadline(t *testing.T) {
	t.Parallel()
	_, consumer := newStage(t).listing(3)
	ctx, cancel := context.WithCancel(t.Context())
	err := each(ctx, consumer, func(jetstream.Msg, *jetstream.MsgMetadata) { cancel() })
	if err == nil {
		// All had come before it was looked at.
		err = each(ctx, consumer, func(jetstream.Msg, *jetstream.MsgMetadata) {})
	}
	require.ErrorIs(t, err, context.Canceled)
}

func TestLabelsAreBounded(t *testing.T) {
	t.Parallel()
	for _, command := range subjects.LeaseCommands() {
		require.Equal(t, command, label(command, false))
	}
	for _, name := range []string{"", "claims", "schedule", subjects.NewID()} {
		require.Equal(t, "other", label(name, false))
	}
	require.Equal(t, "closed", label("closed", true))
}
