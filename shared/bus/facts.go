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
	msg, err := c.next(ctx, stream, map[string]any{"start_time": at.UTC(), "next_by_subj": filter, "no_hdr": true})
	if err != nil {
		return 0, false, sorted(err, "look for the first message of %q since %s", filter, at.UTC().Format(time.RFC3339))
	}
	if msg == nil {
		return 0, false, nil
	}
	return msg.Sequence, true, nil
}

// NextOn reads the first message at a sequence or later that is stored on a subject.
// Found is false when there is none. The leader finds it by its index of subjects, far
// quicker than a consumer that has to pass over what lies between.
func (c *Conn) NextOn(ctx context.Context, stream, subject string, from uint64) (d *Delivery, found bool, err error) {
	msg, err := c.next(ctx, stream, map[string]any{"seq": from, "next_by_subj": subject})
	if err != nil {
		return nil, false, sorted(err, "look for the first message on %q from %d on", subject, from)
	}
	if msg == nil {
		return nil, false, nil
	}
	return &Delivery{Subject: msg.Subject, Header: msg.Header, Data: msg.Data, Stream: stream, Seq: msg.Sequence, Attempt: 1, Time: msg.Time}, true, nil
}

// next is the message that a question to the leader finds, or nil.
func (c *Conn) next(ctx context.Context, stream string, question map[string]any) (found *jetstream.RawStreamMsg, err error) {
	err = c.retry(ctx, func(ctx context.Context) (err error) {
		found, err = c.fromLeader(ctx, stream, question)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		return err
	})
	return found, err
}

const (
	// warmBytes is how much of a stream lies between two of Warm's questions, a quarter
	// of what the server keeps in a block, and warmMessages how many messages at most:
	// the first goes by their average size.
	warmBytes    = 2 << 20
	warmMessages = 4000
	// noSubject is a subject that nothing is ever stored on.
	noSubject = "$rollcall.nothing"
)

// Warm makes the leader load the index of subjects of all blocks that have messages
// from one sequence to another, one block at a time. The server lets go of a block's
// index after two idle minutes. NextOn, and a consumer with a filter, load what they
// need of it under the lock that publishing needs too, all blocks up to the next
// message of the subject in one go: after Warm there are none to load. Take is asked
// before each question and ends it when it is false.
//
// A question for a subject that has no messages looks into the one block that it
// begins in; then the server finds that there is no such subject, and stops.
func (c *Conn) Warm(ctx context.Context, stream string, f Facts, from, to uint64, take func() bool) error {
	from = max(from, f.First+1) // from the first on it is not even looked into a block
	step := uint64(warmMessages)
	if f.Bytes > 0 && f.Last >= f.First {
		step = min(step, warmBytes*(f.Last-f.First+1)/f.Bytes+1)
	}
	for seq := from; seq <= to; seq += step {
		if !take() {
			return ErrTooMany
		}
		if _, _, err := c.NextOn(ctx, stream, noSubject, seq); err != nil {
			return err
		}
	}
	return nil
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
