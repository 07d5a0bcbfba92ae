// Package bench measures rollcall against the least that JetStream needs for
// the same. It is the command bin/bench.
//
// It starts a stack of its own with bin/up, drives it through shared/client,
// and puts beside each measure its raw twin: the JetStream operations behind
// it, in the order and with the concurrency in which rollcall does them, sent
// by nats.go alone to the same server, into streams with the same settings and
// with messages that rollcall itself has stored. What rollcall's processes follow
// is delivered to the twin's too: all events and the rows of PRESENCE to each of
// two gateways, those rows to presence, those of LEASES to lease. The twin looks at
// none of them. Nor does it read the rows it writes, decode, validate, decide, speak
// WebSocket or make consumers as agents come: that is the difference that the ratio
// shows.
//
//	measure       rollcall                                   raw twin
//	connect       dial, handshake; proof answered            opened stored
//	              … and an observer on the other gateway     … consumer, agent row, changed, reader
//	              gets presence.changed                      sees it (instance row, upserted, ack follow)
//	beacon        presence.beacon answered, its              beacon stored, consumer, agent row,
//	              presence.upserted seen                     instance row, upserted, seen, ack
//	fanout        an announced change reaches S sockets      a stored message reaches S core
//	              of one gateway                             subscribers
//	events        an event of one publisher reaches all      a stored message reaches L core
//	              sockets of a gateway that listen           subscribers
//	slow          the same to 99, beside one that reads      the same 99 without it
//	              a byte per second and is closed
//	lease         request, claim, finalize, each answered;   per command: stored, consumer, tombstone
//	              the agent is seen working and online       looked up, row, timer, notice, reply, events,
//	              again meanwhile                            seen, ack; per event: presence's consumer,
//	                                                         agent row looked up and written, changed, ack
//	gateway-loss  kill -9 of a gateway until the last of     none; the bound is gateway TTL + grace + 1s
//	              its agents is seen offline
//
// Machines are noisy. Rounds of both sides take turns, so that what disturbs
// one disturbs the other: each figure is the median over the rounds, a ratio
// the median of the ratios of the pairs. A ratio says how many times as much
// rollcall takes: of latency, or of time per operation where the measure is a
// rate. Nearer to 1 is better.
//
// Agents are a fleet of fixed size that connects before the first round, so
// that rounds are alike: a connect that is measured is a known agent's return.
//
// NB: clients, observers and twin share this process, and the machine with the
// stack. The figures compare; they are no capacity of a deployment.
package bench
