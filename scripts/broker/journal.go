package broker

import (
	"fmt"
	"sync"

	"github.com/rs/zerolog"
)

// journal is the server's log. The server's own one ends the process when
// something is fatal.
type journal struct {
	log   zerolog.Logger
	mu    sync.Mutex
	fatal error
}

func (j *journal) err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.fatal
}

// Noticef implements server.Logger.
func (j *journal) Noticef(format string, v ...any) { j.log.Info().Msgf(format, v...) }

// Warnf implements server.Logger.
func (j *journal) Warnf(format string, v ...any) { j.log.Warn().Msgf(format, v...) }

// Errorf implements server.Logger.
func (j *journal) Errorf(format string, v ...any) { j.log.Error().Msgf(format, v...) }

// Debugf implements server.Logger.
func (j *journal) Debugf(format string, v ...any) { j.log.Debug().Msgf(format, v...) }

// Tracef implements server.Logger.
func (j *journal) Tracef(format string, v ...any) { j.log.Trace().Msgf(format, v...) }

// Fatalf implements server.Logger.
func (j *journal) Fatalf(format string, v ...any) {
	j.log.Error().Msgf(format, v...)
	j.mu.Lock()
	defer j.mu.Unlock()
	j.fatal = fmt.Errorf(format, v...)
}
