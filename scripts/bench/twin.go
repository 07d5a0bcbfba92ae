package bench

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// The twin's streams. They are rollcall's under other names.
const (
	rawEvents   = "BENCH_EVENTS"
	rawCommands = "BENCH_COMMANDS"
	rawEdge     = "BENCH_EDGE"
	rawRows     = "BENCH_ROWS"
	rawDeliver  = "bench.deliver"
	rawGroup    = "bench"

	// rawPending bounds what is under way in the worker, as in the services.
	rawPending = 1000
	// rawLanes is how much of it is worked on at once, and rawDepth how much
	// waits for each of those, likewise.
	rawLanes = 64
	rawDepth = 64
)

// twin does what rollcall does with JetStream, and nothing else. It has a
// connection for each process that it stands for.
type twin struct {
	gateway, worker, reader *nats.Conn
	store, work             jetstream.JetStream // of gateway and worker
	stored                  jetstream.Stream    // the rows
	samples                 samples
	seen                    *sightings
	rows                    revisions
	closers                 []func()

	lanes [rawLanes]chan *nats.Msg
	busy  sync.WaitGroup
	// over ends what waits for a lane.
	over  chan struct{}
	mu    sync.Mutex
	fault error
}

// samples are messages that rollcall has stored.
type samples struct {
	opened, beacon, changed, upserted, agentRow, instanceRow []byte
	// Those of leases are nil where leases are not served.
	command, reply, granted, leaseRow []byte
}

// newTwin makes the streams and lets the worker and the readers begin. It needs
// to be closed.
func newTwin(ctx context.Context, at place, s samples) (*twin, error) {
	t := &twin{samples: s, seen: newSightings(), rows: revisions{last: map[string]uint64{}}, over: make(chan struct{})}
	for i := range t.lanes {
		t.lanes[i] = make(chan *nats.Msg, rawDepth)
		t.busy.Go(func() { t.run(t.lanes[i]) })
	}
	for _, step := range []func(context.Context, place) error{t.connectAll, t.ensure, t.begin} {
		if err := step(ctx, at); err != nil {
			t.close(ctx)
			return nil, fmt.Errorf("start the raw twin: %w", err)
		}
	}
	return t, nil
}

func (t *twin) connectAll(_ context.Context, at place) error {
	for _, nc := range []**nats.Conn{&t.gateway, &t.worker, &t.reader} {
		var err error
		if *nc, err = at.connect("rollcall bench twin"); err != nil {
			return err
		}
		t.closers = append(t.closers, (*nc).Close)
	}
	var faults [2]error
	t.store, faults[0] = jetstream.New(t.gateway)
	t.work, faults[1] = jetstream.New(t.worker)
	return errors.Join(faults[:]...)
}

// ensure makes the streams with the settings of rollcall's own.
func (t *twin) ensure(ctx context.Context, at place) error {
	conn, err := at.bus(ctx, "rollcall bench")
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // nothing is under way
	for _, s := range subjects.Streams(subjects.DefaultEventsMaxAge) {
		s.Name = "BENCH_" + s.Name
		s.Subjects = []string{"bench." + strings.ToLower(strings.TrimPrefix(s.Name, "BENCH_")) + ".>"}
		if err := conn.EnsureStream(ctx, bus.Stream(s), 1); err != nil {
			return err
		}
	}
	bucket := subjects.Buckets()[0]
	bucket.Name = rawRows
	if err := conn.EnsureBucket(ctx, bus.Bucket(bucket), 1); err != nil {
		return err
	}
	t.stored, err = t.work.Stream(ctx, "KV_"+rawRows)
	return err
}

