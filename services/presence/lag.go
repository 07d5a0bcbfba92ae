package presence

import (
	"sync"
	"time"
)

// lag is how far behind the log this process is: the worst time from an event being
// stored to its being applied, of those applied during the last two beats, and of
// those being applied, for as long as they are.
type lag struct {
	mu           sync.Mutex
	worst, older time.Duration // of this beat, and of the one before
	underWay     map[int]time.Time
	last         int
}

// begin notes that an event of the given time is being applied; done says that it
// is, or comes again.
func (l *lag) begin(stored time.Time) (done func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.underWay == nil {
		l.underWay = map[int]time.Time{}
	}
	l.last++
	id := l.last
	l.underWay[id] = stored
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.underWay, id)
		l.worst = max(l.worst, time.Since(stored))
	}
}

// beat is the lag now, and begins another beat.
func (l *lag) beat(now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := max(l.worst, l.older)
	for _, stored := range l.underWay {
		found = max(found, now.Sub(stored))
	}
	l.worst, l.older = 0, l.worst
	return found
}
