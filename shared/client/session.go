package client

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"time"
)

// Defaults and bounds of a session.
const (
	defaultBackoffBase = time.Second
	defaultBackoffMax  = 30 * time.Second
	defaultDialTimeout = 15 * time.Second
	defaultRemember    = 4096
	defaultQueue       = 1024
	defaultQueueBytes  = 4 << 20

	// maxPatterns and maxFollowed are what a gateway takes.
	maxPatterns = 64
	maxFollowed = 1000

	// restoreTimeout bounds each request that a session makes on a new connection.
	restoreTimeout = 30 * time.Second
	// goodbyeTimeout bounds the close handshake at the end of a session.
	goodbyeTimeout = 5 * time.Second
)

// SessionOptions say where a session connects, as whom, and what it follows.
type SessionOptions struct {
	// URLs are the sockets of one or more gateways, such as
	// ws://127.0.0.1:8080/ws. A session begins with one of them at random and takes
	// the next one at each attempt.
	URLs []string
	// Token returns the access token of the next connection; see [StaticToken]. It
	// is asked at every attempt, so that an old token can be replaced.
	Token func(ctx context.Context) (string, error)
	// TokenInSubprotocol, Key, Role, Device and ReadLimit are those of [Options].
	TokenInSubprotocol bool
	Key                ed25519.PrivateKey
	Role               string
	Device             Device
	ReadLimit          int64

	// Events are the patterns of types to listen to, 64 at most: run.started, run.*
	// for all below, * for all. None listens to nothing.
	Events []string
	// Cursor is where listening begins: behind what [Session.Cursor] was in an
	// earlier life. Empty is from now on.
	Cursor string
	// Presence are the agents to follow, 1,000 at most or all.
	Presence Selection
	// Handlers take what comes.
	Handlers Handlers

	// OnConnect is called on every new connection before anything else, for what
	// has to be said again on each, such as [Conn.Moderate]. Its error ends the
	// connection; a refusal that would come again, the session. May be nil.
	OnConnect func(ctx context.Context, conn *Conn) error
	// OnLost is told why an attempt or a connection ended, and how long the session
	// waits before the next attempt. May be nil.
	OnLost func(err error, wait time.Duration)

	// Backoff bounds the waits between attempts: 1 s doubling to 30 s when zero.
	Backoff Backoff
	// DialTimeout bounds an attempt, 15 s when zero.
	DialTimeout time.Duration
	// Remember is how many ids of events are known as handled already, 4,096 when
	// zero. The oldest is forgotten first.
	Remember int
	// Queue and QueueBytes bound what waits for the handlers, 1,024 events and
	// 4 MiB of payloads when zero. A single one always fits, and one snapshot comes on
	// top. When there is no room the session ends its subscriptions, and makes them
	// again behind the last event that it kept once half the room is free.
	Queue, QueueBytes int
}

// StaticToken is for a token that does not change.
func StaticToken(token string) func(context.Context) (string, error) {
	return func(context.Context) (string, error) { return token, nil }
}

