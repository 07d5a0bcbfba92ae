package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"rollcall/scripts/token"
	"rollcall/shared/client"
)

// scale is how much of everything a flood sends. ATTACK=full sends what `make
// attack` does; `make test` sends less.
type scale struct {
	before, after    int // random frames before and after the handshake
	halfOpen, loris  int // sockets that never finish, of each kind
	handshakeTimeout time.Duration
	full             bool
}

func scaleOf() scale {
	if os.Getenv("ATTACK") == "full" {
		return scale{before: 10_000, after: 10_000, halfOpen: 5000, loris: 400, handshakeTimeout: 30 * time.Second, full: true}
	}
	return scale{before: 500, after: 10_000, halfOpen: 400, loris: 20, handshakeTimeout: 3 * time.Second}
}

// pulse is a healthy peer that asks something all the time.
type pulse struct {
	conn *client.Conn
	stop context.CancelFunc
	done sync.WaitGroup

	mu     sync.Mutex
	phase  string
	took   map[string][]time.Duration
	failed error
}

const pulseEvery = 10 * time.Millisecond

func (s *stack) pulse(t *testing.T, g gateway) *pulse {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &pulse{conn: s.agent(t, g, "healthy", nil), stop: cancel, took: map[string][]time.Duration{}}
	p.done.Go(func() {
		for ctx.Err() == nil {
			asking, done := context.WithTimeout(ctx, patience)
			began := time.Now()
			err := p.conn.Request(asking, "ping", struct{}{}, nil)
			done()
			if ctx.Err() == nil {
				p.note(time.Since(began), err)
			}
			time.Sleep(pulseEvery)
		}
	})
	t.Cleanup(func() { cancel(); p.done.Wait() })
	return p
}

func (p *pulse) note(took time.Duration, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.took[p.phase] = append(p.took[p.phase], took)
	if err != nil && p.failed == nil {
		p.failed = fmt.Errorf("during %s: %w", p.phase, err)
	}
}

// during names what goes on while something is done.
func (p *pulse) during(phase string, do func()) {
	p.mu.Lock()
	p.phase = phase
	p.mu.Unlock()
	do()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.phase = "between"
}

// report tells how long answers took, and holds that all came, and soon enough for
// somebody who waits for one.
func (p *pulse) report(t *testing.T) {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	require.NoError(t, p.failed, "the healthy peer")
	median := func(phase string) time.Duration {
		sorted := slices.Sorted(slices.Values(p.took[phase]))
		require.NotEmpty(t, sorted, phase)
		return sorted[len(sorted)/2]
	}
	quiet := median("quiet")
	for _, phase := range slices.Sorted(maps.Keys(p.took)) {
		sorted := slices.Sorted(slices.Values(p.took[phase]))
		t.Logf("healthy peer, %s: %d pings, median %s (ratio %.1f), 99%% %s, longest %s", phase, len(sorted), median(phase).Round(time.Microsecond),
			float64(median(phase))/float64(quiet), sorted[len(sorted)*99/100].Round(time.Microsecond), sorted[len(sorted)-1].Round(time.Microsecond))
		require.Less(t, median(phase), 2*time.Second, "a healthy peer's ping during %s", phase)
	}
}

// level is what a gateway holds of the system.
type level struct{ goroutines, files, resident, heap float64 }

func (l level) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f files, %.1f MiB resident, %.1f MiB heap", l.goroutines, l.files, l.resident/(1<<20), l.heap/(1<<20))
}

// near is what a gateway comes back to. The runtime gives memory back to the system
// when it has had no use for it for minutes; the race detector never does.
func (l level) near(idle level) bool {
	return l.goroutines <= idle.goroutines+50 && l.files <= idle.files+50 && l.heap <= idle.heap+(32<<20) &&
		(raceBuild || l.resident <= idle.resident+(64<<20))
}

// levelOf asks a gateway's metrics.
func levelOf(t *testing.T, g gateway) level {
	t.Helper()
	m := metricsOf(t, g.URL)
	return level{m["go_goroutines"], m["process_open_fds"], m["process_resident_memory_bytes"], m["go_memstats_heap_alloc_bytes"]}
}

