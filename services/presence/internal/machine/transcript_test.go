package machine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"rollcall/services/presence/internal/machine"
	"rollcall/subjects"
)

// The transcripts in testdata are the rules by example: a line is an event,
// what stands below it is the row and the effects. Rewrite them with
// go test -rewrite and read the difference.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		t.Helper()
		s := &stage{
			agent:    subjects.OfflineAgent("ada"),
			instance: map[string]subjects.InstanceRow{},
			facts:    map[uint64]machine.Fact{},
		}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			return s.run(t, d)
		})
	})
}

// stage holds the rows of one transcript. Names such as c1 stand for ids.
type stage struct {
	seq      uint64
	agent    subjects.AgentRow
	instance map[string]subjects.InstanceRow
	facts    map[uint64]machine.Fact
}

const retention = 5 * time.Minute

// at is the time the stream stored the event with this sequence.
func at(seq uint64) time.Time {
	return time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC).Add(time.Duration(seq) * time.Second)
}

func id(name string) string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)).String()
}

func device(name string) string {
	return subjects.InstanceIDOfSPKI([]byte(name))
}

func (s *stage) run(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	var seq uint64
	d.MaybeScanArgs(t, "seq", &seq)
	if d.Cmd == "again" {
		return s.apply(d, seq, s.facts[seq])
	}
	fact := s.fact(t, d)
	if seq == 0 {
		s.seq++
		seq = s.seq
	}
	s.seq = max(s.seq, seq)
	s.facts[seq] = fact
	return s.apply(d, seq, fact)
}

func (s *stage) fact(t *testing.T, d *datadriven.TestData) machine.Fact {
	t.Helper()
	arg := func(name, preset string) string {
		d.MaybeScanArgs(t, name, &preset)
		return preset
	}
	conn, dev, lease := id(arg("conn", "c1")), device(arg("device", "laptop")), id(arg("lease", "l1"))
	switch d.Cmd {
	case "opened":
		return machine.Opened{ConnectionOpened: subjects.ConnectionOpened{
			ConnectionID: conn, InstanceID: dev, GatewayID: device("gateway"), Incarnation: id("run"),
			Role: arg("role", subjects.RoleClient), IP: arg("ip", "192.0.2.1"), Version: arg("version", ""),
		}}
	case "closed":
		return machine.Closed{ConnectionClosed: subjects.ConnectionClosed{
			ConnectionID: conn, InstanceID: dev, Reason: arg("reason", subjects.ClosedByClient),
		}}
	case "beacon":
		return machine.Beacon{ConnectionBeacon: subjects.ConnectionBeacon{
			ConnectionID: conn, InstanceID: dev,
			Reported: subjects.Reported{IP: arg("ip", ""), Host: arg("host", ""), Version: arg("version", "")},
		}}
	case "granted":
		return machine.LeaseBegan{LeaseID: lease, ConnectionID: conn}
	case "consumed", "expired":
		return machine.LeaseEnded{LeaseID: lease, ConnectionID: conn}
	case "claimed", "rolled_back", "held", "denied", "abandoned", "renewed", "requested":
		// What the shell does not even read takes a sequence, and no step.
		require.False(t, machine.Concerns(subjects.AgentLease("acme", "ada", d.Cmd)))
		return nil
	default:
		t.Fatalf("unknown command %q", d.Cmd)
		return nil
	}
}

func (s *stage) apply(d *datadriven.TestData, seq uint64, fact machine.Fact) string {
	in := machine.Input{Seq: seq, EventID: fmt.Sprintf("e%d", seq), Type: d.Cmd, At: at(seq), Fact: fact}
	if d.HasArg("instance") {
		var source, dev string
		for _, arg := range d.CmdArgs {
			switch arg.Key {
			case "source":
				source = arg.Vals[0]
			case "device":
				dev = arg.Vals[0]
			}
		}
		if dev == "" {
			dev = "laptop"
		}
		row, effects := machine.StepInstance(s.instance[dev], source, in, retention)
		s.instance[dev] = row
		return printInstance(row) + printEffects(effects)
	}
	var effects []machine.Effect
	if fact != nil {
		s.agent, effects = machine.Step(s.agent, in)
	}
	return printAgent(s.agent) + printEffects(effects)
}

