package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Message is one message to store.
type Message struct {
	Subject string
	ID      string // the Nats-Msg-Id; a second message with it is not stored
	Header  nats.Header
	Data    []byte
	// Contested says that others choose ids in the stream too, strangers among
	// them. What the stream takes for a repetition is then looked at.
	Contested bool
}

// Ack is the server's answer to a publish.
type Ack struct {
	Seq       uint64 // where the message is stored
	Duplicate bool   // it had been stored before, at Seq
}

// Publish stores m. It tries again, under the same id, until ctx ends (five
// seconds when ctx has no deadline); then the error Is [ErrUnavailable] and
// the message may or may not be stored. A refusal returns at once.
// Where the message is contested and its id is that of a message on another
// subject, it is not stored, and the error Is [ErrTaken].
// NB: without an ID a retry can store the message twice.
func (c *Conn) Publish(ctx context.Context, m Message) (Ack, error) {
	var ack *jetstream.PubAck
	err := c.retry(ctx, func(ctx context.Context) error {
		var err error
		ack, err = c.js.PublishMsg(ctx, m.wire())
		return err
	})
	if err != nil {
		return Ack{}, sorted(err, "publish %s to %q", m.ID, m.Subject)
	}
	c.note(ack.Stream, ack.Sequence)
	if m.Contested && ack.Duplicate {
		if err := c.repeats(ctx, ack, m.Subject); err != nil {
			return Ack{}, sorted(err, "publish %s to %q", m.ID, m.Subject)
		}
	}
	return Ack{Seq: ack.Sequence, Duplicate: ack.Duplicate}, nil
}

// repeats sees that what a message was taken to repeat is on its subject. A
// stream knows an id whatever subject it came on. What is stored no more cannot be
// told apart, and counts as the same.
func (c *Conn) repeats(ctx context.Context, ack *jetstream.PubAck, subject string) error {
	return c.retry(ctx, func(ctx context.Context) error {
		msg, err := c.fromLeader(ctx, ack.Stream, map[string]any{"seq": ack.Sequence})
		switch {
		case errors.Is(err, jetstream.ErrMsgNotFound):
			return nil
		case err == nil && msg.Subject != subject:
			return ErrTaken
		}
		return err
	})
}

// wire is the message as sent: a new one for every attempt, because nats.go
// writes to what it sends.
func (m Message) wire() *nats.Msg {
	header := maps.Clone(m.Header)
	if header == nil {
		header = nats.Header{}
	}
	if m.ID != "" {
		header.Set(jetstream.MsgIDHeader, m.ID)
	}
	return &nats.Msg{Subject: m.Subject, Header: header, Data: m.Data}
}

// Purge asks for the messages on a subject to be removed from a stream, and waits
// for no answer: what is asked for may not happen.
func (c *Conn) Purge(stream, subject string) error {
	request, err := json.Marshal(map[string]string{"filter": subject})
	if err != nil {
		return fmt.Errorf("purge %q: %w", subject, err)
	}
	if err := c.nc.Publish("$JS.API.STREAM.PURGE."+stream, request); err != nil {
		return fmt.Errorf("purge %q: %w", subject, err)
	}
	return nil
}
