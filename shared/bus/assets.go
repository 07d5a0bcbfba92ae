package bus

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Stream says what a stream must at least offer. A zero limit means unlimited.
type Stream struct {
	Name, Description  string
	Subjects           []string
	MaxAge, Duplicates time.Duration
	MaxConsumers       int // say a number: the server's own default is 1,000
	MaxMsgSize         int32
	WorkQueue          bool // a message goes when it is acknowledged
	Memory             bool
	Schedules          bool // messages may be scheduled
	Fixed              bool // one that exists is left as it is
}

// Bucket says what a bucket must at least offer. It keeps one message per key.
type Bucket struct {
	Name, Description string
	MarkerTTL         time.Duration // how long a lapsed row's marker stays
	MaxValueSize      int32
	Fixed             bool // one that exists is left as it is
}

// ensureAttempts bounds the races with other processes that ensure the same.
const ensureAttempts = 10

// EnsureStream creates the stream, or raises what is smaller than s asks for.
// It never shrinks anything, so what an operator enlarged stays. Any number of
// processes may do it at once. A fixed one is only created, and refused if
// it is there and does not fit.
// NB: raising reads, then writes; an operator's change in between is lost.
func (c *Conn) EnsureStream(ctx context.Context, s Stream, replicas int) error {
	return c.keep(ctx, &asset{want: s.config(replicas), fixed: s.Fixed})
}

// EnsureBucket does for a bucket what EnsureStream does for a stream.
func (c *Conn) EnsureBucket(ctx context.Context, b Bucket, replicas int) error {
	return c.keep(ctx, &asset{want: b.config(replicas), fixed: b.Fixed})
}

// ensure creates an asset or raises the one that is there, unless it is fixed.
func (c *Conn) ensure(ctx context.Context, a *asset) error {
	ctx, cancel := bounded(ctx, time.Now())
	defer cancel()
	var err error
	for range ensureAttempts {
		err = c.retry(ctx, func(ctx context.Context) error { return c.ensureOnce(ctx, a) })
		if err == nil || !raced(err) {
			break
		}
		if !pause(ctx, nil, jitter(backoffFirst)) {
			break
		}
	}
	return err
}

func (c *Conn) ensureOnce(ctx context.Context, a *asset) error {
	stream, err := c.js.Stream(ctx, a.want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if stream, err = c.js.CreateStream(ctx, c.continued(a.want)); err == nil {
			c.made(a, stream)
			return nil
		}
		if !raced(err) {
			return err
		}
		stream, err = c.js.Stream(ctx, a.want.Name)
	}
	if err != nil {
		return err
	}
	c.made(a, stream)
	have := stream.CachedInfo().Config
	raised, err := raise(have, a.want)
	if err != nil || a.fixed || reflect.DeepEqual(have, raised) {
		return err
	}
	_, err = c.js.UpdateStream(ctx, raised)
	return err
}

// raced says whether another process was faster.
func raced(err error) bool {
	return errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) || errors.Is(err, jetstream.ErrStreamNotFound)
}

func (s Stream) config(replicas int) jetstream.StreamConfig {
	cfg := jetstream.StreamConfig{
		Name: s.Name, Description: s.Description, Subjects: s.Subjects,
		MaxAge: s.MaxAge, Duplicates: s.Duplicates,
		MaxConsumers: unlimited(s.MaxConsumers), MaxMsgSize: unlimited(s.MaxMsgSize),
		MaxMsgs: -1, MaxBytes: -1, MaxMsgsPerSubject: -1,
		Replicas: max(replicas, 1), AllowDirect: true,
		AllowMsgSchedules: s.Schedules, AllowMsgTTL: s.Schedules, AllowRollup: s.Schedules,
	}
	if s.WorkQueue {
		cfg.Retention = jetstream.WorkQueuePolicy
	}
	if s.Memory {
		cfg.Storage = jetstream.MemoryStorage
	}
	return cfg
}

