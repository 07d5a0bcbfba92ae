package bus

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Facts are what a server says of a stream, for people to look at.
type Facts struct {
	Created             time.Time
	Messages, Bytes     uint64
	First, Last         uint64 // sequences
	FirstTime, LastTime time.Time
	Consumers, Replicas int
	MaxAge              time.Duration
}

// Facts asks about a stream, once.
func (c *Conn) Facts(ctx context.Context, stream string) (Facts, error) {
	var info *jetstream.StreamInfo
	err := c.once(ctx, func(ctx context.Context) error {
		s, err := c.js.Stream(ctx, stream)
		if err == nil {
			info = s.CachedInfo()
		}
		return err
	})
	if err != nil {
		return Facts{}, sorted(err, "look at stream %q", stream)
	}
	return Facts{
		Created: info.Created, Messages: info.State.Msgs, Bytes: info.State.Bytes,
		First: info.State.FirstSeq, Last: info.State.LastSeq, FirstTime: info.State.FirstTime, LastTime: info.State.LastTime,
		Consumers: info.State.Consumers, Replicas: info.Config.Replicas, MaxAge: info.Config.MaxAge,
	}, nil
}

// SeqAt is the sequence of the first message on subjects that match filter and was
// stored at a time or later. Found is false when there is none.
func (c *Conn) SeqAt(ctx context.Context, stream, filter string, at time.Time) (seq uint64, found bool, err error) {
	question := map[string]any{"start_time": at.UTC(), "next_by_subj": filter, "no_hdr": true}
	err = c.retry(ctx, func(ctx context.Context) error {
		msg, err := c.fromLeader(ctx, stream, question)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return nil
		case err == nil:
			seq = msg.Sequence
		}
		return err
	})
	if err != nil {
		return 0, false, sorted(err, "look for the first message of %q since %s", filter, at.UTC().Format(time.RFC3339))
	}
	return seq, seq > 0, nil
}
