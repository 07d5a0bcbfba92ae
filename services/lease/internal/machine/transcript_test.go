package machine_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"rollcall/services/lease/internal/machine"
	"rollcall/subjects"
)

// The transcripts in testdata are the rules by example: a line is an input,
// what stands below it is the row and the effects. Rewrite them with
// go test -rewrite and read the difference.
//
// "state" in the table transcripts brings a fresh lease to a state, by the
// shortest way, before its inputs are tried on it one by one.
func TestTranscripts(t *testing.T) {
	t.Parallel()
	datadriven.Walk(t, "testdata/transcripts", func(t *testing.T, path string) {
		t.Helper()
		s := &stage{}
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			t.Helper()
			if d.Cmd == "table" {
				return table(t, d)
			}
			in := input(t, s.row, d)
			s.second++
			row, effects, problem := machine.Step(s.row, in, at(s.second))
			s.row = row
			return printRow(row) + printProblem(problem) + printEffects(effects)
		})
	})
}

// stage holds the lease of one transcript.
type stage struct {
	row    machine.Record
	second int
}

// input reads one line. Every line is a command of its own unless it says
// which one it is.
func input(t *testing.T, row machine.Record, d *datadriven.TestData) machine.Input {
	t.Helper()
	arg := func(name, preset string) string {
		d.MaybeScanArgs(t, name, &preset)
		return preset
	}
	span := func(name string) time.Duration {
		span, err := time.ParseDuration(arg(name, "0s"))
		if err != nil {
			d.Fatalf(t, "%s: %v", name, err)
		}
		return span
	}
	number := func(name string, preset uint64) uint64 {
		d.MaybeScanArgs(t, name, &preset)
		return preset
	}
	in := machine.Input{
		LeaseID: "l1", Cause: arg("cause", fmt.Sprintf("c%d", len(row.Book.Answers)+1)),
		CommandID: id(arg("command", fmt.Sprintf("k%d", len(row.Book.Answers)+1))),
		From:      peer(arg("agent", "ada"), arg("conn", "c1")),
	}
	policy := policies()[arg("policy", "grant")]
	switch d.Cmd {
	case "request":
		in.Fact = machine.Request{Resource: arg("resource", "repo"), Timeout: span("timeout"), Policy: policy, Closed: d.HasArg("closed")}
	case "retry":
		in.Fact = machine.Retry{Policy: policy}
	case "resolve":
		in.From = peer("", arg("conn", "c9"))
		in.Fact = machine.Resolve{
			Verdict: arg("verdict", "grant"), Timeout: span("timeout"), Hold: span("hold"), Reason: arg("reason", ""),
			Operator: d.HasArg("operator"), Resources: strings.Split(arg("covers", "repo"), "|"),
		}
	case "claim":
		in.Fact = machine.Claim{}
	case "finalize":
		in.Fact = machine.Finalize{Fence: number("fence", 1), MessageID: arg("message", "")}
	case "rollback":
		in.Fact = machine.Rollback{Fence: number("fence", 1), Reason: arg("reason", "")}
	case "renew":
		in.Fact = machine.Renew{Timeout: span("timeout")}
	case "timer":
		in.CommandID = ""
		in.Fact = machine.TimerFired{Epoch: number("epoch", row.Book.Epoch)}
	case "closed":
		in.CommandID = ""
		in.Fact = machine.ConnectionClosed{ConnectionID: id(arg("conn", "c1"))}
	default:
		d.Fatalf(t, "unknown input %q", d.Cmd)
	}
	return in
}

// table tries every input on a lease in one state, each on a fresh one, and
// prints one line per input: the state it leads to, what is emitted, or why it
// is refused.
func table(t *testing.T, d *datadriven.TestData) string {
	t.Helper()
	state := d.CmdArgs[0].Key
	var b strings.Builder
	for _, row := range inputs() {
		before := inState(state)
		after, effects, problem := machine.Step(before, row.in, at(100))
		outcome := after.State
		switch {
		case problem != nil:
			outcome = "refused: " + problem.Code
			if expected, ok := problem.Details["expected"]; ok {
				outcome += fmt.Sprintf(", expects %v", expected)
			}
			if fence, ok := problem.Details["fence"]; ok {
				outcome += fmt.Sprintf(", fence %v", fence)
			}
		case len(effects) == 0:
			outcome = "-"
		case after.Book.Rearmed != "":
			outcome = "the timer in force is set again"
		default:
			if after.Reason != "" {
				outcome += " (" + after.Reason + ")"
			}
			if after.Book.Gone {
				outcome += ", connection gone"
			}
			for _, a := range after.Book.Outbox {
				outcome += ", " + a.Type
			}
		}
		fmt.Fprintf(&b, "%-28s %s\n", row.name, outcome)
	}
	return b.String()
}

