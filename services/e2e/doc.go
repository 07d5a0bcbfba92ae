// Package e2e tests rollcall from outside: it builds the binaries, starts the
// whole stack with bin/up, and drives it through sockets, HTTP, NATS and
// signals. It links no service; what it knows of them is what any other
// program may know.
//
// The tests assert order and outcome. They wait for events and rows, never for
// time to pass, and so a slow machine makes them slow, not red.
package e2e
