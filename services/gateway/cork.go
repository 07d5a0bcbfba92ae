package gateway

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// corkBytes is how much may wait in a corked connection before it is written.
const corkBytes = 32 << 10

// kernelBytes is how much the system is asked to hold for a peer that does not read.
// Left to itself it grows to megabytes, which no bound of ours would know of; Linux
// holds twice of what it is asked for.
const kernelBytes = 256 << 10

// corkedConn is a connection whose writes can be held together, so that a burst of
// frames costs one system call and not one each.
type corkedConn struct {
	net.Conn

	mu     sync.Mutex
	corked bool
	buf    []byte
	err    error
}

// Write implements net.Conn. What is held counts as written; an error that comes
// later is returned by whatever writes then, or by uncork.
func (c *corkedConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.corked {
		return c.Conn.Write(p)
	}
	c.buf = append(c.buf, p...)
	if len(c.buf) >= corkBytes {
		if err := c.flush(); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// cork holds writes together from here on.
func (c *corkedConn) cork() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = true
}

// uncork writes what was held, within a time.
func (c *corkedConn) uncork(timeout time.Duration) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.corked = false
	if len(c.buf) == 0 {
		return nil
	}
	_ = c.SetWriteDeadline(time.Now().Add(timeout)) // fails only when it is closed
	err := c.flush()
	_ = c.SetWriteDeadline(time.Time{})
	return err
}

// flush writes what is held. After a failure nothing is written any more: a part
// of a frame may be out.
func (c *corkedConn) flush() error {
	held := c.buf
	c.buf = c.buf[:0]
	if c.err == nil {
		_, c.err = c.Conn.Write(held)
	}
	if c.err != nil {
		return fmt.Errorf("write frames: %w", c.err)
	}
	return nil
}

// corkable gives the WebSocket library a corked connection when it takes the
// connection over from HTTP.
type corkable struct {
	http.ResponseWriter

	conn *corkedConn
}

// Hijack implements http.Hijacker.
func (w *corkable) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, buffered, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("take the connection over: %w", err)
	}
	if tcp, is := conn.(*net.TCPConn); is {
		_ = tcp.SetWriteBuffer(kernelBytes) // without it the bound is only further away
	}
	w.conn = &corkedConn{Conn: conn}
	return w.conn, bufio.NewReadWriter(buffered.Reader, bufio.NewWriter(w.conn)), nil
}
