package bus

import (
	"time"

	"github.com/nats-io/nats.go"
)

// intakeTick is how often arrivals are counted while the intake waits, and so
// the most by which a wait is overestimated then.
const intakeTick = 50 * time.Millisecond

// intake works out when messages came that still wait inside the NATS client,
// which does not note it. A message that finds the callback idle has just come.
// While the callback is busy it counts what has arrived: a message with a
// higher number than the count came later. Since a wait is never
// underestimated, no overdue message passes for a fresh one.
//
//	handed <= marks[i].arrived < marks[i+1].arrived
type intake struct {
	start  time.Time // of the oldest mark passed
	idle   bool      // nothing waited when the callback returned
	handed int       // messages given to the callback
	marks  []mark
}

// mark says how many messages had arrived at a time.
type mark struct {
	arrived int
	at      time.Time
}

// next numbers the message at hand and returns a time before which it did not
// arrive.
func (in *intake) next() time.Time {
	in.handed++
	if in.idle {
		in.start, in.marks = time.Now(), nil
		return in.start
	}
	for len(in.marks) > 0 && in.marks[0].arrived < in.handed {
		in.start = in.marks[0].at
		in.marks = in.marks[1:]
	}
	return in.start
}

// observe counts what has arrived by now.
func (in *intake) observe(sub *nats.Subscription) {
	waiting, _, err := sub.Pending()
	if err != nil {
		return // the subscription is over
	}
	waiting-- // the message in the callback's hands still counts
	in.idle = waiting <= 0
	in.note(in.handed+waiting, time.Now())
}

// note keeps the latest time of every count.
func (in *intake) note(arrived int, at time.Time) {
	if n := len(in.marks); n > 0 && in.marks[n-1].arrived >= arrived {
		in.marks[n-1].at = at
		return
	}
	in.marks = append(in.marks, mark{arrived: arrived, at: at})
}
