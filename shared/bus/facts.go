package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
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

// NextOn reads the first message at a sequence or later that is stored on a subject.
// Found is false when there is none. The leader finds it by its index of subjects, far
// quicker than a consumer that has to pass over what lies between.
func (c *Conn) NextOn(ctx context.Context, stream, subject string, from uint64) (d *Delivery, found bool, err error) {
	question := map[string]any{"seq": from, "next_by_subj": subject}
	err = c.retry(ctx, func(ctx context.Context) error {
		msg, err := c.fromLeader(ctx, stream, question)
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return nil
		case err == nil:
			d = &Delivery{Subject: msg.Subject, Header: msg.Header, Data: msg.Data, Stream: stream, Seq: msg.Sequence, Attempt: 1, Time: msg.Time}
		}
		return err
	})
	if err != nil {
		return nil, false, sorted(err, "look for the first message on %q from %d on", subject, from)
	}
	return d, d != nil, nil
}

// SubjectsOf lists the subjects that match filter and that messages are stored on, in
// order. The error Is [ErrTooMany] when there are more than most, which the server
// bounds by 100,000.
func (c *Conn) SubjectsOf(ctx context.Context, stream, filter string, most int) ([]string, error) {
	question, err := json.Marshal(map[string]string{"subjects_filter": filter})
	if err != nil {
		return nil, fmt.Errorf("encode question: %w", err)
	}
	var answer struct {
		Error *jetstream.APIError `json:"error"`
		Total int                 `json:"total"`
		State struct {
			Subjects map[string]uint64 `json:"subjects"`
		} `json:"state"`
	}
	err = c.retry(ctx, func(ctx context.Context) error {
		answer.Error, answer.Total, answer.State.Subjects = nil, 0, nil
		reply, err := c.nc.RequestWithContext(ctx, "$JS.API.STREAM.INFO."+stream, question)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(reply.Data, &answer); err != nil {
			return fmt.Errorf("read answer: %w", err)
		}
		if answer.Error != nil {
			return answer.Error
		}
		return nil
	})
	if err != nil {
		return nil, sorted(err, "list the subjects of %q", filter)
	}
	if found := max(answer.Total, len(answer.State.Subjects)); found > most || found > len(answer.State.Subjects) {
		return nil, fmt.Errorf("list the subjects of %q: %w", filter, ErrTooMany)
	}
	return slices.Sorted(maps.Keys(answer.State.Subjects)), nil
}
