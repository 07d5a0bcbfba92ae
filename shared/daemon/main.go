package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
)

// What a process returns to whoever started it.
const (
	exitOK       = 0
	exitFailure  = 1
	exitSettings = 2
)

// gcPercent is how much a heap may grow between two collections where GOGC does
// not say. The processes live on small heaps and make much garbage: at the
// runtime's own 100 a tenth of their time goes into collecting it. GOMEMLIMIT
// bounds the memory wherever that matters.
const gcPercent = 300

// Coded is an error that says with which code the process ends, so that scripts
// can tell one failure from another.
type Coded interface {
	error
	ExitCode() int
}

// Main runs a process and returns its exit code: 0 when run returns nil (or
// was asked for help), 2 when the settings are faulty, that of a [Coded] error,
// 1 otherwise, with the error as one line on stderr. SIGINT or SIGTERM ends ctx; a second one ends
// the process at once.
func Main(run func(ctx context.Context, args []string, env []string, stderr io.Writer) error) int {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(gcPercent)
	}
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ended := make(chan struct{})
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		obey(signals, ended, cancel)
	}()
	err := run(ctx, os.Args[1:], os.Environ(), os.Stderr)
	close(ended)
	<-watching
	return conclude(err, os.Stdout, os.Stderr)
}

// obey cancels at the first signal and exits at the second.
func obey(signals <-chan os.Signal, ended <-chan struct{}, cancel context.CancelFunc) {
	for {
		select {
		case <-ended:
			return
		case <-signals:
			cancel()
		}
		select {
		case <-ended:
			return
		case <-signals:
			os.Exit(exitFailure)
		}
	}
}

// conclude reports err and turns it into an exit code.
func conclude(err error, stdout, stderr io.Writer) int {
	var faults *SettingsError
	var coded Coded
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, flag.ErrHelp):
		fmt.Fprintln(stdout, err)
		return exitOK
	case errors.As(err, &faults):
		fmt.Fprintln(stderr, oneLine(err.Error()))
		return exitSettings
	case errors.As(err, &coded):
		fmt.Fprintln(stderr, oneLine(err.Error()))
		return coded.ExitCode()
	default:
		fmt.Fprintln(stderr, oneLine(err.Error()))
		return exitFailure
	}
}

// oneLine keeps joined errors on one line.
func oneLine(s string) string { return strings.Join(strings.Split(strings.TrimSpace(s), "\n"), "; ") }
