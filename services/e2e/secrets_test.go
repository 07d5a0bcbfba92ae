package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// vault is everything secret that a run of all tests has used, and everything that
// its processes have said, so that the one is looked for in the other: what one stack
// knows must not be in what any says.
type vault struct {
	mu sync.Mutex
	// secrets says of each what it is, by a piece of it that no other text has.
	secrets map[piece]string
	// said are files of the folder, by where they come from.
	said map[string]string
	dir  string
	// frames is the one file for what sockets have said.
	frames *os.File
}

// piece is long enough never to be met by chance.
type piece [16]byte

// tail is how much of a secret's end is not in its piece: the end of a key is often
// that of its encoding.
const tail = 8

// leaks is the vault of this test binary.
var leaks = &vault{secrets: map[piece]string{}, said: map[string]string{}}

// confide adds a secret, and with it how a browser offers it.
func (v *vault) confide(what, text string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.add(what, text)
	v.add(what+" as a subprotocol", base64.RawURLEncoding.EncodeToString([]byte(text)))
	if parts := strings.Split(text, "."); len(parts) == 3 {
		v.add("signature of "+what, parts[2])
		// Claims end like any others, and begin with the word for an id.
		if id := len(`{"jti":"`) * 4 / 3; len(parts[1]) > id+len(piece{})+tail {
			v.add("claims of "+what, parts[1][:id+len(piece{})+tail])
		}
	}
}

func (v *vault) add(what, text string) {
	if len(text) < len(piece{})+tail || strings.Trim(text, "A=") == "" {
		return // too short to be a secret, or zeros
	}
	v.secrets[piece([]byte(text[len(text)-tail-len(piece{}):]))] = what
}

// heard keeps a file that a process has written, also when the test takes its folder
// away.
func (v *vault) heard(file string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	kept := filepath.Join(v.dir, fmt.Sprint(len(v.said)))
	if err := os.Link(file, kept); err != nil {
		return err
	}
	v.said[kept] = file
	return nil
}

// note keeps what a process has answered.
func (v *vault) note(where string, data []byte) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	kept := filepath.Join(v.dir, fmt.Sprint(len(v.said)))
	v.said[kept] = where
	return os.WriteFile(kept, data, 0o600)
}

// frame keeps what a socket has said.
func (v *vault) frame(data []byte) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.frames == nil {
		kept := filepath.Join(v.dir, "frames")
		file, err := os.Create(kept)
		if err != nil {
			panic(err) // nothing could be found in what is not kept
		}
		v.frames, v.said[kept] = file, "frames of sockets"
	}
	if _, err := v.frames.Write(append(bytes.Clone(data), '\n')); err != nil {
		panic(err)
	}
}

// search looks for every secret in everything said.
func (v *vault) search() (found []string, size int64, err error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, kept := range slices.Sorted(maps.Keys(v.said)) {
		data, err := os.ReadFile(kept)
		if err != nil {
			return nil, 0, err
		}
		size += int64(len(data))
		for _, what := range v.in(data) {
			found = append(found, v.said[kept]+" holds "+what)
		}
	}
	return found, size, nil
}

// in names the secrets in a text. Only runs of characters that keys and tokens are
// written with are looked at, which is little of a log.
func (v *vault) in(data []byte) []string {
	var found []string
	start := -1
	for i := 0; i <= len(data); i++ {
		if i < len(data) && written[data[i]] {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 && i-start >= len(piece{})+tail {
			found = v.inRun(found, data[start:i])
		}
		start = -1
	}
	slices.Sort(found)
	return slices.Compact(found)
}

func (v *vault) inRun(found []string, run []byte) []string {
	for at := 0; at+len(piece{}) <= len(run); at++ {
		if what, is := v.secrets[piece(run[at:at+len(piece{})])]; is {
			found = append(found, what)
		}
	}
	return found
}

// written are the characters of base32, of both base64, and of PEM.
var written = func() (set [256]bool) {
	for _, c := range []byte("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_+/") {
		set[c] = true
	}
	return set
}()

// collect keeps what the stack's processes have to say of themselves, while they
// live.
func (s *stack) collect() {
	t := s.t
	t.Helper()
	visitor := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, url := range s.ownURLs() {
		for _, path := range []string{"/metrics", "/healthz", "/readyz", "/diagnostics", "/status", "/presence", "/connections", "/nothing", "/leases"} {
			request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, url+path, http.NoBody)
			require.NoError(t, err)
			request.Header.Set("Authorization", "Bearer "+s.Tenants[acme].OperatorToken)
			answer, err := visitor.Do(request)
			if err != nil {
				break // the test has killed it, or what it needs
			}
			var body bytes.Buffer
			_, _ = body.ReadFrom(answer.Body) // what came is what was said
			_ = answer.Body.Close()
			require.NoError(t, leaks.note(fmt.Sprintf("%s: GET %s%s", t.Name(), url, path), body.Bytes()))
		}
	}
}

// surrender gives all logs of the stack, and all that its NATS server stores, to the
// vault. Keys that were made meanwhile are learned first.
func (s *stack) surrender() {
	t := s.t
	t.Helper()
	s.learnKeys()
	files := s.logFiles()
	_ = filepath.WalkDir(filepath.Join(s.Dir, "nats", "jetstream"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			files = append(files, path)
		}
		return nil
	})
	for _, file := range files {
		require.NoError(t, leaks.heard(file))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for text, what := range s.secrets {
		leaks.confide(t.Name()+": "+what, text)
	}
}

// TestVaultFinds holds that a secret is found however it is wrapped: a search that
// finds nothing must be one that could.
func TestVaultFinds(t *testing.T) {
	t.Parallel()
	v := &vault{secrets: map[piece]string{}, said: map[string]string{}, dir: t.TempDir()}
	const (
		seed  = "SUAIBDPBAUTWCWBKIO6XHQNINK5FWJW4OHLXC3HQ2KFE4PEJUA44CNHTC4"
		token = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ.eyJqdGkiOiJBQkNERUZHSElKS0xNTk9QIn0.c2lnbmF0dXJlLXNpZ25hdHVyZS1zaWduYXR1cmUtc2ln"
	)
	v.confide("a seed", seed)
	v.confide("a token", token)
	for text, want := range map[string]int{
		"":                                       0,
		`{"level":"info","a":1}`:                 0,
		"SUAIBDPBAUTWCWBKIO6XHQNINK":             0, // the half that is not looked for
		seed:                                     1,
		`{"creds":"-----\n` + seed + `\n---"}`:   1,
		"/x?token=" + token + "&y":               2, // its claims and its signature
		"x" + strings.Split(token, ".")[2] + "y": 1,
		"rollcall.auth." + base64.RawURLEncoding.EncodeToString([]byte(token)) + ", other": 1,
	} {
		require.Len(t, v.in([]byte(text)), want, "%s", text)
	}
	require.NoError(t, v.note("somewhere", []byte("all is well")))
	file := filepath.Join(t.TempDir(), "a.log")
	require.NoError(t, os.WriteFile(file, []byte("x "+seed), 0o600))
	require.NoError(t, v.heard(file))
	found, _, err := v.search()
	require.NoError(t, err)
	require.Equal(t, []string{file + " holds a seed"}, found)
}
