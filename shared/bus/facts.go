package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	question, err := json.Marshal(map[string]any{"start_time": at.UTC(), "next_by_subj": filter, "no_hdr": true})
	if err != nil {
		return 0, false, fmt.Errorf("encode question: %w", err)
	}
	err = c.retry(ctx, func(ctx context.Context) error {
		seq, err = c.seqOf(ctx, stream, question)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			seq, err = 0, nil
		}
		return err
	})
	if err != nil {
		return 0, false, sorted(err, "look for the first message of %q since %s", filter, at.UTC().Format(time.RFC3339))
	}
	return seq, seq > 0, nil
}

// seqOf asks the stream's leader for a message and reads its sequence.
func (c *Conn) seqOf(ctx context.Context, stream string, question []byte) (uint64, error) {
	reply, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, question)
	if err != nil {
		return 0, err
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Sequence uint64 `json:"seq"`
		} `json:"message"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return 0, fmt.Errorf("read answer: %w", err)
	}
	switch {
	case answer.Error != nil && answer.Error.ErrorCode == jetstream.JSErrCodeMessageNotFound:
		return 0, jetstream.ErrMsgNotFound
	case answer.Error != nil:
		return 0, answer.Error
	default:
		return answer.Message.Sequence, nil
	}
}
