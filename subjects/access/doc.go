// Package access is the one table of who may do what on NATS. Credentials are
// made from it, and the tests hold a real server to it.
//
// What a service may do is derived from its [Duty]: what it stores, what it
// reads, which consumers it works for. Everything else the server refuses.
// Four things are worth knowing:
//
//   - A service creates the streams and buckets it uses where they are missing,
//     but changes only those that it alone is in charge of. Nobody may delete
//     one, except bin/replay its scratch bucket, and only the lease service may
//     purge, timers on COMMANDS.
//   - Each user has an inbox of its own ([InboxPrefix]), so that nobody reads
//     another's answers.
//   - The name of a consumer is a single token, and permissions cannot cut
//     inside of one. Whoever may follow a stream could therefore create, change
//     or remove consumers of any name on it; the durable ones of other services
//     are denied by name.
//   - NATS checks where a client publishes, and not where it asks the answer to
//     go. So whoever may ask the server for anything can make it write its answer
//     to any subject of the account. For a producer, which belongs to a tenant,
//     that is closed by an account of its own. A gateway, which strangers talk to,
//     gets no right to be answered with a stored message as it is (DIRECT.GET), so
//     that such an answer is never one of its choosing.
package access
