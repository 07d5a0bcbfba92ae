package lease

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"rollcall/services/lease/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// errForeign says that a delivery comes from no consumer of this service.
var errForeign = errors.New("not a consumer of this service")

// source is where a delivery comes from, as the server says it.
type source struct{ stream, consumer string }

// handle takes one delivery of either consumer.
func (s *Service) handle(ctx context.Context, d *bus.Delivery) error {
	subject, err := subjects.Parse(d.Subject)
	if err != nil {
		s.metrics.malformed.Inc()
		return bus.Permanent(fmt.Errorf("subject %q: %w", d.Subject, err))
	}
	switch from := (source{d.Stream, d.Consumer}); {
	case from == (source{subjects.StreamEvents, closesName}):
		err = s.handleClosed(ctx, d, subject)
	case from != (source{subjects.StreamCommands, commandsName}):
		// Somebody made a consumer that delivers here: NATS does not check where to.
		s.metrics.malformed.Inc()
		return bus.Permanent(fmt.Errorf("delivery of consumer %q on %s: %w", d.Consumer, d.Stream, errForeign))
	case subject.Name == subjects.CommandTimer:
		err = s.handleTimer(ctx, d, subject)
	default:
		err = s.handleCommand(ctx, d, subject)
	}
	if err == nil {
		s.metrics.lag.WithLabelValues(label(subject.Name, d.Consumer == closesName)).Observe(time.Since(d.Time).Seconds())
	}
	return err
}

// causeOf names what a message causes: its sequence, and the stream it counts
// in.
func causeOf(d *bus.Delivery) string {
	if d.Stream == subjects.StreamCommands {
		return "c" + subjects.Cause(d.Seq)
	}
	return "e" + subjects.Cause(d.Seq)
}

// timerAttempts is how often a timer is tried whose row is not there yet, which
// takes some ten seconds. One that still is ahead then is of no row.
const timerAttempts = 8

// handleTimer applies a deadline that the server delivered.
func (s *Service) handleTimer(ctx context.Context, d *bus.Delivery, subject subjects.Subject) error {
	timer, err := subjects.Decode[subjects.LeaseTimer](d.Data)
	if err == nil {
		err = timer.Validate()
	}
	if err != nil {
		s.metrics.malformed.Inc()
		return bus.Permanent(fmt.Errorf("timer %d on %q: %w", d.Seq, d.Subject, err))
	}
	_, err = s.apply(ctx, task{tenant: subject.Tenant, agent: timer.AgentID, in: machine.Input{
		LeaseID: subject.Lease, Cause: causeOf(d), Fact: machine.TimerFired{Epoch: timer.Epoch},
	}})
	if ofNoRow(err, d.Attempt) {
		return bus.Permanent(fmt.Errorf("timer of epoch %d: %w", timer.Epoch, err))
	}
	return err
}

// ofNoRow reports whether a timer that failed so often has no row that it could be of.
// One that fails for any other reason, a log that cannot be read for example, is tried
// for as long as it takes: nothing but it ends its lease.
func ofNoRow(err error, attempt int) bool {
	return errors.Is(err, errOutrun) && attempt >= timerAttempts
}

// call is one command of a peer.
type call struct {
	*Service
	tenant, lease, name string
	cause               string
	seq                 uint64
	command             subjects.Command
	// late says that the peer was told "unavailable" before anybody took the
	// command.
	late bool
	// again says that the command was delivered before.
	again bool
}

// outcome is what a command is answered: a result, or a problem.
type outcome struct {
	result  any
	problem *subjects.Problem
	// replied says that the peer has been told.
	replied bool
}

func refused(problem *subjects.Problem) (outcome, error) { return outcome{problem: problem}, nil }

// handleCommand applies a command and answers it. A command that comes again
// is answered again: if the answer was stored the first time, the stream drops
// the second under the same id.
func (s *Service) handleCommand(ctx context.Context, d *bus.Delivery, subject subjects.Subject) error {
	command, err := subjects.DecodeCommand(d.Data)
	if err != nil {
		s.metrics.malformed.Inc()
		return bus.Permanent(fmt.Errorf("command %d on %q: %w", d.Seq, d.Subject, err))
	}
	c := call{
		Service: s, tenant: subject.Tenant, lease: subject.Lease, name: subject.Name,
		cause: causeOf(d), seq: d.Seq, command: command, late: isLate(d, command), again: d.Attempt > 1,
	}
	answer, err := c.run(ctx)
	if err != nil {
		return err
	}
	if !answer.replied {
		if err := c.reply(ctx, answer); err != nil {
			return err
		}
	}
	if answer.problem != nil {
		s.metrics.refusals.WithLabelValues(label(c.name, false), answer.problem.Code).Inc()
	}
	s.log.Debug().Str("command_id", command.CommandID).Str("command", c.name).Str("tenant", c.tenant).
		Str("lease", c.lease).Bool("ok", answer.problem == nil).Msg("command answered")
	return s.fault(FaultReplied)
}

