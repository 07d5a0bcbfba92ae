// Package audit checks what rollcall left behind: the whole stream EVENTS and the
// rows of PRESENCE, LEASES and GATEWAYS. It is written from the rules alone and
// shares no code with the services that follow them, so that a mistake of theirs
// is not made twice. Only the shapes of events and rows are common.
//
// [Check] replays the inputs of every agent, in the order of the stream, and holds
// the announcements and the rows against what must have followed. It can say so
// only of a history that is complete from its first event and has come to rest.
//
// One thing the stream does not tell: whether presence knew, when it read an
// opening, that the gateway's incarnation was superseded, and so refused it. For
// such an opening both are followed, and what was announced decides.
package audit
