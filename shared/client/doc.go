// Package client speaks rollcall.v1: it connects an agent, a node or an
// operator's program to a gateway, sends requests and hands on events.
//
// A [Conn] is one authenticated connection. It does not reconnect: only its
// user knows what the connection was for and what has to be said again on the
// next one. [Conn.Done] tells when to dial again; wait before that with
// [Backoff], so that a fleet that lost its gateway does not come back in one
// wave.
//
// One goroutine reads. It hands responses to the requests that wait for them
// and calls [Options.OnEvent] for each event, in order. While OnEvent runs,
// nothing is read: a callback that takes its time makes this connection a slow
// reader, which the gateway closes with code 1008, and a callback that waits
// for a request of the same connection waits for ever.
//
// The package depends on the protocol alone, not on the packages of the
// services, so that any program can use it.
package client