// metricsOf reads the metrics of a process, by name and labels.
func metricsOf(t *testing.T, address string) map[string]float64 {
	t.Helper()
	code, body := call(t, http.MethodGet, address+"/metrics", nil)
	require.Equal(t, http.StatusOK, code)
	out := map[string]float64{}
	for line := range strings.Lines(body) {
		name, value, found := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseFloat(value, 64); found && err == nil && !strings.HasPrefix(line, "#") {
			out[name] = n
		}
	}
	return out
}

// TestAttackFlood floods a gateway, twice: random frames before and after the
// handshake, sockets that never finish their handshake, and peers that send a byte
// now and then. It lives, gives everything back, and answers whoever means well.
func TestAttackFlood(t *testing.T) {
	t.Parallel()
	size := scaleOf()
	s := newStack(t, options{
		args: []string{"--gateways", "1", "--presence", "1", "--lease", "1", "--tenant", acme, "--tenant", globex},
		env: []string{
			"ROLLCALL_GATEWAY_HANDSHAKE_TIMEOUT=" + size.handshakeTimeout.String(), "ROLLCALL_LOG_LEVEL=info",
			"ROLLCALL_GATEWAY_MAX_HANDSHAKES=2000", // fewer than the full size has
		},
	})
	g := s.Gateways[0]
	p := s.pulse(t, g)
	s.quiet(t, acme)
	before := s.owned(t, acme)
	rng := newRandom(t)
	p.during("quiet", func() { time.Sleep(time.Second) })
	idle := levelOf(t, g)
	t.Logf("idle: %s", idle)

	var settled level
	for wave := range 2 {
		p.during("random frames before the handshake", func() { s.floodBefore(t, g, rng, size.before/2) })
		p.during("random frames after the handshake", func() { s.floodAfter(t, g, rng, size.after/2) })
		p.during("half-open handshakes", func() { s.floodHalfOpen(t, g, size) })
		if wave == 0 || size.full {
			p.during("slow-loris", func() { s.floodSlowly(t, g, size) })
		}
		t.Logf("after wave %d: %s", wave+1, levelOf(t, g))
		awaitFor(t, 6*time.Minute, "the gateway's level as before", func() bool {
			time.Sleep(100 * time.Millisecond)
			settled = levelOf(t, g)
			return settled.near(idle)
		})
		t.Logf("settled: %s", settled)
	}
	if raceBuild {
		t.Log("resident memory is not compared: the race detector gives none back; make attack does without it")
	}
	p.report(t)
	require.Equal(t, before, s.owned(t, acme), "nothing crossed")
	s.intact(t, "the flood")
}

// random makes frames out of a corpus. It is the same for the same seed.
type random struct {
	seed   uint64
	corpus [][]byte
	next   atomic.Uint64
}

func newRandom(t *testing.T) *random {
	t.Helper()
	r := &random{seed: rand.Uint64()}
	if text := os.Getenv("ATTACK_SEED"); text != "" {
		seed, err := strconv.ParseUint(text, 10, 64)
		require.NoError(t, err)
		r.seed = seed
	}
	t.Logf("ATTACK_SEED=%d", r.seed)
	files, err := filepath.Glob(filepath.Join(repository, "services/gateway/testdata/fuzz/FuzzFrame/*"))
	require.NoError(t, err)
	require.NotEmpty(t, files, "the fuzzer's corpus")
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		_, line, _ := strings.Cut(string(data), "\n")
		quoted := strings.TrimSuffix(strings.TrimPrefix(strings.TrimSpace(line), "[]byte("), ")")
		frame, err := strconv.Unquote(quoted)
		require.NoError(t, err, file)
		r.corpus = append(r.corpus, []byte(frame))
	}
	// A handshake that is right but for what is changed in it gets further than most.
	material := sha256.Sum256([]byte(strconv.FormatUint(r.seed, 10)))
	key := ed25519.NewKeyFromSeed(material[:])
	good := [][]byte{
		mustJSON(t, map[string]any{"request_id": "1", "type": "connect.init", "payload": initOf(key, nil, map[string]any{"mode": "test", "label": "l"})}),
		mustJSON(t, map[string]any{"request_id": "2", "type": "connect.proof", "payload": map[string]string{
			"connection_id": nobody, "proof": client.Prove(key, client.RoleClient, nobody, "AAAA"),
		}}),
	}
	for range len(files) / 4 {
		r.corpus = append(r.corpus, good...)
	}
	return r
}

