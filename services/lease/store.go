package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

const (
	rowsStream = "KV_" + subjects.BucketLeases
	rowsPrefix = "$KV." + subjects.BucketLeases + "."

	headerOperation    = "KV-Operation"
	headerMarkerReason = "Nats-Marker-Reason"
)

// errBehind says that a reading does not show all that it must: it is to be
// repeated, and never to be taken for an absence.
var errBehind = errors.New("reading is behind")

// errOutrun says that a row is not there yet which the input is about.
var errOutrun = fmt.Errorf("row is older than what it is asked: %w", errBehind)

// load reads a lease's row as it is now; a lease that does not exist is the zero
// Record.
func (s *Service) load(ctx context.Context, key string) (bus.Entry, machine.Record, error) {
	entry, err := s.rows.Get(ctx, key)
	if err != nil || !entry.Exists {
		return entry, machine.Record{}, err
	}
	row, err := parseRow(key, entry.Value)
	return entry, row, err
}

func parseRow(key string, value []byte) (machine.Record, error) {
	var row machine.Record
	if err := json.Unmarshal(value, &row); err != nil {
		return row, bus.Permanent(fmt.Errorf("row %q: %w", key, err))
	}
	return row, nil
}

// save writes a lease's row. The row of a lease that has ended lapses when its
// retention is over; a later write, of a refusal, does not prolong it.
func (s *Service) save(ctx context.Context, key string, row machine.Record, revision uint64, now time.Time) (uint64, error) {
	value, err := row.Encode()
	if err != nil {
		return 0, bus.Permanent(fmt.Errorf("encode row %q: %w", key, err))
	}
	var ttl time.Duration
	if subjects.LeaseEnded(row.State) {
		ttl = max(row.EndedAt.Add(s.config.Retention).Sub(now), time.Second)
	}
	s.view.saves(key, row, value)
	saved, err := s.rows.Save(ctx, key, value, revision, ttl)
	if err != nil {
		s.view.failed(key)
	}
	return saved, err
}

// scan reads the rows under the keys that match the filters as they are now:
// everything stored up to revision atLeast is taken into account, or the scan
// fails. For that to be told one of the filters must match what was stored there.
// Progress, if there is one, is told of a long listing from time to time.
func (s *Service) scan(ctx context.Context, atLeast uint64, progress func(), filters ...string) ([]bus.Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*requestTimeout)
	defer cancel()
	rows, through, err := s.rows.List(ctx, filters...)
	if errors.Is(err, bus.ErrTooMany) {
		return s.scanMany(ctx, atLeast, progress, filters)
	}
	if err == nil && through < atLeast {
		err = errBehind
	}
	if err != nil {
		return nil, fmt.Errorf("list rows: %w", err)
	}
	return rows, nil
}

// scanMany is scan for more rows than are listed at once, by a consumer, which costs
// the server more. Replicas store in order, so one that shows atLeast shows all before.
func (s *Service) scanMany(ctx context.Context, atLeast uint64, progress func(), filters []string) ([]bus.Entry, error) {
	matching := make([]string, 0, len(filters))
	for _, filter := range filters {
		matching = append(matching, rowsPrefix+filter)
	}
	consumer, err := s.conn.JS().CreateConsumer(ctx, rowsStream, jetstream.ConsumerConfig{
		AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy,
		FilterSubjects: matching, MemoryStorage: true, Replicas: 1, InactiveThreshold: time.Minute,
	})
	if err != nil {
		return nil, fmt.Errorf("list rows: %w", err)
	}
	defer s.discard(rowsStream, consumer)
	var rows []bus.Entry
	newest := uint64(0)
	err = each(ctx, consumer, func(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
		newest = max(newest, meta.Sequence.Stream)
		if progress != nil && meta.Sequence.Consumer%fetchBatch == 0 {
			progress()
		}
		if header := msg.Headers(); header.Get(headerOperation) == "" && header.Get(headerMarkerReason) == "" {
			key := strings.TrimPrefix(msg.Subject(), rowsPrefix)
			rows = append(rows, bus.Entry{Key: key, Value: msg.Data(), Revision: meta.Sequence.Stream, Exists: true, Time: meta.Timestamp})
		}
	})
	if err == nil && newest < atLeast {
		err = errBehind
	}
	if err != nil {
		return nil, fmt.Errorf("list rows: %w", err)
	}
	return rows, nil
}

// isClosed reports whether a connection has a tombstone. As for every row the
// stream's leader is asked: what was acknowledged before the question is in the
// answer, which a replica could not promise.
func (s *Service) isClosed(ctx context.Context, tenant, connection string) (bool, error) {
	entry, err := s.rows.Get(ctx, subjects.ClosedKey(tenant, connection))
	return entry.Exists, err
}