type tableRow struct {
	name string
	in   machine.Input
}

// inputs lists every kind of input, legal and not.
func inputs() []tableRow {
	ada, other, bob := peer("ada", "c1"), peer("ada", "c2"), peer("bob", "c3")
	mod := peer("", "c9")
	row := func(name string, from subjects.Peer, fact machine.Fact) tableRow {
		return tableRow{name, machine.Input{LeaseID: "l1", Cause: "x", CommandID: id("k99"), From: from, Fact: fact}}
	}
	epoch := func(state string) uint64 { return inState(state).Book.Epoch }
	covers := []string{"repo"}
	return []tableRow{
		row("request, grant", ada, machine.Request{Resource: "repo", Policy: policies()["grant"]}),
		row("request, deny", ada, machine.Request{Resource: "repo", Policy: policies()["deny"]}),
		row("request, hook", ada, machine.Request{Resource: "repo", Policy: policies()["hook"]}),
		row("request, no moderator", ada, machine.Request{Resource: "repo", Policy: policies()["hook-without-moderator"]}),
		row("request, already closed", ada, machine.Request{Resource: "repo", Policy: policies()["grant"], Closed: true}),
		row("retry, grant", ada, machine.Retry{Policy: policies()["grant"]}),
		row("retry, hook", other, machine.Retry{Policy: policies()["hook"]}),
		row("retry by another agent", bob, machine.Retry{Policy: policies()["grant"]}),
		row("resolve grant", mod, machine.Resolve{Verdict: "grant", Resources: covers}),
		row("resolve deny", mod, machine.Resolve{Verdict: "deny", Reason: "no", Resources: covers}),
		row("resolve hold", mod, machine.Resolve{Verdict: "hold", Resources: covers}),
		row("resolve by operator", mod, machine.Resolve{Verdict: "grant", Operator: true}),
		row("resolve by a stranger", mod, machine.Resolve{Verdict: "grant", Resources: []string{"shell"}}),
		row("claim", ada, machine.Claim{}),
		row("claim, other connection", other, machine.Claim{}),
		row("claim by another agent", bob, machine.Claim{}),
		row("finalize", ada, machine.Finalize{Fence: 1, MessageID: "m"}),
		row("finalize, other connection", other, machine.Finalize{Fence: 1}),
		row("finalize, wrong fence", ada, machine.Finalize{Fence: 7}),
		row("finalize by another agent", bob, machine.Finalize{Fence: 1}),
		row("rollback", ada, machine.Rollback{Fence: 1}),
		row("rollback, other connection", other, machine.Rollback{Fence: 1}),
		row("rollback, wrong fence", ada, machine.Rollback{Fence: 7}),
		row("rollback by another agent", bob, machine.Rollback{Fence: 1}),
		row("renew", ada, machine.Renew{}),
		row("renew by another agent", bob, machine.Renew{}),
		row("timer of an older epoch", subjects.Peer{}, machine.TimerFired{Epoch: 0}),
		row("timer of epoch 1", subjects.Peer{}, machine.TimerFired{Epoch: epoch(subjects.LeaseGranted)}),
		row("timer of epoch 2", subjects.Peer{}, machine.TimerFired{Epoch: epoch(subjects.LeaseClaimed)}),
		row("timer of a later epoch", subjects.Peer{}, machine.TimerFired{Epoch: 99}),
		row("bound connection closed", subjects.Peer{}, machine.ConnectionClosed{ConnectionID: id("c1")}),
		row("other connection closed", subjects.Peer{}, machine.ConnectionClosed{ConnectionID: id("c2")}),
	}
}

// claimedAndGone is CLAIMED by a connection that has closed since.
const claimedAndGone = "CLAIMED-AND-GONE"