// frame is the next random frame.
func (r *random) frame() []byte {
	rng := rand.New(rand.NewPCG(r.seed, r.next.Add(1)))
	if rng.IntN(10) == 0 {
		noise := make([]byte, rng.IntN(300))
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		return noise
	}
	frame := bytes.Clone(r.corpus[rng.IntN(len(r.corpus))])
	for range 1 + rng.IntN(4) {
		frame = r.mutate(rng, frame)
	}
	return frame[:min(len(frame), 32<<10)]
}

// mutate changes one thing.
func (r *random) mutate(rng *rand.Rand, frame []byte) []byte {
	at := rng.IntN(len(frame) + 1)
	end := at + rng.IntN(min(len(frame)-at, 40)+1)
	tokens := []string{
		"null", "true", "-1", "1e999", "0", "18446744073709551616", `""`, `"*"`, `">"`, `"acme"`, `"tenant.acme.>"`, `"\u0000"`, `"\ud800"`, "{}", "[]", "{", "}", ",",
		`"request_id":"x",`, `"type":"lease.list",`, `"ok":true,`, strings.Repeat("[", 500), strings.Repeat("a", 2000), "\xff", "\x00", `\`, `"`,
	}
	switch rng.IntN(6) {
	case 0: // a byte
		if at < len(frame) {
			frame[at] ^= byte(1 << rng.IntN(8))
		}
		return frame
	case 1: // less
		return slices.Delete(frame, at, end)
	case 2: // twice
		return slices.Insert(frame, at, frame[at:end]...)
	case 3: // another one's end
		other := r.corpus[rng.IntN(len(r.corpus))]
		return append(slices.Clip(frame[:at]), other[rng.IntN(len(other)+1):]...)
	default: // something that means something
		return slices.Insert(frame, at, []byte(tokens[rng.IntN(len(tokens))])...)
	}
}

// kindOf sends a frame now and then as what it is not.
func kindOf(n uint64) websocket.MessageType {
	if n%13 == 0 {
		return websocket.MessageBinary
	}
	return websocket.MessageText
}

// floodAtOnce is how many sockets a flood of frames keeps open.
const floodAtOnce = 8

