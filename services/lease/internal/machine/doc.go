// Package machine decides what an input means for one lease. It is pure: a row
// and an input in, a row, effects and perhaps a refusal out; no I/O, no clock,
// no randomness.
//
//	          verdict grant              claim
//	PENDING ─────────────────► GRANTED ─────────► CLAIMED ──────► CONSUMED
//	│ ▲ │ │                    │     ▲            │  │   finalize
//	│ │ │ │ verdict deny       │     └────────────┘  │
//	│ │ │ └───────► DENIED     │        rollback     │
//	│ │ │                      │                     │
//	│ │ │ connection closed    │ timeout, or its     │ claim deadline
//	│ │ └───────► ABANDONED    │ connection closed   │ only
//	│ │                        ▼                     │
//	│ │ retry               EXPIRED ◄────────────────┘
//	│ │                        ▲
//	▼ │ verdict hold           │ hold deadline, or its
//	HOLD ──────────────────────┘ connection closed
//
// What always holds, for every row and whatever the order of inputs:
//
//  1. Nothing leaves CONSUMED, EXPIRED, DENIED and ABANDONED.
//  2. Every claim's fence is higher than all before: fence' = fence + 1 at a
//     claim, fence' = fence otherwise.
//  3. A CLAIMED lease is moved by its agent or by its own deadline; neither a
//     time-out set before the claim nor a closed connection moves it, because
//     the act it permits is under way. That the connection closed is noted: a
//     rollback then makes it GRANTED and EXPIRED in one step, with both events,
//     as nobody else may claim it.
//  4. A timer counts if and only if its epoch is the row's. Every transition
//     begins a new epoch, so a timer that fires late, twice or for a deadline
//     that was met does nothing.
//     A timer is set where none fires by the deadline: Armed <= Due. One that
//     fires for an older epoch is set again for the deadline in force.
//  5. A transition is saved first and then announced, once, in the row's
//     outbox, with everything that is needed to do so again ([Again]).
//  6. No lease is GRANTED to a connection that is known to be gone.
//  7. A command's answer is recorded in the row it was made by: delivered again,
//     it is answered as it was, and moves nothing.
package machine
