package bus

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	headerOperation    = "KV-Operation"
	headerMarkerReason = "Nats-Marker-Reason"
	reasonMaxAge       = "MaxAge"
	operationPurge     = "PURGE"
)

// KV reads and writes the rows of one bucket.
type KV struct {
	conn      *Conn
	name      string
	stream    jetstream.Stream
	markerTTL time.Duration
	// byLeader is set for a bucket that any of several servers may answer for, and
	// where the connection asks for it.
	byLeader bool
}

// Entry is what a bucket holds under a key.
type Entry struct {
	Key      string
	Value    []byte
	Revision uint64 // the revision to write at; that of the marker when the row is gone; 0 when there is neither
	Exists   bool
	Time     time.Time
}

// Bucket opens a bucket that exists.
func (c *Conn) Bucket(ctx context.Context, name string) (*KV, error) {
	kv := &KV{conn: c, name: name}
	err := c.retry(ctx, func(ctx context.Context) (err error) {
		kv.stream, err = c.js.Stream(ctx, bucketStream(name))
		return c.sparing(bucketStream(name), err)
	})
	if err != nil {
		return nil, sorted(err, "open bucket %q", name)
	}
	kv.opened()
	return kv, nil
}

// opened notes how the bucket is made.
func (b *KV) opened() {
	config := b.stream.CachedInfo().Config
	b.markerTTL, b.byLeader = config.SubjectDeleteMarkerTTL, b.conn.leaderReads || config.Replicas > 1
}

// Get reads the row under key. A row that was deleted or has lapsed is an
// Entry that does not exist, with the revision of its marker.
// The stream's leader answers, so whatever was acknowledged before is seen: a
// decision that writes nothing has no revision to be refused by.
func (b *KV) Get(ctx context.Context, key string) (Entry, error) {
	if err := checkKey(key); err != nil {
		return Entry{}, fmt.Errorf("read row: %w", err)
	}
	var msg *jetstream.RawStreamMsg
	err := b.conn.retry(ctx, func(ctx context.Context) (err error) {
		msg, err = b.last(ctx, b.subject(key))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			msg, err = nil, nil
		}
		return b.conn.sparing(bucketStream(b.name), err)
	})
	switch {
	case err != nil:
		return Entry{}, sorted(err, "read row %q of %s", key, b.name)
	case msg == nil:
		return Entry{Key: key}, nil
	case opOf(msg.Header) != Put:
		return Entry{Key: key, Revision: msg.Sequence, Time: msg.Time}, nil
	default:
		return Entry{Key: key, Value: msg.Data, Revision: msg.Sequence, Exists: true, Time: msg.Time}, nil
	}
}

// last reads the last message on a subject. A stream on one server is read
// directly, which is faster; of several servers any would answer that way, one
// that lags behind too, so the leader is asked.
func (b *KV) last(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	if !b.byLeader {
		return b.stream.GetLastMsgForSubject(ctx, subject)
	}
	return b.conn.fromLeader(ctx, bucketStream(b.name), map[string]any{"last_by_subj": subject})
}

// Save writes a row at the revision it was read at; revision 0 means that
// there is nothing under the key, not even a marker. The row lapses after ttl,
// rounded up to whole seconds; 0 means never. The error Is [ErrConflict] when
// the row moved on and [ErrUnavailable] when the answer did not come: Save
// sends once.
func (b *KV) Save(ctx context.Context, key string, value []byte, revision uint64, ttl time.Duration) (uint64, error) {
	if err := checkKey(key); err != nil {
		return 0, fmt.Errorf("write row: %w", err)
	}
	msg := &nats.Msg{Subject: b.subject(key), Header: nats.Header{}, Data: value}
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(revision)}
	if ttl > 0 {
		opts = append(opts, jetstream.WithMsgTTL(wholeSeconds(ttl)))
	}
	return b.write(ctx, msg, opts...)
}

// Purge replaces a row by a marker, at the revision it was read at. The marker
// carries header and stays as long as the bucket's markers do.
func (b *KV) Purge(ctx context.Context, key string, revision uint64, header nats.Header) error {
	if err := checkKey(key); err != nil {
		return fmt.Errorf("purge row: %w", err)
	}
	msg := &nats.Msg{Subject: b.subject(key), Header: maps.Clone(header)}
	if msg.Header == nil {
		msg.Header = nats.Header{}
	}
	msg.Header.Set(headerOperation, operationPurge)
	msg.Header.Set(jetstream.MsgRollup, jetstream.MsgRollupSubject)
	opts := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(revision)}
	if b.markerTTL > 0 {
		opts = append(opts, jetstream.WithMsgTTL(wholeSeconds(b.markerTTL)))
	}
	_, err := b.write(ctx, msg, opts...)
	return err
}

// write sends msg once.
func (b *KV) write(ctx context.Context, msg *nats.Msg, opts ...jetstream.PublishOpt) (uint64, error) {
	var ack *jetstream.PubAck
	err := b.conn.once(ctx, func(ctx context.Context) (err error) {
		ack, err = b.conn.js.PublishMsg(ctx, msg, opts...)
		return err
	})
	if err != nil {
		return 0, sorted(err, "write %s", msg.Subject)
	}
	b.conn.note(ack.Stream, ack.Sequence)
	return ack.Sequence, nil
}

func (b *KV) subject(key string) string { return bucketPrefix(b.name) + key }

func bucketStream(name string) string { return "KV_" + name }

func bucketPrefix(name string) string { return "$KV." + name + "." }

// opOf tells a value from the markers that stand for its absence.
func opOf(header nats.Header) Op {
	switch {
	case header.Get(headerMarkerReason) == reasonMaxAge:
		return Expired
	case header.Get(headerMarkerReason) != "", header.Get(headerOperation) != "":
		return Deleted
	default:
		return Put
	}
}

// wholeSeconds rounds up: the server would cut the fraction off.
func wholeSeconds(d time.Duration) time.Duration {
	return (d + time.Second - 1).Truncate(time.Second)
}

// checkKey refuses what is no literal key, above all wildcards.
func checkKey(key string) error {
	if key == "" || strings.HasPrefix(key, ".") || strings.HasSuffix(key, ".") || strings.Contains(key, "..") {
		return fmt.Errorf("invalid key %q: %w", key, nats.ErrBadSubject)
	}
	for _, r := range key {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune("-_/=.", r):
		default:
			return fmt.Errorf("invalid key %q: %w", key, nats.ErrBadSubject)
		}
	}
	return nil
}
