package bus

import (
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
)

// Delivery is one stored message on its way to a handler. What is read with
// [Conn.Read] needs no settling: there Ack and its kin do nothing.
type Delivery struct {
	Subject  string
	Header   nats.Header
	Data     []byte
	Stream   string
	Consumer string
	Seq      uint64    // in the stream
	Attempt  int       // 1 for the first delivery
	Time     time.Time // when it was stored
	Pending  uint64    // how many match and wait behind it
	// Origin is when the stream was made, which tells its sequences from those of
	// another stream of the same name; only what is read with [Conn.Read] has it.
	Origin time.Time

	msg *nats.Msg
}

// Ack says that the message is done with.
func (d *Delivery) Ack() error { return d.settle("+ACK") }

// Nak asks for the message again after delay.
func (d *Delivery) Nak(delay time.Duration) error {
	if delay <= 0 {
		return d.settle("-NAK")
	}
	return d.settle(fmt.Sprintf(`-NAK {"delay": %d}`, delay.Nanoseconds()))
}

// Term says that the message shall never be delivered again, and why.
func (d *Delivery) Term(reason string) error {
	if reason == "" {
		return d.settle("+TERM")
	}
	return d.settle("+TERM " + reason)
}

// InProgress asks for another AckWait.
func (d *Delivery) InProgress() error { return d.settle("+WPI") }

// settle sends an answer nobody confirms: if it is lost the message comes again.
func (d *Delivery) settle(answer string) error {
	if d.msg == nil {
		return nil
	}
	if err := d.msg.Respond([]byte(answer)); err != nil {
		return fmt.Errorf("settle %s/%d: %w", d.Stream, d.Seq, err)
	}
	return nil
}

// received reads a message that a push consumer sent.
func received(msg *nats.Msg) (*Delivery, error) {
	meta, err := msg.Metadata()
	if err != nil {
		return nil, fmt.Errorf("message on %q comes from no consumer: %w", msg.Subject, err)
	}
	return &Delivery{
		Subject: msg.Subject, Header: msg.Header, Data: msg.Data,
		Stream: meta.Stream, Consumer: meta.Consumer, Seq: meta.Sequence.Stream,
		Attempt: int(meta.NumDelivered), Time: meta.Timestamp, Pending: meta.NumPending, //nolint:gosec // counts deliveries of one message
		msg: msg,
	}, nil
}
