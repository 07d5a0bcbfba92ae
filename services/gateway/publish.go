package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rollcall/shared/bus"
	"rollcall/shared/daemon"
	"rollcall/subjects"
)

// publisher stores connection events.
type publisher struct {
	conn    *bus.Conn
	metrics *metrics
	timeout time.Duration
}

// record is an event with the subject it is stored under.
type record struct {
	subject string
	event   subjects.Event
}

// newRecord builds a connection event about a peer: on its agent's subject if
// it has an agent, else on its instance's. Name is opened, closed or beacon.
func newRecord(tenant, agent, instance, name string, at time.Time, payload any) (record, error) {
	subject := subjects.InstanceConnection(tenant, instance, name)
	scope := subjects.Scope{Kind: subjects.ScopeDevice, ID: instance}
	if agent != "" {
		subject = subjects.AgentConnection(tenant, agent, name)
		scope = subjects.Scope{Kind: subjects.ScopeAgent, ID: agent}
	}
	event, err := subjects.NewEvent(subjects.NewID(), subject.Type(), at, scope, payload)
	if err != nil {
		return record{}, fmt.Errorf("build event: %w", err)
	}
	return record{subject: subject.String(), event: event}, nil
}

// store publishes a record once, which is retried within the timeout. The
// error Is [bus.ErrUnavailable] when nobody knows whether it is stored.
func (p *publisher) store(ctx context.Context, r record) (bus.Ack, error) {
	data, err := json.Marshal(r.event)
	if err != nil {
		return bus.Ack{}, fmt.Errorf("encode %s: %w", r.event.Type, err)
	}
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	began := time.Now()
	ack, err := p.publish(ctx, r, data)
	outcome := "stored"
	if err != nil {
		outcome = "failed"
	}
	p.metrics.publish.WithLabelValues(outcome).Observe(time.Since(began).Seconds())
	if err != nil {
		return bus.Ack{}, fmt.Errorf("store %s: %w", r.event.Type, err)
	}
	return ack, nil
}

// Mistakes that a gateway makes on purpose where it is built with the tag mutants.
const (
	mutUnstored = "gateway.opening-unstored"
	mutID       = "gateway.other-id"
)

// publish stores an encoded record, and wrongly where that is asked for.
func (p *publisher) publish(ctx context.Context, r record, data []byte) (bus.Ack, error) {
	id := r.event.EventID
	switch {
	case r.event.Type == subjects.TypeConnectionOpened && daemon.Mutated(mutUnstored):
		return bus.Ack{}, nil
	case daemon.Mutated(mutID):
		id = subjects.NewID()
	}
	return p.conn.Publish(ctx, bus.Message{Subject: r.subject, ID: id, Data: data, Contested: true})
}

// storePause is the wait between two attempts of insist.
const storePause = 250 * time.Millisecond

// insist stores a record under one id however long it takes: until it is
// stored, refused for good, or ctx ends.
func (p *publisher) insist(ctx context.Context, r record) (bus.Ack, error) {
	for {
		ack, err := p.store(ctx, r)
		if err == nil {
			return ack, nil
		}
		if ctx.Err() != nil || !errors.Is(err, bus.ErrUnavailable) && !errors.Is(err, context.DeadlineExceeded) {
			return bus.Ack{}, err
		}
		if !daemon.Pause(ctx, storePause) {
			return bus.Ack{}, err
		}
	}
}
