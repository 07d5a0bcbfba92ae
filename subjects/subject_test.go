package subjects_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rollcall/subjects"
)

// samples holds one subject of every class, with its text and the type of its
// events. TestEveryClassHasASample keeps it complete.
func samples() []struct {
	subject subjects.Subject
	text    string
	typ     string
} {
	return []struct {
		subject subjects.Subject
		text    string
		typ     string
	}{
		{subjects.AgentConnection("acme", "ada", "opened"), "tenant.acme.agent.ada.connection.opened", "connection.opened"},
		{subjects.AgentConnection("acme", "ada", "closed"), "tenant.acme.agent.ada.connection.closed", "connection.closed"},
		{subjects.AgentConnection("acme", "ada", "beacon"), "tenant.acme.agent.ada.connection.beacon", "connection.beacon"},
		{subjects.AgentLease("acme", "ada", "granted"), "tenant.acme.agent.ada.lease.granted", "lease.granted"},
		{subjects.AgentLease("acme", "ada", "rolled_back"), "tenant.acme.agent.ada.lease.rolled_back", "lease.rolled_back"},
		{subjects.InstanceConnection("system", gatewayID, "opened"), "tenant.system.instance." + gatewayID + ".connection.opened", "connection.opened"},
		{subjects.InstanceConnection("acme", deviceID, "beacon"), "tenant.acme.instance." + deviceID + ".connection.beacon", "connection.beacon"},
		{subjects.AgentPresence("acme", "ada"), "tenant.acme.presence.agent.ada.changed", "presence.changed"},
		{subjects.InstancePresence("acme", deviceID, "upserted"), "tenant.acme.presence.instance." + deviceID + ".upserted", "presence.upserted"},
		{subjects.InstancePresence("acme", deviceID, "pruned"), "tenant.acme.presence.instance." + deviceID + ".pruned", "presence.pruned"},
		{subjects.Audit("acme", "ada", subjects.AuditStaleConnection), "tenant.acme.audit.agent.ada.lease_callback_from_stale_connection", "audit.lease_callback_from_stale_connection"},
		{subjects.EventAudit("acme", subjects.AuditRejected), "tenant.acme.audit.event.rejected", "audit.event.rejected"},
		{subjects.PresenceAudit("acme", "brake_engaged"), "tenant.acme.audit.presence.brake_engaged", "audit.presence.brake_engaged"},
		{subjects.ProducerEvent("acme", "heartbeat"), "tenant.acme.event.heartbeat", "heartbeat"},
		{subjects.ProducerEvent("acme", "run.step.started"), "tenant.acme.event.run.step.started", "run.step.started"},
		{subjects.ProducerEvent("0-_", "a.b.c.d.e.f.g.h"), "tenant.0-_.event.a.b.c.d.e.f.g.h", "a.b.c.d.e.f.g.h"},
		{subjects.LeaseCommand("acme", leaseID, "claim"), "tenant.acme.lease." + leaseID + ".claim", ""},
		{subjects.Edge("acme", incarnationID, connectionID), "tenant.acme.edge." + incarnationID + "." + connectionID, ""},
	}
}

func TestSubjectText(t *testing.T) {
	t.Parallel()
	for _, c := range samples() {
		t.Run(c.text, func(t *testing.T) {
			t.Parallel()
			require.Equal(t, c.text, c.subject.String())
			require.Equal(t, c.typ, c.subject.Type())
			parsed, err := subjects.Parse(c.text)
			require.NoError(t, err)
			require.Equal(t, c.subject, parsed)
		})
	}
}

func TestEveryClassHasASample(t *testing.T) {
	t.Parallel()
	seen := map[subjects.Class]bool{}
	for _, c := range samples() {
		seen[c.subject.Class] = true
	}
	// The classes are numbered from 1 without a gap, and a class that String
	// does not know panics, so the first panic is behind the last class.
	class := subjects.ClassAgentConnection
	for ; builds(class); class++ {
		require.True(t, seen[class], "no sample of class %d", class)
	}
	require.Len(t, seen, int(class)-1)
	require.Equal(t, subjects.ClassEdge+1, class)
}

func builds(class subjects.Class) (ok bool) {
	defer func() { ok = recover() == nil }()
	return subjects.Subject{Class: class, Tenant: "acme"}.String() != ""
}

func TestZeroSubject(t *testing.T) {
	t.Parallel()
	require.Panics(t, func() { _ = subjects.Subject{}.String() })
	require.Empty(t, subjects.Subject{}.Type())
}