// inState brings a lease to a state by the shortest way.
func inState(state string) machine.Record {
	var row machine.Record
	second := 0
	do := func(from subjects.Peer, fact machine.Fact) {
		second++
		row, _, _ = machine.Step(row, machine.Input{
			LeaseID: "l1", Cause: fmt.Sprint(second), CommandID: id(fmt.Sprintf("k%d", second)), From: from, Fact: fact,
		}, at(second))
	}
	request := func(policy string) {
		do(peer("ada", "c1"), machine.Request{Resource: "repo", Policy: policies()[policy]})
	}
	switch state {
	case "none":
	case subjects.LeasePending:
		request("hook")
	case subjects.LeaseHold:
		request("hook")
		do(peer("", "c9"), machine.Resolve{Verdict: "hold", Operator: true})
	case subjects.LeaseGranted:
		request("grant")
	case subjects.LeaseClaimed:
		request("grant")
		do(peer("ada", "c1"), machine.Claim{})
	case claimedAndGone:
		request("grant")
		do(peer("ada", "c1"), machine.Claim{})
		do(subjects.Peer{}, machine.ConnectionClosed{ConnectionID: id("c1")})
	case subjects.LeaseConsumed:
		request("grant")
		do(peer("ada", "c1"), machine.Claim{})
		do(peer("ada", "c1"), machine.Finalize{Fence: 1})
	case subjects.LeaseExpired:
		request("grant")
		do(subjects.Peer{}, machine.TimerFired{Epoch: 1})
	case subjects.LeaseDenied:
		request("deny")
	case subjects.LeaseAbandoned:
		request("hook")
		do(subjects.Peer{}, machine.ConnectionClosed{ConnectionID: id("c1")})
	}
	return row
}

// clock prints a time as seconds since the transcript's start.
func clock(moment time.Time) string { return moment.Sub(at(0)).String() }

func printRow(row machine.Record) string {
	if !row.Exists() {
		return "none\n"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s epoch=%d", row.State, row.Book.Epoch)
	if row.Fence > 0 {
		fmt.Fprintf(&b, " fence=%d", row.Fence)
	}
	if row.Verdict != nil {
		fmt.Fprintf(&b, " verdict=%s", row.Verdict.Decision)
		if row.Verdict.Reason != "" {
			fmt.Fprintf(&b, "(%s)", row.Verdict.Reason)
		}
		fmt.Fprintf(&b, " by=%s", row.Verdict.By)
	}
	if row.Reason != "" {
		fmt.Fprintf(&b, " reason=%s", row.Reason)
	}
	if row.Book.Gone {
		b.WriteString(" gone")
	}
	for _, field := range []struct {
		name string
		at   time.Time
	}{{"expires", row.ExpiresAt}, {"claim_expires", row.ClaimExpiresAt}, {"due", row.Book.Due}, {"ended", row.EndedAt}} {
		if !field.at.IsZero() {
			fmt.Fprintf(&b, " %s=%s", field.name, clock(field.at))
		}
	}
	return b.String() + "\n"
}

func printProblem(problem *subjects.Problem) string {
	if problem == nil {
		return ""
	}
	return fmt.Sprintf("refused %s: %s %v\n", problem.Code, problem.Message, problem.Details)
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
		case machine.Schedule:
			fmt.Fprintf(&b, "schedule epoch %d at %s", e.Epoch, clock(e.At))
			if e.Repair != "" {
				b.WriteString(", again")
			}
			b.WriteString("\n")
		case machine.CancelSchedule:
			b.WriteString("cancel schedule\n")
		case machine.AskModerator:
			fmt.Fprintf(&b, "ask %s on %s for %dms\n", short(e.ConnectionID), short(e.Incarnation), e.TimeoutMS)
		case machine.Notify:
			fmt.Fprintf(&b, "tell %s on %s of %s\n", short(e.To.ConnectionID), short(e.To.Incarnation), e.Of.Type)
		case machine.Emit:
			fmt.Fprintf(&b, "emit %s: %s, because of %s\n", e.Type, e.Lease.State, e.Cause)
		case machine.Audit:
			fmt.Fprintf(&b, "audit %s: %s\n", e.Name, e.Record.Detail)
		}
	}
	return b.String()
}
