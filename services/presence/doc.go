// Package presence is the process that knows who is here.
//
// It reads what happened to connections and leases, keeps a row per agent and
// per instance in the bucket PRESENCE, and announces every change. It is the
// only writer of that bucket. Any number of presence processes may run at
// once; any of them may die at any moment.
//
//	in:   tenant.T.agent.A.connection.*  tenant.T.agent.A.lease.*
//	      tenant.T.instance.I.connection.*
//	      bucket GATEWAYS (who is alive), bucket SETTINGS (key T.presence)
//	out:  tenant.T.presence.agent.A.changed
//	      tenant.T.presence.instance.I.{upserted,pruned}
//	      tenant.T.audit.agent.A.<name>
//	      tenant.system.audit.presence.{brake_engaged,brake_released}
//	      tenant.T.agent.A.connection.closed, tenant.T.instance.I.connection.closed
//	      for the connections of a gateway that is lost
//	rows: PRESENCE T.agent.A, T.instance.I, system.brake, system.reader,
//	      system.presence.<process>
//
// # Who consumes
//
// Each live agent has a durable push consumer of its own on EVENTS, with one
// message under way at most; all of them deliver to one queue group. So every
// process takes a share, and each agent's events stay in order. A registrar
// consumer on connection.opened makes an agent's consumer and acknowledges the
// event only once the agent's row reflects it; of several opened events of one
// agent it holds the oldest, which speaks for the later ones. When an agent's
// row has lapsed its consumer is removed. The row remembers the sequence it is
// at, and so a consumer that is lost is made again from there and nothing is
// lost. Lease events of an agent whose row has lapsed have no consumer, and so
// are not audited.
//
// For fleets of many thousands there is another way, presence-consumers=shared:
// one elected process reads the log for all agents, and others stand by.
//
// # Order of writes
//
// An event is handled as: save the agent's row, announce it, save the
// instance's row, announce it, acknowledge the event. A crash anywhere between
// leaves the event unacknowledged: it is delivered again, finds the rows that
// already hold it, and repeats the announcements under the same ids. A row is
// written by compare-and-set, and a conflict reloads it and steps again.
//
// # Time to live
//
// Rows of live connections do not lapse: they live as long as their gateway
// does, whose own row in GATEWAYS lapses unless it keeps it alive. A watchdog
// compares who owns connections with who is alive. A gateway that is gone for
// longer than a grace, or that returned as another incarnation, has its
// connections closed through the ordinary path; an opening of such an incarnation
// that comes late is closed at once. If several gateways are missing at the same
// time, and most of the fleet with them, expiry is held for a while: the row
// system.brake says so. Rows without connections lapse
// after their retention; for instances the lapse is announced as
// presence.pruned.
//
// # When something fails
//
//	this process dies      its unacknowledged events go to another, or wait
//	NATS is away           handlers fail and their events come again; nothing is
//	                       expired meanwhile, and every gateway gets a whole
//	                       grace from the reconnect on
//	NATS stands still      likewise: JetStream is asked twice a second
//	EVENTS is removed      it is made again behind its last sequence, and consumers
//	                       with it; rows ahead of it are removed
//	a row moved on         reload, step again
//	an event is malformed  it is logged and terminated; it can change no row
//	a row is too large     the event that would make it so is terminated; closes
//	                       get through and shrink it
//	a consumer is removed  the sweep, once a minute and after a reconnect, makes
//	                       it again: an agent's from its row, the others from
//	                       where they were
package presence
