package gateway

import (
	"context"
	"fmt"
	"sync"
)

// tasks are goroutines with one owner, who stops them and learns of the first
// failure.
type tasks struct {
	ctx    context.Context //nolint:containedctx // the life of the tasks, not of a call
	cancel context.CancelFunc
	failed chan struct{}
	group  sync.WaitGroup

	mu    sync.Mutex
	first error
}

// newTasks makes tasks that outlive ctx until they are stopped.
func newTasks(ctx context.Context) *tasks {
	t := &tasks{failed: make(chan struct{})}
	t.ctx, t.cancel = context.WithCancel(context.WithoutCancel(ctx))
	return t
}

func (t *tasks) run(what string, task func(ctx context.Context) error) {
	t.group.Go(func() {
		if err := task(t.ctx); err != nil {
			t.fail(fmt.Errorf("%s: %w", what, err))
		}
	})
}

func (t *tasks) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.first == nil {
		t.first = err
		close(t.failed)
	}
}

func (t *tasks) err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.first
}

// stop ends the tasks and waits for them.
func (t *tasks) stop() {
	t.cancel()
	t.group.Wait()
}