// complete checks what is there and fills what was left out.
func (o *SessionOptions) complete() error {
	if len(o.URLs) == 0 {
		return errors.New("option URLs: at least one is required")
	}
	for i, text := range o.URLs {
		if u, err := url.Parse(text); err != nil || u.Host == "" || !slices.Contains([]string{"ws", "wss", "http", "https"}, u.Scheme) {
			return fmt.Errorf("option URLs[%d]: must be the address of a socket, ws:// or wss://", i)
		}
	}
	if o.Token == nil {
		return errors.New("option Token: is required")
	}
	if len(o.Events) > maxPatterns {
		return fmt.Errorf("option Events: %d patterns are more than %d", len(o.Events), maxPatterns)
	}
	if len(o.Presence.AgentIDs) > maxFollowed {
		return fmt.Errorf("option Presence.AgentIDs: %d agents are more than %d", len(o.Presence.AgentIDs), maxFollowed)
	}
	if o.Remember < 0 || o.Queue < 0 || o.QueueBytes < 0 || o.DialTimeout < 0 || o.Backoff.Base < 0 || o.Backoff.Max < 0 {
		return errors.New("option Remember, Queue, QueueBytes, DialTimeout and Backoff: must not be negative")
	}
	o.Backoff = Backoff{Base: cmp.Or(o.Backoff.Base, defaultBackoffBase), Max: cmp.Or(o.Backoff.Max, defaultBackoffMax)}
	o.DialTimeout = cmp.Or(o.DialTimeout, defaultDialTimeout)
	o.Remember = cmp.Or(o.Remember, defaultRemember)
	o.Queue, o.QueueBytes = cmp.Or(o.Queue, defaultQueue), cmp.Or(o.QueueBytes, defaultQueueBytes)
	o.URLs, o.Events = slices.Clone(o.URLs), slices.Clone(o.Events)
	o.Presence.AgentIDs = slices.Clone(o.Presence.AgentIDs)
	o.Handlers = o.Handlers.clone()
	// What Dial fills in is filled in once: a session is one device.
	dial := Options{Role: o.Role, Key: o.Key, ReadLimit: o.ReadLimit}
	err := dial.complete()
	o.Role, o.Key, o.ReadLimit = dial.Role, dial.Key, dial.ReadLimit
	return err
}

// follows reports whether the session follows agents.
func (o *SessionOptions) follows() bool { return o.Presence.All || len(o.Presence.AgentIDs) > 0 }

// Session is a peer that comes back. Its methods may be called from several
// goroutines at once.
type Session struct {
	options SessionOptions
	inbox   *inbox
	cancel  context.CancelFunc
	done    chan struct{}

	// Of the goroutine that connects.
	pacer pacer
	next  int
	// refused is the token that a connection was closed for last, and with what.
	refused struct {
		token string
		err   error
	}

	mu sync.Mutex
	// conn is the connection of the moment, once everything is restored on it that
	// there is room for.
	conn *Conn
	// dialed is the connection of the moment as soon as there is one.
	dialed *Conn
	// changed is closed when conn or err changes, and made anew.
	changed chan struct{}
	// hint is how long the gateway asks to stay away.
	hint time.Duration
	err  error
}

// Open begins a session. It does not wait for a connection: [Session.Connected]
// does. The session ends when ctx does, at [Session.Close], or when the gateway
// refuses it for good.
func Open(ctx context.Context, o SessionOptions) (*Session, error) {
	if err := o.complete(); err != nil {
		return nil, fmt.Errorf("open session: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	s := &Session{
		options: o, inbox: newInbox(o.Queue, o.QueueBytes, o.Remember, o.Cursor), cancel: cancel,
		done: make(chan struct{}), changed: make(chan struct{}),
		pacer: pacer{backoff: o.Backoff},
		next:  rand.N(len(o.URLs)), //nolint:gosec // spreads load; nothing is guessed from it
	}
	go s.live(ctx)
	return s, nil
}

// live owns the session's goroutines: it connects, another one calls the
// handlers, and what was received before the end is still handled unless ctx has
// ended.
func (s *Session) live(ctx context.Context) {
	defer close(s.done)
	defer s.cancel()
	var handlers sync.WaitGroup
	handlers.Go(func() {
		for i, ok := s.inbox.next(ctx); ok; i, ok = s.inbox.next(ctx) {
			s.options.Handlers.handle(ctx, i)
			s.inbox.done(i)
		}
	})
	err := s.run(ctx)
	s.set(func() { s.err = err })
	s.inbox.close()
	handlers.Wait()
}

// run connects again and again, and returns why it does not any more.
func (s *Session) run(ctx context.Context) error {
	for {
		err := s.attempt(ctx)
		if ctx.Err() != nil {
			return ErrClosed
		}
		if _, final := errors.AsType[*PermanentError](err); final {
			return err
		}
		wait := s.pacer.after(err, s.takeHint())
		if s.options.OnLost != nil {
			s.options.OnLost(err, wait)
		}
		if !pause(ctx, wait) {
			return ErrClosed
		}
	}
}

// attempt connects once and returns when that has failed or the connection has
// ended.
func (s *Session) attempt(ctx context.Context) error {
	conn, token, err := s.dial(ctx)
	if err != nil {
		return err
	}
	s.pacer.proved()
	s.set(func() { s.dialed = conn })
	s.inbox.attach(conn.Welcome().Cursor)
	err = s.hold(ctx, conn)
	s.set(func() { s.conn, s.dialed = nil, nil })
	s.part(ctx, conn)
	s.inbox.detach()
	if err == nil {
		err = conn.Err()
	}
	s.note(token, err)
	return err
}

// note remembers a token that a connection or a handshake was closed for. It has
// expired or was revoked, perhaps on its way to the gateway; there may be another
// one, and only if there is none will it be refused again.
func (s *Session) note(token string, err error) {
	if closed, is := errors.AsType[*CloseError](err); is && closed.Code == closeUnauthorized {
		s.refused.token, s.refused.err = token, err
	}
}

func (s *Session) dial(ctx context.Context) (*Conn, string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.options.DialTimeout)
	defer cancel()
	o := s.options
	address := o.URLs[s.next%len(o.URLs)]
	s.next++
	token, err := o.Token(ctx)
	if err != nil {
		return nil, "", fmt.Errorf("get a token: %w", err)
	}
	if s.refused.err != nil && token == s.refused.token {
		return nil, "", &PermanentError{s.refused.err}
	}
	conn, err := Dial(ctx, Options{
		URL: address, Token: token, TokenInSubprotocol: o.TokenInSubprotocol, Key: o.Key, Role: o.Role,
		Device: o.Device, ReadLimit: o.ReadLimit, OnEvent: s.observe, OnRequest: o.Handlers.serve,
	})
	if refusedForGood(err) {
		return nil, "", &PermanentError{err}
	}
	s.note(token, err)
	return conn, token, err
}

