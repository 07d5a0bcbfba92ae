package e2e

import (
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"
)

// lifeline is a process that a test kills and starts again, over and over.
type lifeline struct {
	s   *stack
	pid int
	url string
	// own is its last life, unless that was up's to start; lives counts them.
	own   *child
	lives int
	again command
}

// lifelines are processes up started.
func (s *stack) lifelines(workers []worker) []*lifeline {
	lines := make([]*lifeline, len(workers))
	for i, w := range workers {
		lines[i] = &lifeline{s: s, pid: w.PID, url: w.URL}
	}
	return lines
}

// kill ends the process the hard way, unless it has ended already.
func (l *lifeline) kill() {
	l.s.t.Helper()
	if l.own == nil {
		l.again = l.s.kill(l.pid)
		// Its main thread may be gone before the last one closes the sockets.
		address := strings.TrimPrefix(l.url, "http://")
		await(l.s.t, "nobody on "+address, func() bool {
			conn, err := net.DialTimeout("tcp", address, time.Second)
			if err == nil {
				_ = conn.Close()
			}
			return err != nil
		})
		return
	}
	_ = l.own.cmd.Process.Kill() // fails when it has ended
	await(l.s.t, fmt.Sprintf("end of process %d", l.own.pid), l.own.over)
	// Its pid may be another's from now on.
	l.s.own = slices.DeleteFunc(l.s.own, func(p *child) bool { return p == l.own })
}

// revive starts it again from its own command line, at its old address. With a
// fault it may be dead again before it is ready.
func (l *lifeline) revive(fault ...string) {
	t := l.s.t
	t.Helper()
	l.lives++
	port := l.url[strings.LastIndexByte(l.url, ':')+1:]
	log := filepath.Join(l.s.logs, fmt.Sprintf("%s-%s-%d.log", filepath.Base(l.again.args[0]), port, l.lives))
	c := l.again
	for _, point := range fault {
		c = c.with(faultVariable + "=" + point)
	}
	l.own = spawn(t, c, log)
	l.s.own, l.s.ids = append(l.s.own, l.own), append(l.s.ids, l.own.identity)
	await(t, log+" ready", func() bool {
		if l.own.over() {
			require.NotEmpty(t, fault, "%s ended instead of getting ready", c.args[0])
			return true
		}
		return ready(t, l.url)
	})
}

// Points at which a lease process that is told to kills itself.
const (
	faultSaved     = "lease.row-saved"
	faultAnnounced = "lease.announced"
	faultReplied   = "lease.replied"
)

// someFault is a fault at the nth time that something is done; none in one of
// four cases.
func someFault(dice *rand.Rand, n int) []string {
	switch dice.IntN(4) {
	case 0:
		return []string{fmt.Sprintf("%s:%d", faultSaved, 1+dice.IntN(n))}
	case 1:
		return []string{fmt.Sprintf("%s:%d", faultAnnounced, 1+dice.IntN(n))}
	case 2:
		return []string{fmt.Sprintf("%s:%d", faultReplied, 1+dice.IntN(n))}
	default:
		return nil
	}
}
