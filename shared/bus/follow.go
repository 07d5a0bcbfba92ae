package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nuid"
)

const (
	followQueue     = 256              // messages between NATS and the reader; full: the puller waits
	followExpiry    = 10 * time.Second // of one pull request
	followHeartbeat = time.Second      // two missed ones end a session
	followInactive  = 30 * time.Second // the server removes a consumer nobody pulls from
	syncCheck       = 250 * time.Millisecond
)

// errBroken ends a session; the next one resumes where it stopped.
var errBroken = errors.New("consumer lost")

// follower reads a stream in order through consumers that come and go. Each
// session has a consumer of its own, without acknowledgements, that starts
// behind the last message handed on; a gap in its numbering, a missed
// heartbeat, a lost connection or an error ends the session. So
//
//	handed on = every stored message in (start, cursor], once, in order
//
// whatever happens. It is an ordered consumer like that of nats.go, except
// that a reset never outlives ctx, waits for the connection rather than for a
// timer, and does not start over at "now" when it comes before the first message.
type follower struct {
	conn    *Conn
	stream  string
	filters []string
	last    bool // begin with the last message of every subject
	handle  func(jetstream.Msg, *jetstream.MsgMetadata)
	synced  func() // called once, when what was stored at the start is handed on
	reset   func() // called when the stream is another one; nil: nobody wants to know

	cursor  uint64    // the last sequence handed on, or skipped
	begun   bool      // cursor is meaningful; with last not before something was handed on
	target  uint64    // the stream's end at the start; synced from there on
	created time.Time // tells the stream from a later one of the same name
	silent  time.Time // since when no session has come about; zero while one has
}

// run follows until ctx ends, which is no error. What no new session can mend ends
// it: a connection closed for good, and before the stream was seen also what the
// server refuses for good, such as a stream that is not there.
func (f *follower) run(ctx context.Context) error {
	wait := backoff{}
	for {
		began := time.Now()
		err := f.session(ctx)
		switch {
		case ctx.Err() != nil:
			return nil //nolint:nilerr // the session failed because it was over
		case f.hopeless(err):
			return fmt.Errorf("follow stream %q: %w", f.stream, err)
		case time.Since(began) > backoffMost:
			wait = backoff{}
		}
		f.conn.log.Debug().Err(err).Str("stream", f.stream).Uint64("seq", f.cursor).Msg("following again")
		pause(ctx, f.conn.wake(), wait.next())
	}
}

// hopeless says whether another session would fail as this one did. A stream that was
// seen may come back.
func (f *follower) hopeless(err error) bool {
	if errors.Is(err, nats.ErrConnectionClosed) {
		return true
	}
	return f.created.IsZero() && classify(err) == classPermanent
}

// session finds the stream and hands on what is in it, while the connection lasts.
func (f *follower) session(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(f.conn.current().life, cancel)()
	began := time.Now()
	cons, err := f.open(ctx)
	if err != nil {
		f.silent = cmp.Or(f.silent, began)
		return err
	}
	if !f.silent.IsZero() {
		f.conn.noteWait(f.silent)
		f.silent = time.Time{}
	}
	return f.attend(ctx, cons)
}

// open finds the stream and creates this session's consumer.
func (f *follower) open(ctx context.Context) (jetstream.Consumer, error) {
	if err := f.locate(ctx); err != nil {
		return nil, err
	}
	return f.consumer(ctx)
}

// attend hands on what a consumer delivers.
func (f *follower) attend(ctx context.Context, cons jetstream.Consumer) error {
	defer f.discard(cons.CachedInfo().Name)
	if cons.CachedInfo().NumPending == 0 {
		f.sync()
	}
	return f.pump(ctx, cons)
}

// locate finds out where the stream ends, and whether it still is the same. One that
// this connection looks after may be missing from the start: a server on its own that
// restarted held it in memory.
func (f *follower) locate(ctx context.Context) error {
	var stream jetstream.Stream
	err := f.conn.once(ctx, func(ctx context.Context) (err error) {
		stream, err = f.conn.js.Stream(ctx, f.stream)
		return err
	})
	if err != nil {
		return f.conn.sparing(f.stream, err)
	}
	info := stream.CachedInfo()
	end := info.State.LastSeq
	switch {
	case f.created.IsZero() && !f.last && !f.begun:
		f.cursor, f.begun = end, true // only what is new
	case !f.created.IsZero() && !f.created.Equal(info.Created):
		f.cursor, f.begun = 0, !f.last // another stream: all of it
		if f.reset != nil {
			f.reset()
		}
	case f.begun && f.cursor > end && !f.created.IsZero():
		f.cursor, f.begun = end, !f.last // the server lost its tail
	}
	f.created, f.target = info.Created, end
	return nil
}

