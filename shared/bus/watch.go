package bus

import (
	"context"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Op is what happened to a row.
type Op int

// A row was written, was deleted, or has lapsed.
const (
	Put Op = iota
	Deleted
	Expired
)

// Update is one change of a row, or the word that the watch is up to date.
type Update struct {
	Key      string
	Value    []byte
	Revision uint64
	Op       Op
	Header   nats.Header
	Time     time.Time
	Synced   bool // alone: everything stored at the start has been delivered
	Reset    bool // alone: the bucket is another one, and nothing delivered so far is in it
}

// Watch calls fn, on its own goroutine's stack, for the last change of every
// key that matches filter ("" is all; markers count), then once with Synced,
// then for every change as it comes, until ctx ends. It outlives restarts of
// the server and the removal of its consumer without delivering anything
// twice; a row written several times meanwhile is delivered as it is last.
// If fn is slow the server keeps the rest.
// When the bucket itself is removed and made anew, it calls fn with Reset and
// delivers what the new one holds.
func (b *KV) Watch(ctx context.Context, filter string, fn func(Update)) error {
	if filter == "" {
		filter = ">"
	}
	prefix := bucketPrefix(b.name)
	f := follower{
		conn: b.conn, stream: bucketStream(b.name), filters: []string{prefix + filter}, last: true,
		synced: func() { fn(Update{Synced: true}) },
		reset:  func() { fn(Update{Reset: true}) },
		handle: func(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
			fn(Update{
				Key:   strings.TrimPrefix(msg.Subject(), prefix),
				Value: msg.Data(), Revision: meta.Sequence.Stream,
				Op: opOf(msg.Headers()), Header: msg.Headers(), Time: meta.Timestamp,
			})
		},
	}
	return f.run(ctx)
}

// Extent is what a stream holds: the sequences from First to Last, with gaps
// where messages were removed. First is Last+1 when it holds nothing.
type Extent struct {
	// Origin is when the stream was made; see [Delivery].
	Origin      time.Time
	First, Last uint64
}

// Extent asks what a bucket holds, by revisions.
func (b *KV) Extent(ctx context.Context) (Extent, error) {
	return b.conn.Extent(ctx, bucketStream(b.name))
}

// Extent asks what a stream holds.
func (c *Conn) Extent(ctx context.Context, stream string) (Extent, error) {
	var info *jetstream.StreamInfo
	err := c.retry(ctx, func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, stream)
		if err == nil {
			info = s.CachedInfo()
		}
		return c.sparing(stream, err)
	})
	if err != nil {
		return Extent{}, sorted(err, "look at stream %q", stream)
	}
	return Extent{Origin: info.Created, First: info.State.FirstSeq, Last: info.State.LastSeq}, nil
}

// Read calls fn for every message of the stream that matches one of the
// filters (none is all), in order, from sequence from on; 0 means only what is
// stored after the call. It blocks until ctx ends and recovers as Watch does.
// Sequences that are no longer stored are passed over.
func (c *Conn) Read(ctx context.Context, stream string, filters []string, from uint64, fn func(*Delivery)) error {
	return c.reader(stream, filters, from, fn).run(ctx)
}

// ReadStored is Read that returns once everything that was stored at its call is
// handed on, and with the error of ctx when that ends before.
func (c *Conn) ReadStored(ctx context.Context, stream string, filters []string, from uint64, fn func(*Delivery)) error {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	complete := false
	f := c.reader(stream, filters, from, func(d *Delivery) {
		if !complete {
			fn(d)
		}
	})
	f.synced = func() { complete = true; stop() }
	if err := f.run(reading); err != nil || complete {
		return err
	}
	return ctx.Err()
}

func (c *Conn) reader(stream string, filters []string, from uint64, fn func(*Delivery)) *follower {
	f := &follower{conn: c, stream: stream, filters: filters}
	f.handle = func(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
		fn(&Delivery{
			Subject: msg.Subject(), Header: msg.Headers(), Data: msg.Data(),
			Stream: meta.Stream, Consumer: meta.Consumer, Seq: meta.Sequence.Stream,
			Attempt: 1, Time: meta.Timestamp, Pending: meta.NumPending, Origin: f.created,
		})
	}
	if from > 0 {
		f.cursor, f.begun = from-1, true
	}
	return f
}
