package access

import "rollcall/subjects"

// Duty is what one kind of process does with NATS.
type Duty struct {
	// Stores are the subjects it stores messages on, rows among them.
	Stores []string
	// Reads are the streams it follows and looks things up in; buckets are
	// streams, see [BucketStream].
	Reads []string
	// Looks are streams of which it only asks how they are.
	Looks []string
	// Copies says that it may be answered with stored messages as they are, the
	// fast way to read one.
	Copies bool
	// Works are the durable consumers it makes and acknowledges to.
	Works []Consumer
	// Listens is where those deliver.
	Listens string
	// Lists are the streams whose consumers it lists.
	Lists []string
	// Creates are the streams it makes where they are missing, Raises those of
	// them it enlarges when its settings ask for more.
	Creates, Raises []string
	// Purges are the streams it removes messages from.
	Purges []string
	// Scratch are the streams that are its own: it makes them and deletes them.
	Scratch []string
}

// Consumer is a durable consumer. The name "*" stands for one per agent.
type Consumer struct{ Stream, Name string }

// BucketStream is the stream behind a bucket.
func BucketStream(bucket string) string { return "KV_" + bucket }

// anyAgent is the name of a consumer per agent.
const anyAgent = "*"

// DutyOf is the table's row of a service, or of an operator's tool.
func DutyOf(service Role) Duty {
	events, commands, edge := subjects.StreamEvents, subjects.StreamCommands, subjects.StreamEdge
	presence, leases := BucketStream(subjects.BucketPresence), BucketStream(subjects.BucketLeases)
	gateways, settings := BucketStream(subjects.BucketGateways), BucketStream(subjects.BucketSettings)
	switch service {
	case Gateway:
		return Duty{
			Stores: append(commandSubjects(),
				"tenant.*.agent.*.connection.opened", "tenant.*.agent.*.connection.closed", "tenant.*.agent.*.connection.beacon",
				"tenant.*.instance.*.connection.opened", "tenant.*.instance.*.connection.closed", "tenant.*.instance.*.connection.beacon",
				"tenant.*.event.>", "tenant.*.audit.event.>", "tenant.*.edge.*.*",
				// A gateway's user is named by its instance_id.
				"$KV."+subjects.BucketGateways+"."+subjects.GatewayKey("{{name()}}"),
			),
			Reads:   []string{events, edge, presence, gateways, settings},
			Looks:   []string{leases},
			Creates: []string{events, commands, edge, presence, gateways, settings},
			Raises:  []string{gateways},
		}
	case Presence:
		return Duty{
			Stores: []string{
				"tenant.*.presence.>", "tenant.*.audit.agent.*.*", "tenant.*.audit.presence.*",
				"tenant.*.agent.*.connection.closed", "tenant.*.instance.*.connection.closed",
				"$KV." + subjects.BucketPresence + ".>",
			},
			Reads: []string{events, presence, gateways, settings}, Copies: true,
			Works: []Consumer{
				{events, subjects.ConsumerRegistrar}, {events, subjects.ConsumerInstances}, {events, anyAgent},
			},
			Listens: subjects.DeliverPresence,
			Lists:   []string{events},
			Creates: []string{events, presence, gateways, settings},
			Raises:  []string{events, presence},
		}
	case Lease:
		return Duty{
			Stores: []string{
				"tenant.*.agent.*.lease.*", "tenant.*.audit.agent.*.*", "tenant.*.edge.*.*",
				"tenant.*.lease.*." + subjects.TimerSchedule,
				"$KV." + subjects.BucketLeases + ".>",
			},
			Reads: []string{events, leases, settings}, Copies: true,
			Works:   []Consumer{{commands, subjects.ConsumerCommands}, {events, subjects.ConsumerCloses}},
			Listens: subjects.DeliverLease,
			Creates: []string{events, commands, edge, leases, settings},
			Raises:  []string{commands, edge, leases, settings},
			Purges:  []string{commands},
		}
	case Replay:
		return Duty{
			Stores:  []string{"$KV." + subjects.BucketReplay + ".>"},
			Reads:   []string{events, presence, gateways, settings},
			Scratch: []string{BucketStream(subjects.BucketReplay)},
		}
	case Producer, Tail, Admin, Agent, Operator:
		return Duty{}
	default:
		return Duty{}
	}
}

// commandSubjects are the lease commands that come from peers: all but the
// timer, which the server's scheduler sends.
func commandSubjects() []string {
	var out []string
	for _, command := range subjects.LeaseCommands() {
		if command != subjects.CommandTimer {
			out = append(out, "tenant.*.lease.*."+command)
		}
	}
	return out
}