// consumer creates this session's consumer.
func (f *follower) consumer(ctx context.Context) (jetstream.Consumer, error) {
	cfg := jetstream.ConsumerConfig{
		Name:              "follow_" + nuid.Next(),
		AckPolicy:         jetstream.AckNonePolicy,
		MemoryStorage:     true,
		Replicas:          1,
		InactiveThreshold: followInactive,
		FilterSubjects:    f.filters,
		DeliverPolicy:     jetstream.DeliverLastPerSubjectPolicy,
	}
	if f.begun {
		cfg.DeliverPolicy, cfg.OptStartSeq = jetstream.DeliverByStartSequencePolicy, f.cursor+1
	}
	var cons jetstream.Consumer
	err := f.conn.once(ctx, func(ctx context.Context) (err error) {
		cons, err = f.conn.js.CreateConsumer(ctx, f.stream, cfg)
		return err
	})
	return cons, err
}

// discard removes a consumer without waiting for the answer. If the request is
// lost the server removes the consumer once it is inactive.
func (f *follower) discard(name string) {
	err := f.conn.nc.Publish("$JS.API.CONSUMER.DELETE."+f.stream+"."+name, nil)
	if err != nil {
		f.conn.log.Debug().Err(err).Str("consumer", name).Msg("consumer left to lapse")
	}
}

// pump moves messages from NATS to this goroutine and hands them on.
func (f *follower) pump(ctx context.Context, cons jetstream.Consumer) error {
	queue, failed := make(chan jetstream.Msg, followQueue), make(chan error, 1)
	take := func(msg jetstream.Msg) {
		select {
		case queue <- msg:
		case <-ctx.Done():
		}
	}
	fail := func(_ jetstream.ConsumeContext, err error) {
		select {
		case failed <- err:
		default:
		}
	}
	puller, err := cons.Consume(take, jetstream.PullExpiry(followExpiry),
		jetstream.PullHeartbeat(followHeartbeat), jetstream.ConsumeErrHandler(fail))
	if err != nil {
		return err
	}
	defer puller.Stop()
	return f.drain(ctx, cons, queue, failed)
}

// drain hands on what arrives until the session fails. The order in which a
// failure and the messages before it are seen does not matter: what is left in
// the queue is delivered again to the next session.
func (f *follower) drain(ctx context.Context, cons jetstream.Consumer, queue <-chan jetstream.Msg, failed <-chan error) error {
	check := time.NewTicker(syncCheck)
	defer check.Stop()
	var delivered uint64
	for {
		select {
		case <-ctx.Done():
			return errBroken
		case err := <-failed:
			return err
		case msg := <-queue:
			meta, err := msg.Metadata()
			if err != nil || meta.Sequence.Consumer != delivered+1 {
				return errBroken
			}
			delivered++
			f.deliver(msg, meta)
		case <-check.C:
			if f.synced == nil {
				check.Stop()
				continue
			}
			f.checkSync(ctx, cons, delivered)
		}
	}
}

// deliver hands one message on.
func (f *follower) deliver(msg jetstream.Msg, meta *jetstream.MsgMetadata) {
	if meta.Sequence.Stream > f.target {
		f.sync()
	}
	f.cursor, f.begun = meta.Sequence.Stream, true
	f.conn.note(f.stream, meta.Sequence.Stream)
	f.handle(msg, meta)
	if meta.NumPending == 0 || meta.Sequence.Stream == f.target {
		f.sync()
	}
}

// checkSync asks the server whether anything is left. It finds the rare end of
// a snapshot whose last messages vanished before they were delivered.
func (f *follower) checkSync(ctx context.Context, cons jetstream.Consumer, delivered uint64) {
	var info *jetstream.ConsumerInfo
	err := f.conn.once(ctx, func(ctx context.Context) (err error) {
		info, err = cons.Info(ctx)
		return err
	})
	if err == nil && info.NumPending == 0 && info.Delivered.Consumer == delivered {
		f.sync()
	}
}

// sync says that what was stored at the start is handed on. It leaves the cursor where
// it is. That nothing is pending is the word of the one replica that has the consumer,
// and target that of the stream's leader: a replica that is still catching up would let
// a cursor at target pass over what it has not delivered yet. So a follower of whose
// messages there are none for long begins its next session far back. That costs the
// server a search of its index of subjects from there on, and nothing is sent for it.
//
// NB: for the same reason what such a replica lacks comes after synced, as what is new.
func (f *follower) sync() {
	if f.synced != nil {
		f.synced()
		f.synced = nil
	}
}
