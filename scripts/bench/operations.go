package bench

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rollcall/subjects"
)

// put stores a message under a fresh id.
func put(ctx context.Context, js jetstream.JetStream, subject string, data []byte, header nats.Header) error {
	if header == nil {
		header = nats.Header{}
	}
	_, err := js.PublishMsg(ctx, &nats.Msg{Subject: subject, Header: header, Data: data}, jetstream.WithMsgID(subjects.NewID()))
	return err
}

// write writes a row by compare-and-set.
func (t *twin) write(ctx context.Context, key string, value []byte, opts ...jetstream.PublishOpt) error {
	m := &nats.Msg{Subject: "$KV." + rawRows + "." + key, Header: nats.Header{}, Data: value}
	ack, err := t.work.PublishMsg(ctx, m, append(opts, jetstream.WithExpectLastSequencePerSubject(t.rows.get(key)))...)
	if err != nil {
		return err
	}
	t.rows.set(key, ack.Sequence)
	return nil
}

// operation is one thing that the worker does.
type operation func(ctx context.Context) error

// handle does for one delivery what the services do, in their order, and
// acknowledges it.
func (t *twin) handle(m *nats.Msg) error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	words := strings.Split(m.Subject, ".")
	for _, operate := range t.operations(words[1], words[len(words)-2], words[len(words)-1]) {
		if err := operate(ctx); err != nil {
			return err
		}
	}
	return m.Ack()
}

// operations are what a message causes: kind is the stream's, key names the
// agent or the lease, name what happened or is asked.
func (t *twin) operations(kind, key, name string) []operation {
	s := t.samples
	event := func(subject string, data []byte) operation {
		return func(ctx context.Context) error { return put(ctx, t.work, subject, data, nil) }
	}
	row := func(key string, value []byte, opts ...jetstream.PublishOpt) operation {
		return func(ctx context.Context) error { return t.write(ctx, key, value, opts...) }
	}
	transition := func(name string) operation { return event("bench.events.lease."+key+"."+name, s.granted) }
	reply := event("bench.edge."+key+"."+name, s.reply)
	switch kind + "." + name {
	case "events.opened":
		return []operation{
			row("agent."+key, s.agentRow), event("bench.events.presence."+key, s.changed),
			row("instance."+key, s.instanceRow), event("bench.events.instance."+key, s.upserted),
		}
	case "events.beacon":
		return []operation{
			row("agent."+key, s.agentRow), row("instance."+key, s.instanceRow),
			event("bench.events.instance."+key, s.upserted),
		}
	case "events.granted", "events.consumed": // for presence
		return []operation{t.look("agent." + key), row("agent."+key, s.agentRow), event("bench.events.presence."+key, s.changed)}
	case "events.requested", "events.claimed": // likewise, and it does nothing with them
		return nil
	case "commands.request":
		return []operation{
			t.look("closed." + key), row("lease."+key, s.leaseRow), t.schedule(key), event("bench.edge."+key+".notice", s.granted),
			reply, transition("requested"), transition("granted"), t.look("closed." + key),
		}
	case "commands.claim":
		return []operation{row("lease."+key, s.leaseRow), reply, transition("claimed")}
	case "commands.finalize":
		return []operation{
			row("lease."+key, s.leaseRow, jetstream.WithMsgTTL(leaseRetention)), t.unschedule(key), reply, transition("consumed"),
		}
	default:
		return []operation{func(context.Context) error { return fmt.Errorf("no operations for %s.%s", kind, name) }}
	}
}

// look reads a row, there or not.
func (t *twin) look(key string) operation {
	return func(ctx context.Context) error {
		_, err := t.stored.GetLastMsgForSubject(ctx, "$KV."+rawRows+"."+key)
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		return err
	}
}

// leaseRetention is how long the row of a lease that has ended stays.
const leaseRetention = 10 * time.Minute

// schedule sets the timer of a lease; setting it again replaces it.
func (t *twin) schedule(key string) operation {
	return func(ctx context.Context) error {
		return put(ctx, t.work, "bench.commands."+key+".schedule", []byte(`{"agent_id":"agent-0000","epoch":1}`), nats.Header{
			"Nats-Schedule":        {"@at " + time.Now().Add(15*time.Minute).UTC().Format(time.RFC3339Nano)},
			"Nats-Schedule-Target": {"bench.commands." + key + ".timer"},
		})
	}
}

// unschedule removes the timer of a lease.
func (t *twin) unschedule(key string) operation {
	return func(context.Context) error {
		return t.worker.Publish("$JS.API.STREAM.PURGE."+rawCommands, fmt.Appendf(nil, `{"filter":"bench.commands.%s.schedule"}`, key))
	}
}

// connect stores an opened connection, and returns after what time that was
// done, and after what time a reader saw the change it causes.
func (t *twin) connect(ctx context.Context, key string) (stored, seen time.Duration, err error) {
	subject := "bench.events.presence." + key
	changed := t.seen.expect(subject)
	began := time.Now()
	if err := put(ctx, t.store, "bench.events.agent."+key+".opened", t.samples.opened, nil); err != nil {
		return 0, 0, err
	}
	stored = time.Since(began)
	at, err := t.await(ctx, subject, changed)
	return stored, at.Sub(began), err
}

// beacon stores a beacon and returns after what time the event it causes was
// seen.
func (t *twin) beacon(ctx context.Context, key string) (time.Duration, error) {
	subject := "bench.events.instance." + key
	upserted := t.seen.expect(subject)
	began := time.Now()
	if err := put(ctx, t.store, "bench.events.agent."+key+".beacon", t.samples.beacon, nil); err != nil {
		return 0, err
	}
	at, err := t.await(ctx, subject, upserted)
	return at.Sub(began), err
}

// lease stores the three commands of a lease's life, each once the one before
// is answered.
func (t *twin) lease(ctx context.Context) (time.Duration, error) {
	key := subjects.NewID()
	began := time.Now()
	for _, command := range []string{subjects.CommandRequest, subjects.CommandClaim, subjects.CommandFinalize} {
		subject := "bench.edge." + key + "." + command
		reply := t.seen.expect(subject)
		if err := put(ctx, t.store, "bench.commands."+key+"."+command, t.samples.command, nil); err != nil {
			return 0, err
		}
		if _, err := t.await(ctx, subject, reply); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}
