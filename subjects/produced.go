package subjects

import (
	"cmp"
	"errors"
	"strings"
	"unicode"
)

// CheckProduced reads a message that some producer put on one of
// tenant.<tenant_id>.event.>, where nothing but the producer's credentials
// stood between it and the stream. MsgID is the message's Nats-Msg-Id.
//
// It refuses what a gateway would not have let in: an envelope that is not
// closed, a type other than the subject's or one of rollcall's own, an event_id
// other than the message's, by which nobody could tell a repetition, and a
// payload that is not one of its type. The error is a *[Problem] that names the
// field and repeats no value.
func CheckProduced(subject Subject, msgID string, data []byte) (Event, error) {
	if subject.Class != ClassEvent {
		return Event{}, Invalid("subject", "must be tenant.<tenant_id>.event.<type>")
	}
	if err := CheckProducerType("type", subject.Name); err != nil {
		return Event{}, err
	}
	e, err := DecodeEvent(data)
	if err != nil {
		return Event{}, err
	}
	if e.Type != subject.Name {
		return Event{}, Invalid("type", "must be that of the subject")
	}
	if e.EventID != msgID {
		return Event{}, Invalid("event_id", "must be the Nats-Msg-Id of the message")
	}
	if err := CheckPayload(e.Type, e.Payload); err != nil {
		return Event{}, err
	}
	return e, nil
}

// TypeAuditEventRejected is the audit of a producer's event that is kept out of
// delivery. It concerns no agent, and so it has a subject of its own:
// [EventAudit] with the name rejected.
const TypeAuditEventRejected = "audit.event." + AuditRejected

// AuditRejected is the name of that audit.
const AuditRejected = "rejected"

// maxSubject holds the longest subject that an event can have, twice.
const maxSubject = 1200

// EventRejected is the payload of audit.event.rejected. It says where the
// message is and which rule it breaks, and repeats nothing of its values:
// whoever may read audits need not be somebody who may read the event.
//
// Every gateway meets the message, and so the audit's id is derived from the
// sequence that it names ([DeriveID]). Its scope is the device that reports it,
// a gateway, which leaves it to those who may read everything.
type EventRejected struct {
	Subject string `json:"subject" schema:"line,least=1"`
	// Seq is the message's sequence in EVENTS.
	Seq int64 `json:"seq" schema:"count,least=1"`
	// EventID is the message id, where it is one that an event may have.
	EventID string `json:"event_id,omitempty" schema:"uuid"`
	// Field is empty when it is the message itself that is faulty.
	Field string `json:"field" schema:"text"`
	Rule  string `json:"rule" schema:"text,least=1"`
}

// NewEventRejected says that a message was refused with err, an error of
// [CheckProduced] or of [Parse]. Subject and msgID are the message's own,
// whatever they hold.
func NewEventRejected(subject string, seq uint64, msgID string, err error) EventRejected {
	var field, rule string
	if problem, ok := errors.AsType[*Problem](err); ok {
		field, _ = problem.Details["field"].(string)
		rule, _ = problem.Details["rule"].(string)
	}
	r := EventRejected{
		Subject: cmp.Or(clip(subject, maxSubject), "?"),
		Seq:     int64(min(seq, maxNumber)),
		Field:   clip(field, maxText),
		Rule:    cmp.Or(clip(rule, maxText), "must be an event"),
	}
	if validUUID(msgID) {
		r.EventID = msgID
	}
	return r
}

// Validate refuses an audit that leads to no message.
func (p EventRejected) Validate() error {
	if err := checkLine("subject", p.Subject); err != nil {
		return err
	}
	if err := first(checkNumber("seq", p.Seq, 1), CheckText("field", p.Field), checkRequiredText("rule", p.Rule)); err != nil {
		return err
	}
	if p.EventID == "" {
		return nil
	}
	return CheckUUID("event_id", p.EventID)
}

// checkLine refuses what cannot be shown as a subject.
func checkLine(field, s string) error {
	if s == "" || len(s) > maxSubject || strings.ContainsFunc(s, unicode.IsControl) {
		return Invalid(field, "must be 1 to 1200 bytes without control characters")
	}
	return nil
}

// clip makes any text one that may be shown: of at most so many bytes, in UTF-8
// and without control characters.
func clip(s string, most int) string {
	s = strings.ToValidUTF8(s, "")
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return -1
		}
		return r
	}, s)
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}
