// Package lease is the process that hands out leases: time-bound, single-use
// permissions to act, each bound to one connection of one agent.
//
// It answers the commands of the stream COMMANDS, keeps a row per lease in the
// bucket LEASES, and announces every transition. It is the only writer of that
// bucket. Any number of lease processes may run at once; any of them may die at
// any moment.
//
//	in:   tenant.T.lease.L.{request,retry,resolve,claim,finalize,rollback,
//	      renew,get,list,moderate} and tenant.T.lease.L.timer (deadlines)
//	      tenant.T.agent.A.connection.closed
//	      tenant.T.instance.I.connection.closed
//	      bucket SETTINGS (key T.lease: policies)
//	out:  tenant.T.agent.A.lease.<transition>
//	      tenant.T.audit.agent.A.lease_claim_deadline
//	      tenant.T.edge.N.C: replies, notices, questions to moderators
//	      tenant.T.lease.L.timer.schedule: timers that the server delivers when due
//	rows: LEASES T.A.L              leases
//	             T._closed.C        connections that are gone, for ten minutes
//	             T._moderator.C     who answers for which resources
//
// States and transitions are drawn in internal/machine, which decides them;
// policies are in internal/policy. This package is the shell.
//
// # Who wins
//
// A row is written by compare-and-set at the revision it was read at. Of
// sixty-four claims that race, one write is accepted; the others reload, find
// the lease CLAIMED and are refused. There is no lock and no leader.
//
// # Order of writes
//
// An input is handled as: save the row; set its timer, tell the connections that
// have a part in it and reply, all at once; store its events; acknowledge. The row carries
// in its outbox what is to be announced and among its answers what the command
// was told. So a crash between any two of these loses nothing: the input comes
// again, finds itself in the row and only repeats what follows, under ids
// derived from the same cause, and the streams store each once. Whichever
// process loads the row first does the same before it moves it on, so that the
// events of a lease are stored in the order of its transitions.
//
// The streams recognise a repeated id for two minutes. A row that is older than
// that has its last event looked up in the log before anything is repeated;
// since events are stored last, one that is there proves what comes before it.
// A process that finds that it stood still for so long after a save does not
// announce: the input comes again and the log is looked up.
//
// # Deadlines
//
// A deadline is a message that the server delivers at its time, whether or not
// a process is there to see it. It names the epoch of the row that it was set
// for, and counts only while the row is at that epoch.
//
// # When something fails
//
//	this process dies     its unacknowledged commands go to another, or wait
//	all of them are down  commands and fired timers wait in COMMANDS, closes in
//	                      EVENTS; peers hear "unavailable" from their gateway, and
//	                      commands that waited longer than that are refused later
//	timers are gone       with COMMANDS, purged or removed: one that has not come
//	                      ten seconds after its deadline is set again
//	NATS is away          handlers fail and their messages come again
//	a row moved on        reload, step again
//	a command is malformed   no reply is possible: logged and terminated
//	a payload is malformed   invalid_request
//	a setting is bad      logged; the last good one stays in force, and where
//	                      there is none all is denied
//	a replica is behind   rows are read from the leader; a listing that is not
//	                      known to be complete fails, and is made again
//	presence is away      nothing: no decision reads it
package lease
