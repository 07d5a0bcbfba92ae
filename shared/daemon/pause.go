package daemon

import (
	"context"
	"time"
)

// Pause waits for d, and returns true if ctx has not ended by then. It returns false
// at once when ctx ends, however much is left of d.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