// begin starts the consumers: one for the worker on each stream that it works
// on, and readers in order of what it announces.
func (t *twin) begin(ctx context.Context, _ place) error {
	if _, err := t.worker.QueueSubscribe(rawDeliver, rawGroup, t.take); err != nil {
		return err
	}
	for stream, filters := range map[string][]string{
		rawEvents:   {"bench.events.agent.>", "bench.events.lease.>"},
		rawCommands: {"bench.commands.*.request", "bench.commands.*.claim", "bench.commands.*.finalize"},
	} {
		if _, err := t.work.CreatePushConsumer(ctx, stream, jetstream.ConsumerConfig{
			Durable: "bench", DeliverSubject: rawDeliver, DeliverGroup: rawGroup, FilterSubjects: filters,
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: patience, MaxAckPending: rawPending,
		}); err != nil {
			return err
		}
	}
	presenceRows := []string{"$KV." + rawRows + ".agent.>", "$KV." + rawRows + ".instance.>"}
	leaseRows := []string{"$KV." + rawRows + ".lease.>"}
	saw := func(m jetstream.Msg) { t.seen.saw(m.Subject()) }
	for _, r := range []struct {
		by      *nats.Conn
		stream  string
		filters []string
		see     func(jetstream.Msg)
	}{
		// Every gateway reads all events of a tenant that has peers there, what is
		// for its own connections, and the rows of PRESENCE.
		{t.gateway, rawEvents, []string{"bench.events.>"}, nil},
		{t.gateway, rawEdge, []string{"bench.edge.>"}, saw},
		{t.gateway, "KV_" + rawRows, presenceRows, nil},
		{t.reader, rawEvents, []string{"bench.events.>"}, saw},
		{t.reader, "KV_" + rawRows, presenceRows, nil},
		// Presence and lease follow the buckets that they write.
		{t.worker, "KV_" + rawRows, presenceRows, nil},
		{t.worker, "KV_" + rawRows, leaseRows, nil},
	} {
		if err := t.read(ctx, r.by, r.stream, r.filters, r.see); err != nil {
			return err
		}
	}
	// Upserted events go to whoever subscribes to them on NATS.
	_, err := t.reader.Subscribe("bench.events.instance.>", func(m *nats.Msg) { t.seen.saw(m.Subject) })
	return err
}

// read follows a stream in order, and has somebody see what comes.
func (t *twin) read(ctx context.Context, by *nats.Conn, stream string, filters []string, see func(jetstream.Msg)) error {
	js, err := jetstream.New(by)
	if err != nil {
		return err
	}
	consumer, err := js.OrderedConsumer(ctx, stream, jetstream.OrderedConsumerConfig{
		FilterSubjects: filters, DeliverPolicy: jetstream.DeliverNewPolicy,
	})
	if err != nil {
		return err
	}
	consuming, err := consumer.Consume(func(m jetstream.Msg) {
		if see != nil {
			see(m)
		}
	})
	if err != nil {
		return err
	}
	t.closers = append(t.closers, consuming.Stop)
	return nil
}

// close ends the twin and removes its streams.
func (t *twin) close(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	close(t.over)
	t.busy.Wait()
	if t.store != nil {
		for _, stream := range []string{rawEvents, rawCommands, rawEdge, "KV_" + rawRows} {
			_ = t.store.DeleteStream(ctx, stream) // the server may be gone already
		}
	}
	for i := range t.closers {
		t.closers[len(t.closers)-1-i]()
	}
}

// take is the worker's subscription: what concerns one agent or one lease goes
// down one lane. While that is full, all wait.
func (t *twin) take(m *nats.Msg) {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(m.Subject[:strings.LastIndexByte(m.Subject, '.')]))
	select {
	case t.lanes[sum.Sum32()%rawLanes] <- m:
	case <-t.over:
	}
}

// run handles what comes down one lane.
func (t *twin) run(lane <-chan *nats.Msg) {
	for {
		select {
		case <-t.over:
			return
		case m := <-lane:
			if err := t.handle(m); err != nil {
				t.mu.Lock()
				t.fault = errors.Join(t.fault, fmt.Errorf("work on %s: %w", m.Subject, err))
				t.mu.Unlock()
			}
		}
	}
}

// await waits for something that the worker announces. If it does not come, the
// worker may know why.
func (t *twin) await(ctx context.Context, subject string, seen <-chan time.Time) (time.Time, error) {
	at, err := wait(ctx, subject, seen)
	if err != nil {
		t.mu.Lock()
		defer t.mu.Unlock()
		return at, errors.Join(err, t.fault)
	}
	return at, nil
}

// revisions are those of the rows, as their only writer knows them.
type revisions struct {
	mu   sync.Mutex
	last map[string]uint64
}

func (r *revisions) get(key string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last[key]
}

func (r *revisions) set(key string, revision uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last[key] = revision
}
