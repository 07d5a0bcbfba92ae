package gateway

import (
	"context"
	"sync"
)

// roster holds the open sockets and waits for their goroutines.
type roster struct {
	mu      sync.Mutex
	open    bool
	sockets map[*socket]struct{}
	// held are the connections whose openings may be stored and whose closes are still to be.
	held    map[string]struct{}
	running sync.WaitGroup
}

func newRoster() *roster {
	return &roster{sockets: map[*socket]struct{}{}, held: map[string]struct{}{}}
}

// admit opens or closes the door for new sockets.
func (r *roster) admit(open bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open = open
}

// isOpen reports whether new sockets are let in.
func (r *roster) isOpen() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open
}

// add takes a socket in; it is false once the door is closed.
func (r *roster) add(s *socket) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.open {
		return false
	}
	r.sockets[s] = struct{}{}
	r.running.Add(1)
	return true
}

// remove lets a socket go that is completely done.
func (r *roster) remove(s *socket) {
	r.mu.Lock()
	delete(r.sockets, s)
	r.mu.Unlock()
	r.running.Done()
}

// hold notes a connection, before its opening is stored.
func (r *roster) hold(connection string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held[connection] = struct{}{}
}

// release forgets a connection, once its close is stored.
func (r *roster) release(connection string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.held, connection)
}

// holds reports whether a connection is held.
func (r *roster) holds(connection string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, is := r.held[connection]
	return is
}

// list returns the sockets there are.
func (r *roster) list() []*socket {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*socket, 0, len(r.sockets))
	for s := range r.sockets {
		out = append(out, s)
	}
	return out
}

// wait returns when every socket is done, or false when ctx ends before. The
// door must be closed.
func (r *roster) wait(ctx context.Context) bool {
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.running.Wait()
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}
