package audit

import (
	"context"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// Read reads everything there is. What is still being written meanwhile may be in
// the rows and not in the stream, or the other way round.
func Read(ctx context.Context, conn *bus.Conn) (History, error) {
	var h History
	extent, err := conn.Extent(ctx, subjects.StreamEvents)
	if err != nil {
		return h, err
	}
	if extent.First > 1 && extent.First <= extent.Last {
		return h, fmt.Errorf("stream %s begins at %d: its first events are gone", subjects.StreamEvents, extent.First)
	}
	for bucket, rows := range map[string]*[]Row{
		subjects.BucketPresence: &h.Presence, subjects.BucketLeases: &h.Leases, subjects.BucketGateways: &h.Gateways,
	} {
		if *rows, err = readBucket(ctx, conn, bucket); err != nil {
			return h, err
		}
	}
	h.At = time.Now()
	return h, conn.ReadStored(ctx, subjects.StreamEvents, nil, 1, func(d *bus.Delivery) {
		h.Messages = append(h.Messages, Message{
			Seq: d.Seq, Subject: d.Subject, ID: d.Header.Get(jetstream.MsgIDHeader), Cause: d.Header.Get(subjects.HeaderCause),
			Time: d.Time.UTC(), Data: d.Data,
		})
	})
}

// readBucket reads the rows of a bucket, without its markers.
func readBucket(ctx context.Context, conn *bus.Conn, name string) ([]Row, error) {
	kv, err := conn.Bucket(ctx, name)
	if err != nil {
		return nil, err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	rows, synced := []Row{}, false
	err = kv.Watch(watching, "", func(u bus.Update) {
		switch {
		case u.Synced:
			synced = true
			stop()
		case u.Op == bus.Put && !synced && !u.Reset:
			rows = append(rows, Row{Key: u.Key, Value: u.Value})
		}
	})
	if err == nil && !synced {
		err = fmt.Errorf("read bucket %s: %w", name, ctx.Err())
	}
	return rows, err
}