// floodBefore sends frames before the handshake is done: every socket ends with a
// code that says why.
func (s *stack) floodBefore(t *testing.T, g gateway, rng *random, frames int) {
	t.Helper()
	text, err := s.mint(token.Grant{Tenant: globex, Scopes: []string{scopeOperate}})
	require.NoError(t, err)
	var sent atomic.Int64
	var mu sync.Mutex
	codes := map[int]int{}
	var group errgroup.Group
	for range floodAtOnce {
		group.Go(func() error {
			for n := uint64(0); sent.Load() < int64(frames); n++ {
				code, err := beforeHandshake(g, text, rng, n, &sent)
				if err != nil {
					return err
				}
				mu.Lock()
				codes[code]++
				mu.Unlock()
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	t.Logf("%d random frames before the handshake: closed with %v", sent.Load(), codes)
	for code := range codes {
		require.Contains(t, []int{4001, 4003, 4005, 4006, 4007, 4008, 1009}, code)
	}
}

// beforeHandshake sends a few frames on one socket, of which the last is refused if
// no other was.
func beforeHandshake(g gateway, text string, rng *random, n uint64, sent *atomic.Int64) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, g.WSURL, &websocket.DialOptions{ //nolint:bodyclose // the library closes it
		Subprotocols: []string{[]string{"rollcall.v1", "tyrum-v1"}[n%2]}, HTTPHeader: bearer(text),
	})
	if err != nil {
		return 0, fmt.Errorf("upgrade: %w", err)
	}
	defer func() { _ = conn.CloseNow() }()
	for range 1 + n%3 {
		_ = conn.Write(ctx, kindOf(n), rng.frame()) // the gateway may have closed it already
		sent.Add(1)
	}
	_ = conn.Write(ctx, websocket.MessageText, []byte("no frame at all"))
	for {
		if _, _, err := conn.Read(ctx); err != nil {
			if code := websocket.CloseStatus(err); code != -1 {
				return int(code), nil
			}
			return 0, fmt.Errorf("a socket ended without a reason: %w", err)
		}
	}
}

// floodAfter sends frames after the handshake: a socket answers a ping that follows
// them, or was closed for them.
func (s *stack) floodAfter(t *testing.T, g gateway, rng *random, frames int) {
	t.Helper()
	const each = 200 // below the burst that a connection may send
	text, err := s.mint(token.Grant{Tenant: globex, Agent: "noise", Scopes: []string{"events.read", "events.publish", "lease.use", "lease.moderate", "presence.read"}})
	require.NoError(t, err)
	ended := map[string]int{}
	for sent := 0; sent < frames; sent += each {
		r := s.raw(t, g, text)
		r.enter(newKey(t))
		heard := make(chan string, 1)
		go func() {
			answered := "open"
			for data := range r.frames {
				if bytes.Contains(data, []byte(`"request_id":"the-end"`)) {
					heard <- answered
					return
				}
			}
			heard <- fmt.Sprint(int(websocket.CloseStatus(r.err)))
		}()
		for n := range each {
			if n%20 == 0 {
				r.ask("ping", struct{}{}) // who sends nothing else is thrown out before long
			}
			r.send(kindOf(uint64(n)), rng.frame())
		}
		r.text(`{"request_id":"the-end","type":"ping","payload":{}}`)
		select {
		case how := <-heard:
			ended[how]++
		case <-time.After(patience):
			require.Fail(t, "a socket neither answers nor closes")
		}
		_ = r.conn.CloseNow()
	}
	t.Logf("%d random frames after the handshake, %d to a socket: %v", frames, each, ended)
	for how := range ended {
		require.Contains(t, []string{"open", "4003", "1009"}, how)
	}
}

// upgradeText asks for a socket.
func upgradeText(g gateway, text string) (address, request string) {
	u, _ := url.Parse(g.URL)
	return u.Host, "GET /ws HTTP/1.1\r\nHost: " + u.Host + "\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: rollcall.v1\r\nAuthorization: Bearer " + text + "\r\n\r\n"
}

// floodHalfOpen opens sockets that never prove anything, all at once, half of them
// with a challenge. Each is told why it ends: its time is up, or there are too many
// like it.
func (s *stack) floodHalfOpen(t *testing.T, g gateway, size scale) {
	t.Helper()
	text, err := s.mint(token.Grant{Tenant: globex})
	require.NoError(t, err)
	init := maskedFrame(t, map[string]any{"request_id": "1", "type": "connect.init", "payload": initOf(newKey(t), nil, nil)})
	var group errgroup.Group
	group.SetLimit(64)
	open := make([]*halfOpen, size.halfOpen)
	began := time.Now()
	for i := range open {
		group.Go(func() (err error) {
			open[i], err = openHalf(g, text)
			if err == nil && i%2 == 0 {
				_, _ = open[i].conn.Write(init) // it may be closed already
			}
			return err
		})
	}
	err = group.Wait()
	defer func() {
		for _, half := range open {
			if half != nil {
				_ = half.conn.Close()
			}
		}
	}()
	require.NoError(t, err)
	t.Logf("%d half-open handshakes within %s, of %s that each may take: %s", size.halfOpen, time.Since(began).Round(time.Millisecond), size.handshakeTimeout, levelOf(t, g))
	var mu sync.Mutex
	ends := map[string]int{}
	group.SetLimit(len(open))
	for _, half := range open {
		group.Go(func() error {
			end, err := half.end()
			mu.Lock()
			defer mu.Unlock()
			ends[end]++
			return err
		})
	}
	require.NoError(t, group.Wait())
	t.Logf("half-open handshakes ended: %v", ends)
	require.Positive(t, ends[endTimeout])
	require.Equal(t, size.halfOpen, ends[endTimeout]+ends[endBusy]+ends[endTurnedAway], "%v", ends)
}

// Ends of a half-open handshake.
const (
	endTimeout    = "4002"
	endBusy       = "1013"
	endTurnedAway = "503"
)

// halfOpen is a socket by hand, which costs next to nothing.
type halfOpen struct {
	conn net.Conn
	read *bufio.Reader
	// status is the answer to the upgrade.
	status string
}

func openHalf(g gateway, text string) (*halfOpen, error) {
	address, request := upgradeText(g, text)
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return nil, err
	}
	h := &halfOpen{conn: conn, read: bufio.NewReaderSize(conn, 512)}
	_ = conn.SetDeadline(time.Now().Add(2 * patience))
	if _, err = io.WriteString(conn, request); err != nil {
		return h, err
	}
	h.status, err = h.read.ReadString('\n')
	return h, err
}

// end waits until the gateway ends it, and says how.
func (h *halfOpen) end() (string, error) {
	if strings.Contains(h.status, " 503 ") {
		return endTurnedAway, nil // the connection itself may be used again
	}
	rest, err := io.ReadAll(h.read)
	if errors.Is(err, syscall.ECONNRESET) && len(rest) > 0 {
		err = nil // what was sent after it was closed
	}
	for end, code := range map[string][]byte{endTimeout: {0x0f, 0xa2}, endBusy: {0x03, 0xf5}} {
		if bytes.Contains(rest, code) {
			return end, err
		}
	}
	return fmt.Sprintf("%q %x", h.status, rest[max(0, len(rest)-20):]), err
}

// maskedFrame is a frame as a client sends it, with a mask of zeros.
func maskedFrame(t *testing.T, v any) []byte {
	t.Helper()
	data := mustJSON(t, v)
	require.Less(t, len(data), 1<<16)
	require.Greater(t, len(data), 125)
	return append([]byte{0x81, 0xfe, byte(len(data) >> 8), byte(len(data)), 0, 0, 0, 0}, data...)
}

// floodSlowly opens connections that say what they have to say a byte at a time, or
// not at all. The gateway waits for none of them.
func (s *stack) floodSlowly(t *testing.T, g gateway, size scale) {
	t.Helper()
	text, err := s.mint(token.Grant{Tenant: globex})
	require.NoError(t, err)
	address, upgrade := upgradeText(g, text)
	frame := string(maskedFrame(t, map[string]any{"request_id": "1", "type": "connect.init", "payload": initOf(newKey(t), nil, nil)}))
	post := "POST /auth/cookie HTTP/1.1\r\nHost: " + address + "\r\nContent-Type: application/json\r\nContent-Length: 9000\r\n\r\n"
	kinds := map[string]struct{ at, slowly string }{
		"nothing":                         {"", ""},
		"an upgrade by the byte":          {"", strings.TrimSuffix(upgrade, "\r\n")},
		"headers without end":             {"GET /presence HTTP/1.1\r\nHost: " + address + "\r\n", strings.Repeat("X-A: b\r\n", 1000)},
		"a frame by the byte":             {upgrade, frame[:len(frame)-1]},
		"a frame that never ends":         {upgrade + "\x01\xfe\x00\x7e\x00\x00\x00\x00" + strings.Repeat("a", 126), ""},
		"a body by the byte":              {post, strings.Repeat("a", 9000)},
		"a body that does not come":       {"GET /healthz HTTP/1.1\r\nHost: " + address + "\r\nContent-Length: 1000\r\n\r\n", ""},
		"chunks that never end":           {"POST /presence HTTP/1.1\r\nHost: " + address + "\r\nTransfer-Encoding: chunked\r\n\r\n", strings.Repeat("1\r\na\r\n", 2000)},
		"a preface that leads to nothing": {"PRI * HTTP/2.0\r\n\r\n", ""},
	}
	var group errgroup.Group
	for name, kind := range kinds {
		for range size.loris {
			group.Go(func() error { return dripUntilCut(name, address, kind.at, kind.slowly) })
		}
	}
	require.NoError(t, group.Wait())
}

// lorisPatience is within what the gateway must have had enough: of headers, of a
// handshake, of a body, or of a connection on which nothing happens.
const lorisPatience = 90 * time.Second

// dripUntilCut sends something at once, then something slowly, until the other side
// closes the connection.
func dripUntilCut(name, address, at, slowly string) error {
	conn, err := net.DialTimeout("tcp", address, patience)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, at); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	cut := make(chan struct{})
	go func() {
		defer close(cut)
		_ = conn.SetReadDeadline(time.Now().Add(lorisPatience + patience))
		_, _ = io.Copy(io.Discard, conn) // ends when the other side closes
	}()
	drip := time.NewTicker(200 * time.Millisecond)
	defer drip.Stop()
	tooLong := time.After(lorisPatience)
	for sent := 0; ; {
		select {
		case <-cut:
			return nil
		case <-tooLong:
			return fmt.Errorf("%s: still open after %s", name, lorisPatience)
		case <-drip.C:
			if sent < len(slowly) {
				_, _ = io.WriteString(conn, slowly[sent:sent+1])
				sent++
			}
		}
	}
}
