package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"time"

	"rollcall/subjects"
)

// bench is one run: what is measured, and by whom.
type bench struct {
	config   Config
	progress io.Writer
	stack    *stack
	fleet    *fleet
	twin     *twin
	served   bool // leases are
	report   Report
}

// Run starts a stack, takes the measures and stops the stack. Progress is told
// in lines of text.
func Run(ctx context.Context, c Config, progress io.Writer) (Report, error) {
	began := time.Now()
	b := &bench{config: c, progress: progress, report: Report{
		At: began.UTC(), CPUs: runtime.NumCPU(), Go: runtime.Version(), Agents: c.Agents,
		Subscribers: c.Subscribers, Listeners: c.Listeners, Rounds: c.Rounds, TurnMS: ms(c.Duration), Lines: []Line{}, Skipped: map[string]string{},
	}}
	dir, err := os.MkdirTemp("", "rollcall-bench-")
	if err != nil {
		return Report{}, fmt.Errorf("make directory: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if b.stack, err = startStack(ctx, c, dir); err != nil {
		return Report{}, err
	}
	err = b.run(ctx)
	// What up said matters if something failed; a gateway was killed in any case.
	if said := b.stack.stop(); err != nil {
		return Report{}, errors.Join(err, said)
	}
	b.report.TookMS = ms(time.Since(began))
	return b.report, nil
}

// run takes the measures against a stack that is ready.
func (b *bench) run(ctx context.Context) error {
	var err error
	if b.fleet, err = muster(ctx, b.config, b.stack); err != nil {
		return fmt.Errorf("connect the fleet: %w", err)
	}
	defer b.fleet.disband()
	s, err := b.rehearse(ctx)
	if err != nil {
		return err
	}
	if b.twin, err = newTwin(ctx, b.stack.nats(), s); err != nil {
		return err
	}
	defer func() { b.twin.close(ctx) }()
	for _, step := range []struct {
		name string
		take func(context.Context) error
	}{
		{runConnect, func(ctx context.Context) error { return b.take(ctx, connecting(b.fleet, b.twin)...) }},
		{runBeacon, b.beacon},
		{runFanout, b.fanout},
		{runEvents, b.events},
		{runSlow, b.slow},
		{runLease, b.lease},
		{runLoss, b.loss},
	} {
		if !b.config.wants(step.name) {
			continue
		}
		if err := step.take(ctx); err != nil {
			return fmt.Errorf("%s: %w", step.name, err)
		}
	}
	return nil
}

// rehearse reads what the fleet's rehearsal has stored, and finds out whether
// there are leases.
func (b *bench) rehearse(ctx context.Context) (samples, error) {
	s, err := b.fleet.samples(ctx)
	if err != nil {
		return s, err
	}
	if !b.config.wants(runLease) {
		return s, nil
	}
	a := b.fleet.agents[0]
	if _, _, err := b.fleet.join(ctx, a); err != nil {
		return s, err
	}
	bounded, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	_, err = a.cycle(bounded)
	switch {
	case errors.Is(err, errNotServed):
		b.report.Skipped[runLease] = notServed
	case err != nil:
		return s, err
	default:
		b.served = true
		if err := b.fleet.leaseSamples(ctx, &s); err != nil {
			return s, err
		}
	}
	return s, b.fleet.part(ctx, a)
}

// samples reads what the first agent's rehearsal has stored.
func (f *fleet) samples(ctx context.Context) (samples, error) {
	var s samples
	a := f.agents[0]
	rows := "$KV." + subjects.BucketPresence + "."
	for _, want := range []struct {
		into            *[]byte
		stream, subject string
	}{
		{&s.opened, subjects.StreamEvents, subjects.AgentConnection(tenant, a.id, "opened").String()},
		{&s.beacon, subjects.StreamEvents, subjects.AgentConnection(tenant, a.id, "beacon").String()},
		{&s.changed, subjects.StreamEvents, subjects.AgentPresence(tenant, a.id).String()},
		{&s.upserted, subjects.StreamEvents, subjects.InstancePresence(tenant, a.device, "upserted").String()},
		{&s.agentRow, "KV_" + subjects.BucketPresence, rows + subjects.AgentKey(tenant, a.id)},
		{&s.instanceRow, "KV_" + subjects.BucketPresence, rows + subjects.InstanceKey(tenant, a.device)},
	} {
		var err error
		if *want.into, err = f.stored(ctx, want.stream, want.subject); err != nil {
			return s, err
		}
	}
	return s, nil
}

// take takes measures and adds their lines to the report.
func (b *bench) take(ctx context.Context, measures ...measure) error {
	for _, m := range measures {
		lines, err := m.take(ctx, b.config, b.progress)
		if err != nil {
			return err
		}
		b.report.Lines = append(b.report.Lines, lines...)
	}
	return nil
}

// beacon needs connected agents, as lease does.
func (b *bench) beacon(ctx context.Context) error {
	return b.connected(ctx, beaconing(b.fleet, b.twin))
}

func (b *bench) lease(ctx context.Context) error {
	if !b.served {
		return nil
	}
	return b.connected(ctx, leasing(b.fleet, b.twin)...)
}

func (b *bench) connected(ctx context.Context, measures ...measure) error {
	n := min(crowded, len(b.fleet.agents))
	if _, err := b.fleet.joinAll(ctx, n); err != nil {
		return err
	}
	if err := b.take(ctx, measures...); err != nil {
		return err
	}
	return b.fleet.partAll(ctx, n)
}

func (b *bench) fanout(ctx context.Context) error {
	measures, leave, err := fanning(ctx, b.config, b.stack, b.fleet)
	if err != nil {
		return err
	}
	defer leave()
	return b.take(ctx, measures...)
}

func (b *bench) events(ctx context.Context) error {
	measures, leave, err := streaming(ctx, b.config, b.stack, b.fleet)
	if err != nil {
		return err
	}
	defer leave()
	return b.take(ctx, measures...)
}

func (b *bench) slow(ctx context.Context) error {
	var events []float64
	m, leave, err := sluggish(ctx, b.stack, b.fleet, func(n int) { events = append(events, float64(n)) })
	if err != nil {
		return err
	}
	defer leave()
	if err := b.take(ctx, m); err != nil {
		return err
	}
	b.report.Slow = &Slow{Closed: len(events), MedianEvents: median(events), MaxEvents: slices.Max(events)}
	return nil
}

func (b *bench) loss(ctx context.Context) error {
	var err error
	b.report.Loss, err = lose(ctx, b.config, b.stack, b.fleet)
	return err
}
