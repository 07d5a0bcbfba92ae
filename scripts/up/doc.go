// Package up runs the whole stack on one machine: a NATS server inside, or one or
// three as processes of their own, and gateway, presence and lease as processes
// of their own, found beside the up binary. It is the command bin/up.
//
// Everything lives below one directory, which one instance at a time may use:
//
//	lock            held by the running instance; holds its pid
//	account.nk …    keys, see package keys
//	nats/           JetStream's files; of a cluster, a folder for each server
//	nats-cluster.secret  what the servers of a cluster let each other in by
//	nats.url        where NATS is, for bin/token and bin/replay
//	gateway.urls    where the gateways are, one a line, for bin/rollcall
//	nats-cli/       contexts of the nats command: one per tenant, and _admin
//	logs/           one file per process, appended to
//	tokens/         <tenant>.operator: an access token for the tenant's operator
//
// Each process gets everything by arguments, with its port spelled out, so that
// the same command line starts it again. Up starts nothing again by itself: a
// process that dies is reported on stderr, and whoever looks decides.
//
// On SIGINT or SIGTERM things stop in the order in which they depend on each
// other: demo agents, gateways, presence, lease, NATS. The processes run in
// process groups of their own, so that Ctrl-C reaches up alone. When up itself
// is killed, Linux kills them too; NB: other systems leave them running.
package up
