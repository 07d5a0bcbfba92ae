package up

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// stopTimeout is more than a process's own --shutdown-timeout.
const stopTimeout = 25 * time.Second

// crew starts, watches and stops child processes.
type crew struct {
	dir    string
	bin    string
	env    []string
	stderr io.Writer

	// life ends every child at once.
	life context.Context //nolint:containedctx // what exec.CommandContext kills by; ends with the crew
	kill context.CancelFunc

	// patience is how long a child may take to stop.
	patience time.Duration
	// starts run on the one OS thread that all children are started from.
	starts chan func()
	// stopping says that a child which ends does so because it was told to.
	stopping atomic.Bool
	watchers sync.WaitGroup
	thread   sync.WaitGroup
}

// newCrew makes a crew without children. It needs to be dismissed.
func newCrew(ctx context.Context, c Config, stderr io.Writer) *crew {
	w := &crew{dir: c.Dir, bin: c.Bin, env: c.Env, stderr: stderr, patience: stopTimeout, starts: make(chan func())}
	w.life, w.kill = context.WithCancel(context.WithoutCancel(ctx))
	w.thread.Go(w.parent)
	return w
}

// parent starts the children. Linux kills them when the thread that started
// them ends, hence it has to be one thread that lives as long as the crew.
func (w *crew) parent() {
	runtime.LockOSThread()
	for start := range w.starts {
		start()
	}
}

// start runs a binary of the stack that listens on port.
func (w *crew) start(name, binary string, port int, args ...string) (*process, error) {
	p, err := w.run(name, binary, append([]string{"--listen", address(port)}, args...))
	if err != nil {
		return nil, err
	}
	p.url = "http://" + address(port)
	p.probe = p.url + "/readyz"
	p.again = func(port int) (*process, error) { return w.start(name, binary, port, args...) }
	return p, nil
}

// run runs a binary of the stack.
func (w *crew) run(name, binary string, args []string) (*process, error) {
	log, err := openLog(w.dir, name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // the child has its own
	info, err := log.Stat()
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	cmd := exec.CommandContext(w.life, filepath.Join(w.bin, binary), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = w.env, log, log, childAttr()
	p := &process{name: name, cmd: cmd, log: log.Name(), offset: info.Size(), exited: make(chan struct{})}
	started := make(chan error, 1)
	w.starts <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	w.watchers.Go(func() { w.watch(p) })
	return p, nil
}

// watch waits for a child and reports an end that nobody asked for, or one
// that went wrong.
func (w *crew) watch(p *process) {
	defer close(p.exited)
	// What it returns is told better by ProcessState.
	_ = p.cmd.Wait()
	state := p.cmd.ProcessState
	switch {
	case !w.stopping.Load():
		w.say("up: %s (pid %d) ended: %s; it is not started again; log: %s", p.name, p.pid(), state, p.log)
	case !state.Success():
		w.say("up: %s (pid %d) did not stop cleanly: %s; log: %s", p.name, p.pid(), state, p.log)
	}
}

func (w *crew) say(format string, args ...any) {
	// One write per line: several watchers share the writer.
	_, _ = io.WriteString(w.stderr, fmt.Sprintf(format, args...)+"\n")
}

// stop asks the processes to stop and kills those that do not in time.
func (w *crew) stop(processes []*process) {
	w.stopping.Store(true)
	for _, p := range processes {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	}
	deadline := time.NewTimer(w.patience)
	defer deadline.Stop()
	for _, p := range processes {
		select {
		case <-p.exited:
			continue
		case <-deadline.C:
		}
		for _, late := range processes {
			if late.alive() {
				w.say("up: %s (pid %d) does not stop within %s and is killed", late.name, late.pid(), w.patience)
				_ = late.cmd.Process.Signal(os.Kill) // it may have ended
			}
		}
		break
	}
	for _, p := range processes {
		<-p.exited
	}
}

// dismiss kills who is left, waits for them and ends the parent thread.
func (w *crew) dismiss() {
	w.stopping.Store(true)
	w.kill()
	w.watchers.Wait()
	close(w.starts)
	w.thread.Wait()
}
