package machine_test

import (
	"fmt"
	"time"

	"github.com/google/uuid"

	"rollcall/services/lease/internal/machine"
	"rollcall/subjects"
)

// id makes an id of a name such as c1 or k1.
func id(name string) string { return uuid.NewSHA1(uuid.NameSpaceOID, []byte(name)).String() }

// short gives an id the name it was made from.
func short(full string) string {
	for _, prefix := range []string{"c", "g", "k"} {
		for i := range 100 {
			if name := fmt.Sprintf("%s%d", prefix, i); id(name) == full {
				return name
			}
		}
	}
	return full
}

// at is the time of the n-th second.
func at(n int) time.Time {
	return time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC).Add(time.Duration(n) * time.Second)
}

// peer is a connection of an agent.
func peer(agent, connection string) subjects.Peer {
	return subjects.Peer{
		ConnectionID: id(connection), InstanceID: "dev_of_" + connection, AgentID: agent, Incarnation: id("g1"),
	}
}

func moderator() *machine.Address {
	return &machine.Address{ConnectionID: id("c9"), Incarnation: id("g9")}
}

// policies are those that transcripts and properties choose from.
func policies() map[string]machine.Policy {
	base := machine.Policy{LeaseTimeout: time.Minute, ClaimTimeout: 15 * time.Minute, HookTimeout: 10 * time.Second}
	with := func(change func(*machine.Policy)) machine.Policy {
		p := base
		change(&p)
		return p
	}
	return map[string]machine.Policy{
		"grant": with(func(p *machine.Policy) { p.Decision = subjects.PolicyGrant }),
		"grant-for-ever": with(func(p *machine.Policy) {
			p.Decision, p.ClaimTimeout = subjects.PolicyGrant, 0
		}),
		"deny": with(func(p *machine.Policy) { p.Decision, p.Reason = subjects.PolicyDeny, "not on fridays" }),
		"hook": with(func(p *machine.Policy) { p.Decision, p.Moderator = subjects.PolicyHook, moderator() }),
		"hook-without-moderator": with(func(p *machine.Policy) {
			p.Decision = subjects.PolicyHook
		}),
	}
}
