package replay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

const (
	// roundGap is how long rows that do not agree get before they are looked at again.
	roundGap = 500 * time.Millisecond
	// parallel bounds the requests under way.
	parallel = 32
	// removeWithin is how long the removal of the scratch bucket may take when the
	// run was ended.
	removeWithin = 5 * time.Second
)

// errChanged ends a run whose grounds were taken away.
var errChanged = errors.New("was made anew while it was read; run it again")

// Options say what a run is about.
type Options struct {
	// Tenant narrows it to one; empty is all.
	Tenant string
	// Retention is how long presence keeps the row of somebody who is gone where a
	// tenant has no setting of its own.
	Retention time.Duration
	// Settle is how long rows that do not agree may take until they do.
	Settle time.Duration
	// Keep leaves the scratch bucket, Replace removes one that was left.
	Keep, Replace bool
	Replicas      int
	Log           zerolog.Logger
}

// Report is what a run found.
type Report struct {
	// First and Last are the sequences of the log.
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	// Rows is how many rows were compared, those that are missing rightly among
	// them; Partly of those that are equal, how many could be compared in part only.
	Rows        int          `json:"rows"`
	Equal       int          `json:"equal"`
	Partly      int          `json:"partly"`
	Differences []Difference `json:"differences"`
	NotProvable []Unproven   `json:"not_provable"`
	// Kept is the bucket that holds what the log gives, if it was to be left.
	Kept string `json:"kept,omitempty"`
}

// run is one comparison under way.
type run struct {
	Options
	conn  *bus.Conn
	book  *Book
	rows  *bus.KV
	facts Facts
	// log and made tell the stream and the bucket from later ones of the same name.
	log, made time.Time
	// signed and applied are how far the two readings are.
	signed, applied uint64
	// pending are the rows that do not agree, or are not compared yet; fresh those
	// of them that have changed since they were looked at last.
	pending []string
	fresh   map[string]bool
	report  Report
}

// Run makes the rows again in the scratch bucket and compares. What it makes it
// removes, also when it fails; killed, it leaves the bucket, and the next run refuses
// to start without [Options.Replace].
func Run(ctx context.Context, conn *bus.Conn, o Options) (report Report, err error) {
	if o.Replace {
		if err := conn.RemoveBucket(ctx, subjects.BucketReplay); err != nil {
			return Report{}, err
		}
	}
	scratch, err := conn.MakeBucket(ctx, bus.Bucket(subjects.ScratchBucket()), o.Replicas)
	if errors.Is(err, bus.ErrExists) {
		return Report{}, fmt.Errorf("%w: another run is at work, or one was killed or told to keep it; --replace removes it", err)
	}
	if err != nil {
		return Report{}, err
	}
	defer func() {
		if o.Keep && err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeWithin)
		defer cancel()
		err = errors.Join(err, conn.RemoveBucket(ctx, subjects.BucketReplay))
	}()
	r := &run{Options: o, conn: conn, fresh: map[string]bool{}}
	r.report.Differences, r.report.NotProvable = []Difference{}, []Unproven{}
	if err := r.open(ctx); err != nil {
		return Report{}, err
	}
	if err := r.compare(ctx); err != nil {
		return Report{}, err
	}
	if err := r.fill(ctx, scratch); err != nil {
		return Report{}, err
	}
	if o.Keep {
		r.report.Kept = subjects.BucketReplay
	}
	return r.report, nil
}

// open learns what has to be known before the first row.
func (r *run) open(ctx context.Context) error {
	log, err := r.conn.Extent(ctx, subjects.StreamEvents)
	if err != nil {
		return err
	}
	if r.rows, err = r.conn.Bucket(ctx, subjects.BucketPresence); err != nil {
		return err
	}
	rows, err := r.rows.Extent(ctx)
	if err != nil {
		return err
	}
	r.log, r.made = log.Origin, rows.Origin
	r.facts = Facts{First: log.First, Last: log.Last, Made: rows.Origin, Alive: map[Gateway]bool{}, MaxRow: int(subjects.ScratchBucket().MaxValueSize)}
	if err := r.readGateways(ctx); err != nil {
		return err
	}
	return r.readSettings(ctx)
}

