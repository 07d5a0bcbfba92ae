package gateway

import (
	"strconv"
	"strings"
	"time"

	"rollcall/subjects"
)

// position is a place in the order of events. Sequences begin anew with every
// stream, so a position names the stream too, by when it was made: one of a
// stream that is gone is never mistaken for one of its successor.
type position struct {
	origin int64 // milliseconds since 1970
	seq    uint64
}

func positionOf(origin time.Time, seq uint64) position { return position{origin.UnixMilli(), seq} }

// with is another place in the same stream.
func (p position) with(seq uint64) position { return position{p.origin, seq} }

// String is the position as peers get it, a cursor: base 36 and a number.
func (p position) String() string {
	return strconv.FormatInt(p.origin, 36) + "-" + strconv.FormatUint(p.seq, 10)
}

// after reports whether p comes after q. Every place in a stream comes after those
// in a stream before it, which is the only other one anybody can know.
func (p position) after(q position) bool { return p.origin != q.origin || p.seq > q.seq }

// parseCursor reads a cursor that a gateway has given out.
func parseCursor(text string) (position, error) {
	origin, seq, found := strings.Cut(text, "-")
	made, originErr := strconv.ParseInt(origin, 36, 64)
	at, seqErr := strconv.ParseUint(seq, 10, 64)
	p := position{made, at}
	if !found || originErr != nil || seqErr != nil || p.String() != text {
		return position{}, subjects.Invalid("cursor", "must be a cursor that a gateway has given out")
	}
	return p, nil
}
