package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// windowMargin is after what age of its cause an announcement may have been
// stored so long ago that the stream no longer recognises its id. It is well
// below the stream's window of two minutes.
const windowMargin = time.Minute

// announcement is an event that presence derives from another.
type announcement struct {
	subject subjects.Subject
	// cause is the sequence of the message that caused it; with the subject it
	// makes the event's id.
	cause   uint64
	at      time.Time
	scope   subjects.Scope
	payload any
	// revision is that of the row the event announces; 0 when there is none.
	revision uint64
	// stored looks an id up in the stream where it may have been stored long
	// ago; nil when that cannot be.
	stored func(ctx context.Context, subject, id string) (bool, error)
}

// announce stores a derived event, once, however often it is called for the
// same cause. The stream itself recognises a repeated id for a couple of
// minutes; a repetition may come later than that, after an outage, and then
// the id is looked up first.
func (s *Service) announce(ctx context.Context, a announcement) error {
	subject, eventType := a.subject.String(), a.subject.Type()
	id := subjects.DeriveID(a.subject.Tenant, subject, subjects.Cause(a.cause), eventType)
	if a.stored != nil {
		if stored, err := a.stored(ctx, subject, id); err != nil || stored {
			return err
		}
	}
	event, err := subjects.NewEvent(id, eventType, a.at, a.scope, a.payload)
	if err != nil {
		return bus.Permanent(err)
	}
	header := nats.Header{subjects.HeaderCause: {subjects.Cause(a.cause)}}
	if a.revision > 0 {
		header.Set(subjects.HeaderRowRevision, strconv.FormatUint(a.revision, 10))
	}
	_, err = s.publish(ctx, subject, event, header)
	return err
}

// publish stores an event under its event_id. Ids of derived events can be
// foretold, and a producer of any tenant chooses its own: where somebody has used
// one up, the event gets a fresh one, and what is lost is that a repetition after a
// crash is recognised.
func (s *Service) publish(ctx context.Context, subject string, event subjects.Event, header nats.Header) (uint64, error) {
	for {
		data, err := json.Marshal(event)
		if err != nil {
			return 0, bus.Permanent(fmt.Errorf("encode %s: %w", event.Type, err))
		}
		ack, err := s.conn.Publish(ctx, bus.Message{Subject: subject, ID: event.EventID, Header: header, Data: data, Contested: true})
		if !errors.Is(err, bus.ErrTaken) {
			return ack.Seq, err
		}
		s.log.Warn().Str("event_id", event.EventID).Str("type", event.Type).Str("subject", subject).Msg("event_id is taken; a fresh one is used")
		event.EventID = subjects.NewID()
	}
}

// storedAfter looks for an id among the events on a subject that came after
// their cause. The last one usually tells: it says what caused it, and
// announcements of one source are made in the order of their causes. Only where
// sources share a subject may an id lie further back.
func (s *Service) storedAfter(cause uint64) func(ctx context.Context, subject, id string) (bool, error) {
	return func(ctx context.Context, subject, id string) (bool, error) {
		last, err := s.lastEvent(ctx, subject)
		if err != nil || last == nil {
			return false, err
		}
		of, err := strconv.ParseUint(last.Header.Get(subjects.HeaderCause), 10, 64)
		switch {
		case last.Header.Get(jetstream.MsgIDHeader) == id:
			return true, nil
		case err == nil && of < cause:
			return false, nil
		default:
			return s.search(ctx, subject, id, cause+1)
		}
	}
}

// search looks for an id on a subject from a sequence on, event by event.
func (s *Service) search(ctx context.Context, subject, id string, seq uint64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	for {
		msg, err := s.events.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(subject))
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return false, nil
		}
		if err != nil {
			return false, fmt.Errorf("look for %s on %q: %w", id, subject, err)
		}
		if msg.Header.Get(jetstream.MsgIDHeader) == id {
			return true, nil
		}
		seq = msg.Sequence + 1
	}
}

// storedLast looks whether an id is that of the last event on a subject. That
// is enough where a later cause takes the place of an earlier one, as the
// marker of a row does.
func (s *Service) storedLast(ctx context.Context, subject, id string) (bool, error) {
	last, err := s.lastEvent(ctx, subject)
	return last != nil && last.Header.Get(jetstream.MsgIDHeader) == id, err
}

// lastEvent reads the last event on a subject; nil when there is none.
func (s *Service) lastEvent(ctx context.Context, subject string) (*jetstream.RawStreamMsg, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	last, err := s.events.GetLastMsgForSubject(ctx, subject)
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read last event on %q: %w", subject, err)
	}
	return last, nil
}

// announcePruned tells that an instance's row is gone. Revision is that of the
// marker which stands in its place, so all processes give the event one id.
func (s *Service) announcePruned(ctx context.Context, tenant, instance string, revision uint64, reason string, at time.Time) error {
	return s.announce(ctx, announcement{
		subject:  subjects.InstancePresence(tenant, instance, "pruned"),
		cause:    revision,
		at:       at.UTC(),
		scope:    subjects.Scope{Kind: subjects.ScopeDevice, ID: instance},
		payload:  subjects.PresencePruned{InstanceID: instance, Reason: reason},
		revision: revision,
		stored:   s.storedLast,
	})
}
