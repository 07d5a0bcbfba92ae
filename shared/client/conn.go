package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// silentPings is how many ping intervals may pass without a sign of the
// gateway.
const silentPings = 3

// Conn is one authenticated connection. Its methods may be called from several
// goroutines at once.
type Conn struct {
	ws *websocket.Conn
	// tcp is what ws runs over: the library cannot drop a connection while it
	// waits for the answer to a close frame.
	tcp     net.Conn
	welcome Welcome
	onEvent func(Event)
	leases  leaseWatches
	serving serving

	// The reader's own.
	cancel   context.CancelFunc
	watchdog *time.Timer
	silence  time.Duration
	done     chan struct{}

	// closing and silent say why the reader was stopped, if it was.
	closing atomic.Bool
	silent  atomic.Bool

	lastID atomic.Uint64

	mu sync.Mutex
	// waiting holds, per request under way, who waits for its response; nil once
	// the connection has ended.
	waiting map[string]waiter
	err     error
}

// waiter waits for a response.
type waiter struct {
	// first is called with a result by the reader, before it reads on; may be nil.
	first func(json.RawMessage)
	// answer has room for the one response.
	answer chan frame
}

func newConn(o Options) *Conn {
	return &Conn{
		onEvent: o.OnEvent, done: make(chan struct{}), waiting: map[string]waiter{},
		serving: serving{handle: o.OnRequest, places: make(chan struct{}, maxServing)},
	}
}

// start begins to read. The connection outlives ctx and keeps its values.
func (c *Conn) start(ctx context.Context) {
	ping := time.Duration(c.welcome.PingMS) * time.Millisecond
	if ping <= 0 {
		ping = defaultPing
	}
	c.silence = silentPings * ping
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.cancel = cancel
	c.watchdog = time.AfterFunc(c.silence, func() { c.silent.Store(true); c.drop() })
	go c.read(life)
}

// Welcome returns what the gateway said when it accepted this connection.
func (c *Conn) Welcome() Welcome { return c.welcome }

// Done is closed when the connection has ended and the last OnEvent and
// OnRequest have returned.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended: a [*CloseError] where the gateway closed
// it, [ErrClosed] where this side did, else the network's error. Nil until then.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close says goodbye (1000), waits for the gateway's answer and for the last
// OnEvent. When ctx ends first, the TCP connection is dropped.
func (c *Conn) Close(ctx context.Context) error {
	c.closing.Store(true)
	stop := context.AfterFunc(ctx, c.drop)
	defer stop()
	// Its error says how the handshake ended; the reader knows better.
	_ = c.ws.Close(websocket.StatusNormalClosure, "")
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("close connection: %w", ctx.Err())
	}
}

// Abort drops the TCP connection without a word, as a crash would. It does not
// wait: Done tells when the connection has ended.
func (c *Conn) Abort() {
	c.closing.Store(true)
	c.drop()
}

// drop ends whatever reads or writes at the moment.
func (c *Conn) drop() {
	c.cancel()
	_ = c.tcp.Close()
}

// Request sends a request and waits for its response, whose result it decodes
// into result (a pointer, or nil to ignore it). A refusal is a [*Error]; any
// other error means that the answer is not known. Payload nil is sent as {}.
// NB: a ctx that ends while the frame is being written ends the connection
// too, because half a frame cannot be taken back.
func (c *Conn) Request(ctx context.Context, kind string, payload, result any) error {
	return c.request(ctx, kind, payload, result, nil)
}

// request is Request whose result is first given to first, if there is one, by
// the goroutine that reads: before any event that comes after the response.
func (c *Conn) request(ctx context.Context, kind string, payload, result any, first func(json.RawMessage)) error {
	if payload == nil {
		payload = struct{}{}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("request %s: %w", kind, err) // to write now would end the connection
	}
	id := strconv.FormatUint(c.lastID.Add(1), 10)
	answer, err := c.expect(id, first)
	if err != nil {
		return fmt.Errorf("request %s: %w", kind, &unsentError{err})
	}
	defer c.forget(id)
	if err := c.write(ctx, request{RequestID: id, Type: kind, Payload: payload}); err != nil {
		return fmt.Errorf("request %s: %w", kind, c.cause(err))
	}
	select {
	case f, ok := <-answer:
		if !ok {
			return fmt.Errorf("request %s: %w", kind, c.Err())
		}
		raw, err := f.outcome()
		if err != nil {
			return err
		}
		return decode(kind, raw, result)
	case <-ctx.Done():
		return fmt.Errorf("request %s: %w", kind, ctx.Err())
	}
}

// cause prefers the reason the connection ended to the error of a write that
// came too late.
func (c *Conn) cause(err error) error {
	if reason := c.Err(); reason != nil {
		return reason
	}
	return ended(err)
}

// expect registers a request; its channel is closed when the connection ends.
func (c *Conn) expect(id string, first func(json.RawMessage)) (<-chan frame, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.waiting == nil {
		return nil, c.err
	}
	w := waiter{first: first, answer: make(chan frame, 1)}
	c.waiting[id] = w
	return w.answer, nil
}

func (c *Conn) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.waiting, id)
}

func (c *Conn) write(ctx context.Context, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode frame: %w", err)
	}
	return c.ws.Write(ctx, websocket.MessageText, data)
}

// heard puts the watchdog off. Only the reading goroutine calls it, directly
// or through the library's ping callback.
func (c *Conn) heard() {
	if c.watchdog != nil {
		c.watchdog.Reset(c.silence)
	}
}

// read owns the receiving side until the connection ends.
func (c *Conn) read(ctx context.Context) {
	defer close(c.done)
	defer c.serving.running.Wait()
	defer c.cancel()
	for {
		c.heard()
		_, data, err := c.ws.Read(ctx)
		// The watchdog times the gateway's silence, not OnEvent.
		c.watchdog.Stop()
		if err == nil {
			err = c.take(ctx, data)
		}
		if err != nil {
			c.end(err)
			return
		}
	}
}

// take handles one frame. Its error ends the connection.
func (c *Conn) take(ctx context.Context, data []byte) error {
	var f frame
	if err := json.Unmarshal(data, &f); err != nil {
		return fmt.Errorf("read frame: %w", err)
	}
	switch {
	case f.OK != nil:
		c.respond(f)
		return nil
	case f.EventID != "":
		c.leases.observe(f.Event)
		if c.onEvent != nil {
			c.onEvent(f.Event)
		}
		return nil
	case f.RequestID != "":
		c.serve(ctx, f)
		return nil
	default:
		return nil
	}
}

// respond hands a response to its request; one that nobody waits for any more
// is dropped.
func (c *Conn) respond(f frame) {
	c.mu.Lock()
	w, waited := c.waiting[f.RequestID]
	delete(c.waiting, f.RequestID)
	c.mu.Unlock()
	if !waited {
		return
	}
	if w.first != nil && *f.OK {
		w.first(f.Result)
	}
	w.answer <- f
}

// end records why the connection ended and fails every request under way.
func (c *Conn) end(err error) {
	_ = c.ws.CloseNow()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.err = c.reason(err)
	for _, w := range c.waiting {
		close(w.answer)
	}
	c.waiting = nil
}

func (c *Conn) reason(err error) error {
	closed, byGateway := errors.AsType[*CloseError](ended(err))
	switch {
	case byGateway && (!c.closing.Load() || closed.Code != int(websocket.StatusNormalClosure)):
		return closed
	case c.closing.Load():
		return ErrClosed
	case c.silent.Load():
		return ErrSilent
	default:
		return fmt.Errorf("connection lost: %w", err)
	}
}
