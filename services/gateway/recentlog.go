package gateway

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"sync"

	"github.com/rs/zerolog"
)

const (
	// maxRecent bounds the log lines that are remembered, maxRecentLine each of them.
	maxRecent     = 200
	maxRecentLine = 4 << 10
)

// recentLog passes a log on and remembers the last warnings and errors of it. When
// there is no room the oldest line goes.
type recentLog struct {
	next io.Writer

	mu      sync.Mutex
	lines   [][]byte
	dropped int
}

func newRecentLog(next io.Writer) *recentLog { return &recentLog{next: next} }

// Write passes on what has no level.
func (l *recentLog) Write(p []byte) (int, error) {
	n, err := l.next.Write(p)
	if err != nil {
		return n, fmt.Errorf("write log: %w", err)
	}
	return n, nil
}

// WriteLevel implements [zerolog.LevelWriter].
func (l *recentLog) WriteLevel(level zerolog.Level, p []byte) (int, error) {
	if level >= zerolog.WarnLevel && level < zerolog.NoLevel {
		l.remember(p)
	}
	return l.Write(p)
}

func (l *recentLog) remember(p []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(p) > maxRecentLine {
		l.dropped++ // half a line is no JSON
		return
	}
	if len(l.lines) == maxRecent {
		l.lines = slices.Delete(l.lines, 0, 1)
		l.dropped++
	}
	l.lines = append(l.lines, redact(p))
}

// read returns the lines, oldest first, and how many more there were. A gateway that
// was not started with a log like this has none.
func (l *recentLog) read() (lines [][]byte, dropped int) {
	if l == nil {
		return nil, 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lines), l.dropped
}

// Whatever looks like a secret is taken to be one. No pattern reaches across a
// quotation mark, so JSON stays JSON.
var secrets = []struct { //nolint:gochecknoglobals // compiled once
	pattern *regexp.Regexp
	by      string
}{
	// Tokens, and the parts of one that was cut.
	{regexp.MustCompile(`eyJ[A-Za-z0-9_-]{8,}(\.[A-Za-z0-9_-]*)*`), "[token]"},
	// Seeds of keys, as NATS writes them.
	{regexp.MustCompile(`\bS[NCOAUXPR][A-Z2-7]{40,}`), "[seed]"},
	// Files of credentials and keys.
	{regexp.MustCompile(`-----BEGIN [^"]*-----`), "[credentials]"},
	// Who signs in where.
	{regexp.MustCompile(`([A-Za-z][A-Za-z0-9+.-]*://)[^/"\s@]+@`), "${1}[redacted]@"},
	{regexp.MustCompile(`(?i)\b(bearer|basic)(\s+|%20)[^\s",;]+`), "${1} [redacted]"},
	{regexp.MustCompile(`(?i)\b((?:rollcall|tyrum)[._-](?:auth|token))([.=])[^\s",;]+`), "${1}${2}[redacted]"},
	{regexp.MustCompile(`(?i)\b((?:access_?)?token|password|passwd|pass|secret|seed|cookie|authorization)(=|\\?":\s*\\?")[^\s",;&\\]+`), "${1}${2}[redacted]"},
}

// redact takes out of a text in JSON what looks like a secret.
func redact(text []byte) []byte {
	out := slices.Clone(text)
	for _, s := range secrets {
		out = s.pattern.ReplaceAll(out, []byte(s.by))
	}
	return out
}