func TestTransitions(t *testing.T) {
	t.Parallel()
	for _, name := range transitions() {
		_, err := subjects.Parse("tenant.acme.agent.ada.lease." + name)
		require.NoError(t, err, name)
	}
}

func transitions() []string {
	return []string{
		"requested", "granted", "denied", "held", "claimed", "rolled_back",
		"renewed", "consumed", "expired", "abandoned",
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 65)
	agent, instance := "tenant.acme.agent.ada.", "tenant.acme.instance."+deviceID+"."
	cases := map[string][]string{
		"shape": {
			"", ".", "...", "tenant", "tenant.acme", "tenant.acme.agent", "acme.agent.ada.connection.opened",
			"tenants.acme.agent.ada.connection.opened", " tenant.acme.event.run", "tenant.acme.event.run ", "tenant.acme.event.run\n",
		},
		"tenant": {
			"tenant..event.run", "tenant.Acme.event.run", "tenant.-acme.event.run", "tenant._acme.event.run", "tenant.*.event.run",
			"tenant.>.event.run", "tenant.ac me.event.run", "tenant.acmé.event.run", "tenant." + long + ".event.run",
			"tenant.а.event.run", // Cyrillic.
		},
		"family": {
			"tenant.acme.nothing.ada.connection.opened", "tenant.acme.AGENT.ada.connection.opened", "tenant.acme..ada.connection.opened",
			"tenant.acme.deliver.presence", "tenant.system.deliver.presence", "tenant.acme.*.ada.connection.opened", "tenant.acme.>.x",
			"TENANT.acme.event.run",
		},
		"agent": {
			agent + "connection", agent + "connection.opened.more", agent + "connection.", agent + "connection.Opened",
			agent + "connection.*", agent + "connection.>", agent + "connection.granted", agent + "lease.opened", agent + "lease.Granted",
			agent + "lease.pending", agent + "presence.changed", "tenant.acme.agent.>", "tenant.acme.agent.*.connection.opened",
			"tenant.acme.agent.Ada.connection.opened", "tenant.acme.agent..connection.opened", "tenant.acme.agent.a.b.connection.opened",
			"tenant.acme.agent." + long + ".connection.opened", "tenant.acme.agent.añ.connection.opened",
		},
		"instance": {
			instance + "lease.granted", instance + "connection.granted", instance + "connection", "tenant.acme.instance.ada.connection.opened",
			"tenant.acme.instance.*.connection.opened", "tenant.acme.instance." + strings.ToUpper(deviceID) + ".connection.opened",
			"tenant.acme.instance." + deviceID + "a.connection.opened",
		},
		"presence": {
			"tenant.acme.presence.agent.ada", "tenant.acme.presence.agent.ada.upserted", "tenant.acme.presence.agent.Ada.changed",
			"tenant.acme.presence.instance." + deviceID + ".changed", "tenant.acme.presence.instance.ada.upserted",
			"tenant.acme.presence.agent.ada.changed.more", "tenant.acme.presence.>", "tenant.acme.presence.agent.*.changed",
		},
		"audit": {
			"tenant.acme.audit.agent.ada", "tenant.acme.audit.agent.ada.", "tenant.acme.audit.agent.ada.Name", "tenant.acme.audit.agent.ada.a-b",
			"tenant.acme.audit.agent.ada.1st", "tenant.acme.audit.agent.ada." + long, "tenant.acme.audit.instance." + deviceID + ".x",
			"tenant.acme.audit.event", "tenant.acme.audit.event.", "tenant.acme.audit.event.*", "tenant.acme.audit.event.Rejected",
			"tenant.acme.audit.event.rejected.more", "tenant.acme.audit.event." + long,
		},
		"event": {
			"tenant.acme.event.", "tenant.acme.event.run.", "tenant.acme.event..run", "tenant.acme.event.Run", "tenant.acme.event.run-x",
			"tenant.acme.event._run", "tenant.acme.event.1run", "tenant.acme.event.run.*", "tenant.acme.event.run.>", "tenant.acme.event.*",
			"tenant.acme.event.>", "tenant.acme.event.a.b.c.d.e.f.g.h.i", "tenant.acme.event." + long, "tenant.acme.event.rün",
		},
		"lease": {
			"tenant.acme.lease." + leaseID, "tenant.acme.lease.ada.claim", "tenant.acme.lease." + strings.ToUpper(leaseID) + ".claim",
			"tenant.acme.lease." + leaseID + ".claim.now", "tenant.acme.lease." + leaseID + ".*", "tenant.acme.lease." + leaseID + ".Claim",
		},
		"edge": {
			"tenant.acme.edge." + incarnationID, "tenant.acme.edge." + incarnationID + ".>", "tenant.acme.edge.*." + connectionID,
			"tenant.acme.edge." + incarnationID + "." + connectionID + ".x", "tenant.acme.edge." + incarnationID + "." + deviceID,
		},
	}
	for name, texts := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, text := range texts {
				s, err := subjects.Parse(text)
				requireInvalid(t, err, "subject")
				require.Zero(t, s, text)
			}
		})
	}
}