// observe takes an event on the goroutine that reads.
func (s *Session) observe(e Event) {
	if e.Type != "draining" {
		s.inbox.take(e)
		return
	}
	var payload struct {
		RetryAfterMS int64 `json:"retry_after_ms"`
	}
	if json.Unmarshal(e.Payload, &payload) == nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.hint = time.Duration(min(max(payload.RetryAfterMS, 0), maxHint.Milliseconds())) * time.Millisecond
	}
}

// takeHint returns what the gateway has said about coming back, once.
func (s *Session) takeHint() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	hint := s.hint
	s.hint = 0
	return hint
}

// part ends a connection, if it has not ended by itself, and waits for its
// goroutines.
func (s *Session) part(ctx context.Context, conn *Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), goodbyeTimeout)
	defer cancel()
	if conn.Close(ctx) != nil {
		conn.Abort()
	}
	<-conn.Done()
}

// hold restores on a new connection what the session wants, keeps it so, and
// returns when the connection or ctx ends. Its error is why the session gave the
// connection up.
func (s *Session) hold(ctx context.Context, conn *Conn) error {
	if s.options.OnConnect != nil {
		if err := s.options.OnConnect(ctx, conn); err != nil {
			return given(fmt.Errorf("say again on a new connection: %w", err))
		}
	}
	// What waits may wait for a handler that waits for a connection.
	full := func() { s.set(func() { s.conn = conn }) }
	for s.inbox.spare(ctx, conn.Done(), full) {
		subscription, err := s.subscribe(ctx, conn)
		if err != nil {
			return given(err)
		}
		s.set(func() { s.conn = conn })
		if !s.keep(ctx, conn) {
			return nil
		}
		if err := s.unsubscribe(ctx, conn, subscription); err != nil {
			return given(err)
		}
	}
	return nil
}

// given is the error of a request that a session makes on a connection: one that
// would come again ends the session.
func given(err error) error {
	if deniedForGood(err) {
		return &PermanentError{err}
	}
	return err
}

// keep waits for the end of the connection or of ctx, and is true when the
// subscriptions have to be made again before: there was no room, or events that
// are not kept any more may have changed the agents of the snapshot.
func (s *Session) keep(ctx context.Context, conn *Conn) bool {
	for {
		select {
		case <-s.inbox.stopped:
			return true
		case <-s.inbox.resynced:
			if s.options.follows() {
				return true
			}
		case <-conn.Done():
			return false
		case <-ctx.Done():
			return false
		}
	}
}

