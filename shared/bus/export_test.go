package bus

import (
	"context"

	"github.com/nats-io/nats.go"
)

// Older compares versions of servers.
func Older(version, than string) bool { return older(version, than) }

// ByLeader returns the bucket as one whose rows are read from the stream's
// leader.
func (b *KV) ByLeader() *KV {
	c := *b
	c.byLeader = true
	return &c
}

// ListInParts is List with the server breaking off after so many bytes.
func (b *KV) ListInParts(ctx context.Context, most int, filters ...string) ([]Entry, uint64, error) {
	return b.list(ctx, most, filters...)
}

// Listing is a request for rows under way, and Ended how it takes the server's last word.
type Listing = listing

// Ended is what a listing makes of the word that ends a part of it.
func (l *listing) Ended(status string, header nats.Header, last uint64) (more bool, err error) {
	return l.ended(status, header, last)
}

// Away is what a survey says of a cluster.
var Away = away

// ReadBehind reads a stream, or with last what is last on every subject of it, through a
// replica that lacks the last messages which the stream's leader tells of, until that
// replica says that nothing is pending. So the session ends; readOn has more of them.
func (c *Conn) ReadBehind(ctx context.Context, stream string, last bool, lacking uint64, fn func(*Delivery)) (readOn func(context.Context) error, err error) {
	f := c.reader(stream, []string{">"}, 0, fn)
	f.last, f.begun = last, !last
	cons, err := f.open(ctx)
	if err != nil {
		return nil, err
	}
	f.target += lacking
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.synced = cancel
	err = f.attend(ctx, cons)
	if f.synced != nil {
		return nil, err
	}
	return f.run, nil
}

// LookAfter is one look of upkeep at everything that was ensured.
func (c *Conn) LookAfter(ctx context.Context) error {
	for _, a := range c.kept() {
		if err := c.look(ctx, a); err != nil {
			return err
		}
	}
	return nil
}
