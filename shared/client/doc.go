// Package client speaks rollcall.v1: it connects an agent, a node or an
// operator's program to a gateway, sends requests and hands on events.
//
// # Session
//
// A [Session] is a peer that comes back. It is told once what it wants:
//
//	var on client.Handlers
//	client.On(&on, "run.failed", func(ctx context.Context, e client.Event, run RunFailed) { … })
//	on.Any(func(ctx context.Context, e client.Event) { … })
//
//	s, err := client.Open(ctx, client.SessionOptions{
//		URLs: []string{"ws://a:8080/ws", "ws://b:8080/ws"}, Token: client.StaticToken(token), Key: key,
//		Events: []string{"run.*"}, Handlers: on,
//	})
//	defer s.Close(ctx)
//	_, err = s.Publish(ctx, client.Publication{Type: "run.queued", Payload: run})
//
// The examples run against a gateway that is written out in the tests.
//
// What a session does with each of its connections, and after it:
//
//	dial           the next of URLs, with the token of the moment
//	OnConnect      what has to be said again: moderate, beacon
//	restored       events.subscribe behind the last event that it kept, and
//	               presence.subscribe, whose snapshot is handed on again
//	connected      Publish, Ask and Request get through; before it is restored if
//	               there is no room yet for what that brings
//	room runs out  it unsubscribes, and subscribes again behind the last event that
//	               it kept once the handlers have made half the room free
//	lost           it waits a random time up to a bound that doubles from 1 s to
//	               30 s, and begins anew with 1 s after a good proof; never
//	               shorter than the gateway asks for by the event draining,
//	               retry_after_ms or code 1013
//	over           ctx ended, Close, or the gateway refused it for good: codes 4003,
//	               4005, 4006, 4007 and 4008 in the handshake, 4001 at any time
//	               unless Token then returns another one, and invalid_request,
//	               unauthorized, forbidden and unsupported_request to what it restores
//
// An event is handed on once, in the order of the stream, whatever connections it
// takes: a subscription begins behind the last event, and what comes twice all the
// same is known by its event_id, of the last 4,096. Where events are not kept any
// more, [TypeResync] comes in their place.
//
// Handlers run on one goroutine, which is not the one that reads: they may wait,
// publish and ask. Waiting events are bounded, by default 1,024 and 4 MiB, and none
// of them is lost when handlers are slow. NB: what a gateway tells this connection
// alone, the verdict on its lease for one, comes once; without room it is dropped.
//
// A program that ends loses what waits. [Session.Cursor] is behind what was
// handled; whoever keeps it and passes it on as [SessionOptions.Cursor] misses
// nothing, and handles at most the events again that were under way.
//
// # Conn
//
// A [Conn] is one authenticated connection, such as a session has one after the
// other. Leases are bound to it: [Session.Connected] returns the one of the moment.
// By itself it does not reconnect. [Conn.Done] tells when to dial again; wait before
// that with [Backoff], so that a fleet that lost its gateway does not come back in
// one wave.
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