// lateGrace is how much longer than the gateway waits a command may lie before it
// is too late: the stream's clock and this process's may differ a little.
const lateGrace = 2 * time.Second

// isLate reports whether the gateway has given up waiting for a command. How long
// it waits is the difference of two times of its own clock, and how long the
// command has lain is told by the stream's, so the gateway's clock may be wrong.
func isLate(d *bus.Delivery, command subjects.Command) bool {
	return time.Since(d.Time) > command.Deadline.Sub(command.IssuedAt)+lateGrace
}

// tooLate refuses a late command that has not taken effect: its peer was told
// that it failed, and what it did now nobody would know of.
func tooLate() *subjects.Problem {
	return &subjects.Problem{
		Code: subjects.CodeUnavailable, Message: "the command came too late and was not carried out",
		Details: map[string]any{"retry_after_ms": 1000},
	}
}

// run dispatches a command.
func (c call) run(ctx context.Context) (outcome, error) {
	switch c.name {
	case subjects.CommandRequest:
		return with(ctx, c, c.request)
	case subjects.CommandRetry:
		return with(ctx, c, c.retry)
	case subjects.CommandResolve:
		return with(ctx, c, c.resolve)
	case subjects.CommandClaim:
		return with(ctx, c, c.claim)
	case subjects.CommandFinalize:
		return with(ctx, c, c.finalize)
	case subjects.CommandRollback:
		return with(ctx, c, c.rollback)
	case subjects.CommandRenew:
		return with(ctx, c, c.renew)
	case subjects.CommandGet:
		return with(ctx, c, c.get)
	case subjects.CommandList:
		return with(ctx, c, c.list)
	case subjects.CommandModerate:
		return with(ctx, c, c.moderate)
	default:
		return refused(&subjects.Problem{Code: subjects.CodeUnsupportedRequest, Message: "no such lease command"})
	}
}

// with reads a command's payload and runs it. A payload that names another
// lease than the subject is refused: the subject is what permissions, lanes
// and timers go by.
func with[T interface{ Validate() error }](
	ctx context.Context, c call, run func(context.Context, T) (outcome, error),
) (outcome, error) {
	payload, problem := subjects.DecodeRequest[T](c.command.Payload)
	if problem != nil {
		return refused(problem)
	}
	var named struct {
		LeaseID *string `json:"lease_id"`
	}
	if err := json.Unmarshal(c.command.Payload, &named); err == nil && named.LeaseID != nil && *named.LeaseID != c.lease {
		return refused(subjects.Invalid("lease_id", "must be the subject's"))
	}
	return run(ctx, payload)
}

// reply answers the peer through its gateway.
func (c call) reply(ctx context.Context, answer outcome) error {
	m := subjects.EdgeReply{CommandID: c.command.CommandID, OK: answer.problem == nil, Error: answer.problem}
	if answer.problem == nil {
		result, err := json.Marshal(answer.result)
		if err != nil {
			return bus.Permanent(fmt.Errorf("encode result of %s: %w", c.name, err))
		}
		m.Result = result
	}
	to := machine.Address{ConnectionID: c.command.Peer.ConnectionID, Incarnation: c.command.Peer.Incarnation}
	return c.send(ctx, c.tenant, to, c.command.CommandID, m)
}

// send stores a message for one connection. It has one id per cause, kind and
// connection.
func (s *Service) send(ctx context.Context, tenant string, to machine.Address, cause string, m subjects.EdgeMessage) error {
	subject := subjects.Edge(tenant, to.Incarnation, to.ConnectionID).String()
	data, err := subjects.EncodeEdge(m)
	if err != nil {
		return bus.Permanent(err)
	}
	_, err = s.conn.Publish(ctx, bus.Message{Subject: subject, ID: subjects.DeriveID(tenant, subject, cause, m.Kind()), Data: data})
	return err
}