func (r *run) readGateways(ctx context.Context) error {
	return r.readBucket(ctx, subjects.BucketGateways, "", func(u bus.Update) error {
		var g subjects.GatewayRow
		if u.Op != bus.Put {
			return nil
		}
		if err := json.Unmarshal(u.Value, &g); err != nil {
			return fmt.Errorf("row %q of %s: %w", u.Key, subjects.BucketGateways, err)
		}
		r.facts.Alive[Gateway{g.InstanceID, g.Incarnation}] = true
		return nil
	})
}

// readSettings learns for how long rows are kept. A setting that presence refuses
// leaves the one before it in force, which nobody else knows any more.
func (r *run) readSettings(ctx context.Context) error {
	kept, set := map[string]time.Duration{}, map[string]time.Time{}
	err := r.readBucket(ctx, subjects.BucketSettings, "", func(u bus.Update) error {
		tenant, area, err := subjects.ParseSettingsKey(u.Key)
		if err != nil || area != "presence" {
			return nil //nolint:nilerr // a setting of something else
		}
		set[tenant] = u.Time
		if u.Op != bus.Put {
			return nil
		}
		settings, err := subjects.Decode[subjects.PresenceSettings](u.Value)
		if err == nil {
			err = settings.Validate()
		}
		if err != nil {
			return fmt.Errorf("setting %q: %w", u.Key, err)
		}
		kept[tenant] = time.Duration(settings.RetentionMS) * time.Millisecond
		return nil
	})
	r.facts.Set = func(tenant string) time.Time { return set[tenant] }
	r.facts.Retention = func(tenant string) time.Duration {
		if d := kept[tenant]; d > 0 {
			return d
		}
		return r.Retention
	}
	return err
}

