package subjects_test

import (
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestCheckProduced(t *testing.T) {
	t.Parallel()
	for _, typ := range subjects.Catalog() {
		e := sampleEvent(t, typ)
		data, err := json.Marshal(e)
		require.NoError(t, err)
		got, err := subjects.CheckProduced(subjects.ProducerEvent("acme", typ.Type), eventID, data)
		if !typ.Producer() {
			requireInvalid(t, err, "type")
			require.Zero(t, got)
			continue
		}
		require.NoError(t, err, typ.Type)
		require.Equal(t, e, got)
	}
	// A type nobody knows, with a payload nobody knows.
	got, err := subjects.CheckProduced(subjects.ProducerEvent("acme", "invoice.sent"), eventID,
		[]byte(strings.Replace(envelopeWith("payload", `{"n":[null]}`), "run.started", "invoice.sent", 1)))
	require.NoError(t, err)
	require.Equal(t, "invoice.sent", got.Type)
}

func TestCheckProducedRefuses(t *testing.T) {
	t.Parallel()
	run := subjects.ProducerEvent("acme", "run.started")
	whole := envelopeWith("", "")
	for _, c := range []struct {
		name    string
		subject subjects.Subject
		msgID   string
		data    string
		field   string
	}{
		{"not JSON", run, eventID, `run started`, ""},
		{"empty", run, eventID, ``, ""},
		{"another key", run, eventID, `{"tenant":"acme",` + whole[1:], "tenant"},
		{"no id", run, eventID, envelopeWith("event_id", ""), "event_id"},
		{"no message id", run, "", whole, "event_id"},
		{"another message id", run, connectionID, whole, "event_id"},
		{"type of another subject", subjects.ProducerEvent("acme", "run.paused"), eventID, whole, "type"},
		{"type below the subject's", subjects.ProducerEvent("acme", "run"), eventID, whole, "type"},
		{"reserved", subjects.ProducerEvent("acme", "lease.granted"), eventID, strings.Replace(whole, "run.started", "lease.granted", 1), "type"},
		{"reserved, unknown", subjects.ProducerEvent("acme", "presence.hinted"), eventID, strings.Replace(whole, "run.started", "presence.hinted", 1), "type"},
		{"reserved in the envelope only", run, eventID, strings.Replace(whole, "run.started", "resync", 1), "type"},
		{"scope", run, eventID, envelopeWith("scope", `{"kind":"agent"}`), "scope.id"},
		{"time", run, eventID, envelopeWith("occurred_at", `"2026-03-14"`), "occurred_at"},
		{"payload", run, eventID, envelopeWith("payload", `{"run_id":""}`), "payload.run_id"},
		{"payload array", run, eventID, envelopeWith("payload", `[]`), "payload"},
		{"not a producer's subject", subjects.AgentConnection("acme", "ada", "opened"), eventID, whole, "subject"},
		{"no subject", subjects.Subject{}, eventID, whole, "subject"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			e, err := subjects.CheckProduced(c.subject, c.msgID, []byte(c.data))
			requireInvalid(t, err, c.field)
			require.Zero(t, e)
		})
	}
}

func TestNewEventRejected(t *testing.T) {
	t.Parallel()
	_, refusal := subjects.CheckProduced(subjects.ProducerEvent("acme", "run.started"), eventID, []byte(envelopeWith("payload", `{}`)))
	got := subjects.NewEventRejected("tenant.acme.event.run.started", 42, eventID, refusal)
	require.Equal(t, sampleRejected(), got)

	// Whatever the message was, the audit of it is a good one.
	_, unparsed := subjects.Parse("tenant.acme.event.Run")
	long := strings.Repeat("x", 5000)
	for _, c := range []struct {
		subject string
		seq     uint64
		msgID   string
		err     error
	}{
		{"tenant.acme.event.Run", 1, "", unparsed},
		{"tenant.acme.event." + long, math.MaxUint64, long, errors.New("s3cret")},
		{"tenant.acme.event.\x1b[2J\u009b", 7, strings.ToUpper(eventID), subjects.Invalid("a\nb"+long, "must\n"+strings.Repeat("é", 300))},
		{"\xff\xfe", 7, "\xff", subjects.Invalid("\xff", "\xff")},
		{"", 7, "", nil},
		{"tenant.acme.event.x", 7, "", &subjects.Problem{Code: subjects.CodeInternalError, Message: "s3cret"}},
	} {
		r := subjects.NewEventRejected(c.subject, c.seq, c.msgID, c.err)
		require.NoError(t, r.Validate())
		encoded, err := json.Marshal(r)
		require.NoError(t, err)
		require.NoError(t, subjects.CheckPayload(subjects.TypeAuditEventRejected, encoded))
		require.NotContains(t, string(encoded), "s3cret")
		require.NotEmpty(t, r.Rule)
		require.Empty(t, r.EventID)
		for _, text := range []string{r.Subject, r.Field, r.Rule} {
			require.True(t, utf8.ValidString(text))
			require.False(t, strings.ContainsFunc(text, unicode.IsControl))
		}
	}
	// The longest subject an event can have is told in full.
	longest := subjects.ProducerEvent(strings.Repeat("t", 64), strings.TrimSuffix(strings.Repeat(strings.Repeat("w", 64)+".", 8), ".")).String()
	_, err := subjects.Parse(longest)
	require.NoError(t, err)
	require.Equal(t, longest, subjects.NewEventRejected(longest, 1, "", unparsed).Subject)
}

func TestEventRejectedValidate(t *testing.T) {
	t.Parallel()
	type p = subjects.EventRejected
	testValidate(t, sampleRejected, []change[p]{
		{"no subject", func(p *p) { p.Subject = "" }, "subject"},
		{"long subject", func(p *p) { p.Subject = strings.Repeat("s", 1201) }, "subject"},
		{"no sequence", func(p *p) { p.Seq = 0 }, "seq"},
		{"no id", func(p *p) { p.EventID = "" }, ""},
		{"id of another kind", func(p *p) { p.EventID = "evt-1" }, "event_id"},
		{"the message itself", func(p *p) { p.Field = "" }, ""},
		{"no rule", func(p *p) { p.Rule = "" }, "rule"},
	})
}