// short gives an id the name it was made from.
func short(full string) string {
	for _, prefix := range []string{"c", "l"} {
		for i := range 10 {
			if name := fmt.Sprintf("%s%d", prefix, i); id(name) == full {
				return name
			}
		}
	}
	return full
}

func printAgent(row subjects.AgentRow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s", row.Status)
	for _, c := range row.Connections {
		fmt.Fprintf(&b, " %s[", short(c.ConnectionID))
		for i, l := range c.Leases {
			if i > 0 {
				b.WriteString(" ")
			}
			b.WriteString(short(l))
		}
		b.WriteString("]")
	}
	fmt.Fprintf(&b, " applied=%d", row.AppliedSeq)
	if row.Evidence != nil {
		fmt.Fprintf(&b, " because %s (%s)", row.Reason, row.Evidence.EventID)
	}
	b.WriteString("\n")
	return b.String()
}

func printInstance(row subjects.InstanceRow) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s role=%s", row.Reason, row.Role)
	if row.ConnectionID != "" {
		fmt.Fprintf(&b, " connection=%s", short(row.ConnectionID))
	}
	for _, field := range [][2]string{{"agent", row.AgentID}, {"ip", row.IP}, {"version", row.Version}} {
		if field[1] != "" {
			fmt.Fprintf(&b, " %s=%s", field[0], field[1])
		}
	}
	if row.Reported != nil {
		fmt.Fprintf(&b, " reported=%s/%s", row.Reported.Host, row.Reported.IP)
	}
	fmt.Fprintf(&b, " links=%d seen=%s", len(row.Links), row.LastSeenAt.Format("15:04:05"))
	if !row.ExpiresAt.IsZero() {
		fmt.Fprintf(&b, " lapses=%s", row.ExpiresAt.Format("15:04:05"))
	}
	b.WriteString("\n")
	return b.String()
}

func printEffects(effects []machine.Effect) string {
	if len(effects) == 0 {
		return "nothing\n"
	}
	var b strings.Builder
	for _, effect := range effects {
		switch e := effect.(type) {
		case machine.Save:
			b.WriteString("save\n")
		case machine.Changed:
			fmt.Fprintf(&b, "changed %s -> %s: %s, %d connections, %d leases\n",
				e.Previous, e.Status, e.Reason, e.Connections, e.Leases)
		case machine.Audited:
			fmt.Fprintf(&b, "audit %s kind=%s lease=%s stale=%s", e.Name, e.Record.Kind,
				short(e.Record.LeaseID), short(e.Record.StaleConnectionID))
			if e.Record.CurrentConnectionID != "" {
				fmt.Fprintf(&b, " current=%s", short(e.Record.CurrentConnectionID))
			}
			b.WriteString("\n")
		case machine.Upserted:
			b.WriteString("upserted\n")
		}
	}
	return b.String()
}

func TestStepLeavesItsInputAlone(t *testing.T) {
	t.Parallel()
	before := subjects.OfflineAgent("ada")
	opened := machine.Opened{ConnectionOpened: subjects.ConnectionOpened{ConnectionID: id("c1")}}
	live, _ := machine.Step(before, machine.Input{Seq: 1, At: at(1), Fact: opened})
	held, _ := machine.Step(live, machine.Input{Seq: 2, At: at(2), Fact: machine.LeaseBegan{LeaseID: id("l1"), ConnectionID: id("c1")}})
	_, _ = machine.Step(held, machine.Input{Seq: 3, At: at(3), Fact: machine.LeaseEnded{LeaseID: id("l1"), ConnectionID: id("c1")}})
	require.Empty(t, before.Connections)
	require.Empty(t, live.Connections[0].Leases)
	require.Equal(t, []string{id("l1")}, held.Connections[0].Leases)
}