// readBucket calls fn for what a bucket holds under a filter, markers too.
func (r *run) readBucket(ctx context.Context, name, filter string, fn func(bus.Update) error) error {
	kv, err := r.conn.Bucket(ctx, name)
	if err != nil {
		return err
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	synced, failed := false, error(nil)
	err = kv.Watch(watching, filter, func(u bus.Update) {
		switch {
		case synced || failed != nil:
		case u.Synced:
			synced = true
			stop()
		case u.Reset:
			failed = fmt.Errorf("bucket %s %w", name, errChanged)
		default:
			failed = fn(u)
		}
		if failed != nil {
			stop()
		}
	})
	switch {
	case err != nil || failed != nil:
		return errors.Join(err, failed)
	case !synced:
		return fmt.Errorf("read bucket %s: %w", name, ctx.Err())
	default:
		return nil
	}
}

// compare reads rows and log until all rows agree or the time to settle is over.
// What comes to be after the first reading is not waited for.
func (r *run) compare(ctx context.Context) error {
	r.book = NewBook(r.facts)
	filter := ""
	if r.Tenant != "" {
		filter = r.Tenant + ".>"
	}
	err := r.readBucket(ctx, subjects.BucketPresence, filter, func(u bus.Update) error {
		r.book.Row(Row{Key: u.Key, Value: u.Value, Revision: u.Revision, Exists: u.Op == bus.Put})
		return nil
	})
	if err != nil {
		return err
	}
	if err := r.read(ctx); err != nil {
		return err
	}
	r.pending = r.book.Keys()
	r.report.Rows = len(r.pending)
	for until := time.Now().Add(r.Settle); ; {
		last := !time.Now().Before(until)
		if r.judgeAt(time.Now(), last); last || len(r.pending) == 0 {
			r.report.First, r.report.Last = r.book.facts.First, r.book.facts.Last
			return nil
		}
		if !daemon.Pause(ctx, roundGap) {
			return ctx.Err()
		}
		if err := r.again(ctx); err != nil {
			return err
		}
	}
}

// judgeAt takes out the rows that are decided; at the last all are.
func (r *run) judgeAt(now time.Time, last bool) {
	var pending []string
	for _, key := range r.pending {
		v := r.book.judge(key, r.fresh[key], now)
		switch {
		case v.equal:
			r.report.Equal++
			if v.partly {
				r.report.Partly++
			}
		case !last && !v.final:
			pending = append(pending, key)
		case r.fresh[key]:
			r.report.NotProvable = append(r.report.NotProvable, Unproven{key, lostMoving})
		case v.unproven != "":
			r.report.NotProvable = append(r.report.NotProvable, Unproven{key, v.unproven})
		default:
			r.report.Differences = append(r.report.Differences, v.differences...)
		}
	}
	r.pending = pending
}

// again reads the rows that do not agree once more, and then what the log has got
// since.
func (r *run) again(ctx context.Context) error {
	entries := make([]bus.Entry, len(r.pending))
	group, requests := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for i, key := range r.pending {
		group.Go(func() (err error) {
			entries[i], err = r.rows.Get(requests, key)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	clear(r.fresh)
	for _, e := range entries {
		if r.book.Row(Row{Key: e.Key, Value: e.Value, Revision: e.Revision, Exists: e.Exists}) {
			r.fresh[e.Key] = true
		}
	}
	return r.read(ctx)
}

// read follows the log from where it was left, twice: for what its events say of
// others, and for what they do.
func (r *run) read(ctx context.Context) error {
	log, err := r.conn.Extent(ctx, subjects.StreamEvents)
	if err != nil {
		return err
	}
	if !log.Origin.Equal(r.log) {
		return fmt.Errorf("stream %s %w", subjects.StreamEvents, errChanged)
	}
	r.book.Reaches(log.First, log.Last)
	// What comes meanwhile is taken for a sign, and applied in another round: what an
	// event did may only be understood by what is announced after it.
	err = r.conn.ReadStored(ctx, subjects.StreamEvents, nil, r.signed+1, func(d *bus.Delivery) {
		r.signed = d.Seq
		if r.isOf(d, r.Tenant, subjects.SystemTenant) { // gateways are everybody's
			r.book.Sign(messageOf(d))
		}
	})
	if err != nil {
		return err
	}
	err = r.conn.ReadStored(ctx, subjects.StreamEvents, nil, r.applied+1, func(d *bus.Delivery) {
		if d.Seq <= log.Last && r.isOf(d, r.Tenant) {
			r.book.Apply(messageOf(d))
		}
	})
	r.signed, r.applied = max(r.signed, log.Last), log.Last
	return err
}

func messageOf(d *bus.Delivery) Message {
	return Message{Seq: d.Seq, Subject: d.Subject, Time: d.Time, Cause: d.Header.Get(subjects.HeaderCause), Data: d.Data}
}

// isOf reports whether a message is of one of the tenants, or everybody is asked for. The
// log is read whole: a consumer with filters has the server search for every match, which
// takes many times as long as sending everything.
func (r *run) isOf(d *bus.Delivery, tenants ...string) bool {
	return r.Tenant == "" || slices.ContainsFunc(tenants, func(tenant string) bool {
		return strings.HasPrefix(d.Subject, strings.TrimSuffix(subjects.AllOf(tenant), ">"))
	})
}

// fill puts what the log gives into the scratch bucket: the rows that should be there
// now, without an end.
func (r *run) fill(ctx context.Context, scratch *bus.KV) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(parallel)
	for key, row := range r.book.present(time.Now()) {
		group.Go(func() error {
			value, err := json.Marshal(row)
			if err == nil {
				_, err = scratch.Save(ctx, key, value, 0, 0)
			}
			if err != nil {
				return fmt.Errorf("write row %q of %s: %w", key, subjects.BucketReplay, err)
			}
			return nil
		})
	}
	return group.Wait()
}
