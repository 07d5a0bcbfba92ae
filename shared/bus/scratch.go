package bus

import (
	"context"
	"errors"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

// MakeBucket makes a bucket that is nobody else's, and which nothing keeps: who makes
// it removes it. The error Is [ErrExists] where one of that name is there, whoever
// made it.
func (c *Conn) MakeBucket(ctx context.Context, b Bucket, replicas int) (*KV, error) {
	config := b.config(replicas)
	// The server takes the making of a stream that is there for done if it looks the
	// same. With a mark of its own only a repetition of this very request does.
	config.Metadata = map[string]string{"rollcall-maker": nuid.Next()}
	kv := &KV{conn: c, name: b.Name}
	err := c.retry(ctx, func(ctx context.Context) (err error) {
		kv.stream, err = c.js.CreateStream(ctx, config)
		return err
	})
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
		err = ErrExists
	}
	if err != nil {
		return nil, sorted(err, "make bucket %q", b.Name)
	}
	kv.opened()
	return kv, nil
}

// RemoveBucket removes a bucket with everything in it. One that is not there is
// removed.
func (c *Conn) RemoveBucket(ctx context.Context, name string) error {
	err := c.retry(ctx, func(ctx context.Context) error { return c.js.DeleteStream(ctx, bucketStream(name)) })
	if err == nil || errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return sorted(err, "remove bucket %q", name)
}
