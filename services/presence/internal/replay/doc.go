// Package replay makes the rows of PRESENCE again from the stream EVENTS and
// compares them with those that are there. It is the operator's tool after a
// disaster: it reads, and writes nothing but a scratch bucket.
//
// [Book] is pure: messages and rows in, a [Report] out. It steps rows by the same
// machine as the presence process. [Run] carries: it reads the rows, then the log,
// and again what did not agree until it does or the time to settle is over.
//
// # How rows are compared
//
// A row says which event it is at (applied_seq, of an instance applied). It is
// compared with what the log gives at that event, and so a fleet in motion can be
// checked. A row that stays behind the log is a difference.
//
// # What is not the same by nature
//
//	the log begins later         what was before is not known. A row that agrees
//	                             agrees; one that does not is not provable, unless an
//	                             announcement in the log says that the agent was
//	                             offline at some place: from there on all is known
//	the bucket begins later      likewise, from when it was made
//	a row that lapsed            is missing rightly once its retention is over, or where
//	                             its marker or presence.pruned says so
//	an instance that lapsed      comes back without what its beacons said: both are
//	between two connections      followed
//	an opening of a superseded   was refused or was not; the stream tells only where it
//	incarnation                  was announced. Otherwise both are followed
//	an instance of two agents    their events may overtake each other: compared are its
//	                             links and what follows from them
//	a row near the size limit    presence may have refused an event for it: not provable
//	lapse, grace, brake          closes by presence are events as others are
//	system.* of PRESENCE         presence's own notes, which no event gives
package replay