// subscribe makes the session's subscriptions and returns the id of the one to
// events. Events first: until what was missed is delivered, nothing else is.
func (s *Session) subscribe(ctx context.Context, conn *Conn) (string, error) {
	cursor := s.inbox.flow()
	var begun struct {
		SubscriptionID string `json:"subscription_id"`
	}
	if len(s.options.Events) > 0 {
		payload := map[string]any{"types": s.options.Events, "cursor": cursor}
		if err := s.restore(ctx, conn, "events.subscribe", payload, &begun, nil); err != nil {
			return "", err
		}
	}
	if s.options.follows() {
		return begun.SubscriptionID, s.follow(ctx, conn)
	}
	return begun.SubscriptionID, nil
}

// follow takes a snapshot of the agents. The goroutine that reads puts it into the
// inbox, so that it is handed on before the changes that follow it.
func (s *Session) follow(ctx context.Context, conn *Conn) error {
	var snapshot Snapshot
	var fault error
	err := s.restore(ctx, conn, "presence.subscribe", s.options.Presence, nil, func(raw json.RawMessage) {
		if fault = json.Unmarshal(raw, &snapshot); fault == nil {
			s.inbox.takeSnapshot(snapshot, len(raw))
		}
	})
	if err != nil {
		return err // and the reader may not be done with fault
	}
	return fault
}

// unsubscribe ends the subscriptions. When it is done none of their events is
// under way any more.
func (s *Session) unsubscribe(ctx context.Context, conn *Conn, subscription string) error {
	if subscription != "" {
		payload := map[string]any{"subscription_id": subscription}
		if err := s.restore(ctx, conn, "events.unsubscribe", payload, nil, nil); err != nil {
			return err
		}
	}
	if s.options.follows() {
		return s.restore(ctx, conn, "presence.unsubscribe", s.options.Presence, nil, nil)
	}
	return nil
}

// restore makes a request on a connection, and again while it is refused for the
// moment.
func (s *Session) restore(ctx context.Context, conn *Conn, kind string, payload, result any, first func(json.RawMessage)) error {
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	return retrying(ctx, func() error { return conn.request(ctx, kind, payload, result, first) }, passing)
}

// set changes what others wait for.
func (s *Session) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Connected waits until there is a connection on which everything is restored, or
// will be once the handlers have made room, and returns it. Leases are bound to it:
// what is asked of it does not survive it.
func (s *Session) Connected(ctx context.Context) (*Conn, error) { return s.other(ctx, nil) }

// other is Connected for somebody who has seen one connection end.
func (s *Session) other(ctx context.Context, than *Conn) (*Conn, error) {
	for {
		s.mu.Lock()
		conn, err, changed := s.conn, s.err, s.changed
		s.mu.Unlock()
		switch {
		case err != nil:
			return nil, err
		case conn != nil && conn != than:
			return conn, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for a connection: %w", ctx.Err())
		}
	}
}

// Cursor is behind every event whose handler has returned. A program that keeps
// it can go on there when it starts again; before the first connection it is
// [SessionOptions.Cursor].
func (s *Session) Cursor() string { return s.inbox.cursor() }

// Done is closed when the session has ended and its last handler has returned.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session has ended: [ErrClosed] when its context did or after
// Close, else a [*PermanentError]. Nil until then.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close says goodbye to the gateway and waits for the session's goroutines, that
// of the handlers too: what waits for them is dropped, and [Session.Cursor] is
// behind the last that was handled. When ctx ends first, the connection is
// dropped. A handler must not call it: it would wait for itself.
func (s *Session) Close(ctx context.Context) error {
	s.cancel()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
	}
	s.mu.Lock()
	conn := s.dialed
	s.mu.Unlock()
	if conn != nil {
		conn.Abort()
	}
	return fmt.Errorf("close session: %w", ctx.Err())
}