func TestCheckType(t *testing.T) {
	t.Parallel()
	for _, ok := range []string{"a", "run.started", "a.b.c.d.e.f.g.h", "a_1.b2_", strings.Repeat("a", 64)} {
		require.NoError(t, subjects.CheckType("type", ok), ok)
	}
	for _, bad := range []string{
		"", ".", "a.", ".a", "a..b", "A", "a-b", "1a", "_a", "a b", "a.*", "*", ">", "é", "a\x00",
		"a.b.c.d.e.f.g.h.i", strings.Repeat("a", 65), strings.Repeat("a.", 100_000),
	} {
		requireInvalid(t, subjects.CheckType("type", bad), "type")
	}
}

// genSubject draws any subject that the builders can make from checked parts.
func genSubject() *rapid.Generator[subjects.Subject] {
	connection := rapid.SampledFrom([]string{"opened", "closed", "beacon"})
	eventType := rapid.Map(rapid.SliceOfN(genWord(), 1, 8), func(words []string) string { return strings.Join(words, ".") })
	return rapid.OneOf(
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.AgentConnection(genName().Draw(t, "tenant"), genName().Draw(t, "agent"), connection.Draw(t, "name"))
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.AgentLease(genName().Draw(t, "tenant"), genName().Draw(t, "agent"), rapid.SampledFrom(transitions()).Draw(t, "name"))
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.InstanceConnection(genName().Draw(t, "tenant"), genInstance().Draw(t, "instance"), connection.Draw(t, "name"))
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.AgentPresence(genName().Draw(t, "tenant"), genName().Draw(t, "agent"))
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			name := rapid.SampledFrom([]string{"upserted", "pruned"}).Draw(t, "name")
			return subjects.InstancePresence(genName().Draw(t, "tenant"), genInstance().Draw(t, "instance"), name)
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.Audit(genName().Draw(t, "tenant"), genName().Draw(t, "agent"), genWord().Draw(t, "name"))
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.EventAudit(genName().Draw(t, "tenant"), genWord().Draw(t, "name"))
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.PresenceAudit(genName().Draw(t, "tenant"), genWord().Draw(t, "name"))
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.ProducerEvent(genName().Draw(t, "tenant"), eventType.Draw(t, "type"))
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.LeaseCommand(genName().Draw(t, "tenant"), genUUID().Draw(t, "lease"), genWord().Draw(t, "command"))
		}),
		rapid.Custom(func(t *rapid.T) subjects.Subject {
			return subjects.Edge(genName().Draw(t, "tenant"), genUUID().Draw(t, "incarnation"), genUUID().Draw(t, "connection"))
		}),
	)
}

func TestBuildParseBuild(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := genSubject().Draw(t, "subject")
		parsed, err := subjects.Parse(s.String())
		require.NoError(t, err)
		require.Equal(t, s, parsed)
		require.Equal(t, s.String(), parsed.String())
	})
}

// TestOneBadByteRefuses puts one character that no token may hold anywhere
// into a good subject.
func TestOneBadByteRefuses(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		text := genSubject().Draw(t, "subject").String()
		bad := rapid.SampledFrom([]string{"*", ">", " ", "\t", "\n", "\x00", "/", "$", "A", "é", "\xff", "\u200b"}).Draw(t, "bad")
		i := rapid.IntRange(0, len(text)).Draw(t, "position")
		_, err := subjects.Parse(text[:i] + bad + text[i:])
		require.Error(t, err)
	})
}

func FuzzParse(f *testing.F) {
	for _, c := range samples() {
		f.Add(c.text)
	}
	f.Add("tenant.acme.event.run.*")
	f.Add("tenant..agent.ada.connection.opened")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := subjects.Parse(text)
		if err != nil {
			requireInvalid(t, err, "subject")
			require.Zero(t, s)
			return
		}
		require.Equal(t, text, s.String())
		require.NotContains(t, text, "*")
		require.NotContains(t, text, ">")
		if s.Type() != "" {
			require.NoError(t, subjects.CheckType("type", s.Type()))
		}
		require.Equal(t, 1, capturing(text), "streams that capture %s", text)
	})
}
