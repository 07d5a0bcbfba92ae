package e2e

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/stretchr/testify/require"
)

// learnKeys finds seeds and private keys in the stack's directory.
func (s *stack) learnKeys() {
	t := s.t
	t.Helper()
	seed := regexp.MustCompile(`\bS[AUOCNX][A-Z2-7]{56}\b`)
	require.NoError(t, filepath.WalkDir(s.Dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return nil //nolint:nilerr // the server's store comes and goes while we look
		}
		if info, err := entry.Info(); err != nil || info.Size() > 1<<16 {
			return nil //nolint:nilerr // likewise
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return nil //nolint:nilerr // likewise
		}
		for _, found := range seed.FindAllString(string(data), -1) {
			s.secret("seed in "+entry.Name(), found)
		}
		if bytes.Contains(data, []byte("PRIVATE KEY")) {
			s.secret("key in "+entry.Name(), strings.Split(string(data), "\n")[1])
		}
		return nil
	}))
}

// secret notes a text that no log may hold.
func (s *stack) secret(what, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(text) > 16 {
		s.secrets[text] = what
		// Of a token, its signature alone would be bad enough.
		if parts := strings.Split(text, "."); len(parts) == 3 && len(parts[2]) > 16 {
			s.secrets[parts[2]] = "signature of " + what
		}
	}
}

// logFiles are the test's own and those in the stack's directory.
func (s *stack) logFiles() []string {
	var files []string
	for _, dir := range []string{s.logs, s.Dir} {
		_ = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && strings.HasSuffix(path, ".log") {
				files = append(files, path)
			}
			return nil
		})
	}
	return files
}

// checkLogs searches all logs for what must never be in them.
func (s *stack) checkLogs() {
	t := s.t
	t.Helper()
	for _, file := range s.logFiles() {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		text := string(data)
		if strings.Contains(text, "DATA RACE") || strings.Contains(text, "panic: ") {
			t.Errorf("%s:\n%s", file, text[max(0, strings.Index(text, "DATA RACE")-200):min(len(text), strings.Index(text, "DATA RACE")+6000)])
		}
		for secret, what := range s.secrets {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds %s", file, what)
			}
		}
	}
	if t.Failed() {
		s.tail()
	}
}

// tail shows the end of every log.
func (s *stack) tail() {
	s.t.Helper()
	const lines = 40
	for _, file := range s.logFiles() {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		all := strings.Split(strings.TrimSpace(string(data)), "\n")
		s.t.Logf("tail of %s:\n%s", file, strings.Join(all[max(0, len(all)-lines):], "\n"))
	}
}
