package bench

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// patience is how long anything that is expected may take. What takes longer
// ends the run: it is lost, and no measurement.
const patience = 30 * time.Second

// sightings hands what an observer sees to those who wait for it.
type sightings struct {
	mu      sync.Mutex
	waiting map[string]chan time.Time
}

func newSightings() *sightings { return &sightings{waiting: map[string]chan time.Time{}} }

// expect says that what will be waited for. It has to come before the cause.
// There is one to wait for each what at a time.
func (s *sightings) expect(what string) <-chan time.Time {
	seen := make(chan time.Time, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting[what] = seen
	return seen
}

// saw tells whoever waits. What nobody expects is forgotten.
func (s *sightings) saw(what string) {
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	if seen, ok := s.waiting[what]; ok {
		delete(s.waiting, what)
		seen <- now
	}
}

// wait returns when an expected thing was seen.
func wait(ctx context.Context, what string, seen <-chan time.Time) (time.Time, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case at := <-seen:
		return at, nil
	case <-ctx.Done():
		return time.Time{}, fmt.Errorf("wait for %s: %w", what, ctx.Err())
	}
}
