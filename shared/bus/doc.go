// Package bus carries bytes over NATS JetStream: it connects, makes sure that
// streams and buckets exist, publishes under a message id, reads and writes
// rows by compare-and-set, follows streams in order and shares work out.
//
// It knows nothing of what the bytes mean. Four promises hold everywhere:
//
//   - A publish is retried under one id until its context ends, so it is
//     stored at most once within the stream's duplicate window.
//   - A row is written only at the revision the caller has read. Nothing is
//     resent behind the caller's back: after an answer that did not come the
//     caller reads the row again and decides again.
//   - A follower ([KV.Watch], [Conn.Read]) hands on every stored message once
//     and in order, whatever happens to the connection or to its consumer.
//   - Work is acknowledged when its handler says so, and only then.
//
// Three error classes matter to callers: [ErrConflict] (read again),
// [ErrUnavailable] (JetStream did not answer in time, the outcome is unknown)
// and everything else (the server refused for good).
package bus
