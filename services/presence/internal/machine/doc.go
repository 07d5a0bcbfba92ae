// Package machine decides what an event means for presence. It is pure: rows
// and events in, rows and effects out; no I/O, no clock, no randomness. Time
// is the time at which the stream stored the event, so that applying an event
// again gives the same row.
//
// An agent's row ([Step]):
//
//	            opened               granted on a live connection
//	offline ─────────────► online ─────────────────────────────► working
//	   ▲                   │    ▲                                 │  │
//	   └───────────────────┘    └─────────────────────────────────┘  │
//	      last close              last lease ended, or its           │
//	   ▲                          connection closed beside others    │
//	   └─────────────────────────────────────────────────────────────┘
//	      last close
//
// The rules, which the transcripts in testdata show one by one:
//
//  1. Only an opened connection brings an agent to life. A second connection
//     adds; the same connection again changes nothing.
//  2. A lease begins at lease.granted and ends at the first of lease.consumed
//     and lease.expired. Nothing between is a boundary.
//  3. A lease event counts only for a connection in the row. Otherwise nothing
//     changes and one audit event says so.
//  4. A close removes the connection together with its leases; a close of an
//     unknown connection changes nothing.
//  5. Every lease belongs to a connection in the row, whatever the order of
//     events.
//  6. A change is announced if and only if the status changed.
//  7. An event at or below applied_seq has no effect on the row. If it is the
//     one that made the row's last change, its announcement is made again
//     under the same id: a crash between row and announcement loses neither.
//
// An instance's row ([StepInstance]) shows the newest live connection of a
// device and lapses a while after the last one closed.
//
// Which gateways are lost, and so whose connections must be closed, is decided
// by [Watchdog].
package machine
