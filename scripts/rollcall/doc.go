// Package rollcall is the command bin/rollcall: what operators and scripts ask a
// gateway from a terminal.
//
// Everything goes over HTTP, with listings and the stream of events. A socket
// would make of whoever looks an instance of its own in what it looks at.
//
// Listings are read to their last page. What follows changes (events, top, the
// listings with --watch) resumes behind the last event it saw, on whichever
// gateway answers, and says on stderr, or on the screen, while it cannot.
//
// The exit codes are part of the interface: see [Main].
//
// Text that peers chose (resources, reasons, labels) never reaches a terminal as
// it is: what is not printable is shown escaped.
package rollcall
