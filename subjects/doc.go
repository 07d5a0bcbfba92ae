// Package subjects is what rollcall says: the names of its subjects, keys,
// streams and buckets, the identifiers that may appear in them, and the shape
// of every event and row.
//
// It holds no I/O. The gateway validates with it what enters, the presence and
// lease services parse with it what they receive, and any other program that
// talks to rollcall over NATS can import it alone: it depends on the standard
// library and google/uuid only.
//
// Three rules hold everywhere:
//
//   - Every subject starts with tenant.<tenant_id>, and so a tenant is a prefix
//     that NATS permissions can cut along.
//   - Nothing reaches a subject or a key before its Check function accepted it.
//   - An event's event_id is the message id it is stored under. An event that
//     is caused by another has an id derived from that cause ([DeriveID]), so
//     that emitting it again stores nothing twice.
//
// Readers of rows and events ignore keys they do not know (plain
// encoding/json). What a peer sends is decoded by [Decode], which refuses
// them and names the field and the rule.
//
// [Catalog] lists the types of events, rollcall's own and those that producers
// have in common. [CheckPayload] holds an event's payload to its type where it
// enters: strictly in what the type has, and open to keys that it will have.
// The folder schema holds the same as JSON Schema, testdata an example of each.
package subjects
