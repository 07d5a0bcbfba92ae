package file

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

// lockEvery is how often a lock that somebody holds is asked for again.
const lockEvery = 2 * time.Millisecond

// Lock takes the lock that a file stands for, waiting for it until ctx ends;
// any number may share it, or one have it alone. The kernel takes it back when
// the process ends, however it ends. The file is made, and stays: removing it
// would let two processes lock two files of the same name.
func Lock(ctx context.Context, path string, shared bool) (unlock func(), err error) {
	lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	how := syscall.LOCK_EX
	if shared {
		how = syscall.LOCK_SH
	}
	tick := time.NewTicker(lockEvery)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(lock.Fd()), how|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = lock.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			_ = lock.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		select {
		case <-ctx.Done():
			_ = lock.Close()
			return nil, fmt.Errorf("lock %s: somebody else holds it: %w", path, ctx.Err())
		case <-tick.C:
		}
	}
}