// config is that of the client library's buckets, so that its tools know them.
func (b Bucket) config(replicas int) jetstream.StreamConfig {
	return jetstream.StreamConfig{
		Name: bucketStream(b.Name), Description: b.Description, Subjects: []string{bucketPrefix(b.Name) + ">"},
		MaxMsgsPerSubject: 1, MaxMsgSize: unlimited(b.MaxValueSize), MaxConsumers: -1, MaxMsgs: -1, MaxBytes: -1,
		Duplicates: bucketDuplicates, Discard: jetstream.DiscardNew, DenyDelete: true,
		Replicas: max(replicas, 1), AllowDirect: true, AllowRollup: true,
		AllowMsgTTL: b.MarkerTTL > 0, SubjectDeleteMarkerTTL: b.MarkerTTL,
	}
}

// bucketDuplicates is what the server itself takes where nobody says anything.
const bucketDuplicates = 2 * time.Minute

// raise is have with everything at least as large as in want. It refuses what
// no update can mend. Storage stays as it is: either kind does.
func raise(have, want jetstream.StreamConfig) (jetstream.StreamConfig, error) {
	if (have.Retention == jetstream.WorkQueuePolicy) != (want.Retention == jetstream.WorkQueuePolicy) {
		return have, fmt.Errorf("%w: its retention is %s", errUnfit, have.Retention)
	}
	if want.MaxMsgsPerSubject == 1 && have.MaxMsgsPerSubject != 1 {
		return have, fmt.Errorf("%w: it keeps %d messages per key, expiry needs exactly one", errUnfit, have.MaxMsgsPerSubject)
	}
	up := have
	up.Subjects = cover(have.Subjects, want.Subjects)
	up.Replicas = max(have.Replicas, want.Replicas)
	up.MaxConsumers = raiseConsumers(have.MaxConsumers, want.MaxConsumers)
	up.MaxMsgSize = larger(have.MaxMsgSize, want.MaxMsgSize)
	up.MaxAge = longer(have.MaxAge, want.MaxAge)
	up.Duplicates = max(have.Duplicates, want.Duplicates)
	up.SubjectDeleteMarkerTTL = max(have.SubjectDeleteMarkerTTL, want.SubjectDeleteMarkerTTL)
	up.AllowDirect = have.AllowDirect || want.AllowDirect
	up.AllowRollup = have.AllowRollup || want.AllowRollup
	up.AllowMsgTTL = have.AllowMsgTTL || want.AllowMsgTTL
	up.AllowMsgSchedules = have.AllowMsgSchedules || want.AllowMsgSchedules
	return up, nil
}

// raiseConsumers differs from other limits: none means the server's default of
// 1,000, which a number may well exceed.
func raiseConsumers(have, want int) int {
	if have <= 0 {
		return want
	}
	return max(have, want)
}

// unlimited turns the zero value into the server's word for no limit.
func unlimited[T int | int32](n T) T {
	if n <= 0 {
		return -1
	}
	return n
}

// larger compares limits of which a negative one is none.
func larger[T int | int32](a, b T) T {
	if a <= 0 || b <= 0 {
		return -1
	}
	return max(a, b)
}

// longer compares ages of which zero is for ever.
func longer(a, b time.Duration) time.Duration {
	if a == 0 || b == 0 {
		return 0
	}
	return max(a, b)
}

// cover adds to have what it does not capture yet. A stream's subjects must
// not overlap, so narrower ones give way to a wider one.
func cover(have, want []string) []string {
	out := slices.Clone(have)
	for _, subject := range want {
		if slices.ContainsFunc(out, func(s string) bool { return captures(s, subject) }) {
			continue
		}
		out = slices.DeleteFunc(out, func(s string) bool { return captures(subject, s) })
		out = append(out, subject)
	}
	return out
}

// captures says whether every subject matched by narrow is matched by wide.
func captures(wide, narrow string) bool {
	w, n := strings.Split(wide, "."), strings.Split(narrow, ".")
	for i, token := range w {
		switch {
		case token == ">":
			return len(n) > i
		case i >= len(n), n[i] == ">":
			return false
		case token != "*" && token != n[i]:
			return false
		}
	}
	return len(w) == len(n)
}
