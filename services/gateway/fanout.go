package gateway

import (
	"encoding/json"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// hub reads what presence announces, once per process, and offers each event
// to the sockets that subscribed to its agent.
//
// A subscription begins in three steps, so that its snapshot and the events
// after it have neither gap nor repetition:
//
//	begin    register; from now on the socket's events are buffered
//	await    until the view holds every row that was announced before begin
//	release  the response is queued; the buffered events follow it
//
// From release on, events that the snapshot already contains are dropped: the
// buffered ones, and also those the hub reads later, for the view may be ahead
// of it (see floor).
//
// Lock order: hub.mu before view.mu.
type hub struct {
	view    *view
	log     zerolog.Logger
	metrics *metrics
	// maxBuffer bounds the events that wait for one snapshot; a socket that
	// gets more is closed as a slow consumer.
	maxBuffer int

	mu      sync.Mutex
	tenants map[string]*audience
	lastSeq uint64 // of the last event read
	settled uint64 // the last one at which the view lacked no announced row
}

// audience are one tenant's subscribers.
type audience struct {
	all     map[*subscriber]struct{}
	byAgent map[string]map[*subscriber]struct{}
}

// subscriber is a socket's place in the hub. The hub's lock guards it.
type subscriber struct {
	tenant string
	out    *queue
	// slow closes the socket; it must not block.
	slow func()
	// delivered is told the sequence of each event put into the queue.
	delivered func(seq uint64)

	all     bool
	agents  map[string]struct{}
	pending *pendingSnapshot
	floor   floor
}

// pendingSnapshot is a subscription that has begun and is not released.
type pendingSnapshot struct {
	want selection
	// added and addedAll are what this subscription brought, to be taken back
	// if it fails.
	added    []string
	addedAll bool
	buffer   []delta
}

// delta is an encoded event on its way to sockets.
type delta struct {
	agent    string
	revision uint64
	seq      uint64
	frame    []byte
}

func newHub(v *view, log zerolog.Logger, m *metrics, maxBuffer int) *hub {
	return &hub{view: v, log: log, metrics: m, maxBuffer: maxBuffer, tenants: map[string]*audience{}}
}

// start sets the sequence behind which the hub reads.
func (h *hub) start(seq uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastSeq, h.settled = seq, seq
}

// cursor is a position such that everything up to it is part of the view.
func (h *hub) cursor() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.settle()
	return formatCursor(h.settled)
}

func (h *hub) settle() {
	if h.view.settled() {
		h.settled = h.lastSeq
	}
}

// fanOut takes one event of presence.
func (h *hub) fanOut(d *bus.Delivery) {
	h.metrics.fanoutLag.Observe(time.Since(d.Time).Seconds())
	h.mu.Lock()
	defer h.mu.Unlock()
	defer h.settle()
	h.lastSeq = d.Seq
	subject, err := subjects.Parse(d.Subject)
	if err != nil || subject.Class != subjects.ClassAgentPresence {
		return
	}
	// Without a readable header the event counts as newer than any snapshot.
	revision, err := strconv.ParseUint(d.Header.Get(subjects.HeaderRowRevision), 10, 64)
	known := err == nil
	if known {
		h.view.announce(subject.Tenant, subject.Agent, revision, time.Now())
	} else {
		revision = ^uint64(0)
	}
	a := h.tenants[subject.Tenant]
	if a == nil || len(a.all) == 0 && len(a.byAgent[subject.Agent]) == 0 {
		return
	}
	frame, err := eventFrame(d)
	if err != nil {
		h.log.Warn().Err(err).Uint64("seq", d.Seq).Str("subject", d.Subject).Msg("unreadable event not delivered")
		return
	}
	h.deliver(a, delta{agent: subject.Agent, revision: revision, seq: d.Seq, frame: frame})
}

func (h *hub) deliver(a *audience, d delta) {
	for s := range a.all {
		h.offer(s, d)
	}
	for s := range a.byAgent[d.agent] {
		if !s.all {
			h.offer(s, d)
		}
	}
}

// offer gives an event to one socket. Nobody waits: a socket without room is
// closed.
func (h *hub) offer(s *subscriber, d delta) {
	switch {
	case s.pending == nil && s.floor.holds(d.agent, d.revision):
	case s.pending != nil && len(s.pending.buffer) < h.maxBuffer:
		s.pending.buffer = append(s.pending.buffer, d)
	case s.pending == nil && s.out.offer(d.frame):
		s.delivered(d.seq)
	default:
		s.slow()
	}
}

// begin registers a subscription and buffers the socket's events from here on.
// It returns the cursor the snapshot will be true at, and the row revisions it
// must wait for. A socket has one subscription under way at a time.
func (h *hub) begin(s *subscriber, want selection) (cursor string, need map[string]uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := &pendingSnapshot{want: want}
	if want.all {
		p.addedAll = h.coverAll(s)
	}
	for _, agent := range want.agents {
		if h.cover(s, agent) {
			p.added = append(p.added, agent)
		}
	}
	s.pending = p
	return formatCursor(h.lastSeq), h.view.pending(want)
}

// release ends a subscription's beginning: the snapshot is in the queue, and
// what it does not contain follows.
func (h *hub) release(s *subscriber, snapshot agentSnapshot) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := s.pending
	s.pending = nil
	s.floor.raise(p.want, snapshot, time.Now())
	for _, d := range p.buffer {
		h.offer(s, d)
	}
}

// abandon takes a subscription back that could not be answered. Events of
// older subscriptions, buffered meanwhile, are delivered.
func (h *hub) abandon(s *subscriber) {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := s.pending
	s.pending = nil
	if p.addedAll {
		h.uncoverAll(s)
	}
	for _, agent := range p.added {
		h.uncover(s, agent)
	}
	for _, d := range p.buffer {
		if _, ok := s.agents[d.agent]; ok || s.all {
			h.offer(s, d)
		}
	}
}

// unsubscribe ends deliveries: of everything, or of the listed agents.
func (h *hub) unsubscribe(s *subscriber, want selection) {
	h.mu.Lock()
	defer h.mu.Unlock()
	agents := want.agents
	if want.all {
		h.uncoverAll(s)
		agents = keys(s.agents)
	}
	for _, agent := range agents {
		h.uncover(s, agent)
	}
}

// leave removes a socket that is gone.
func (h *hub) leave(s *subscriber) { h.unsubscribe(s, selection{tenant: s.tenant, all: true}) }

// count returns how many agents a socket listed one by one.
func (h *hub) count(s *subscriber) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return len(s.agents)
}

func (h *hub) audience(tenant string) *audience {
	a := h.tenants[tenant]
	if a == nil {
		a = &audience{all: map[*subscriber]struct{}{}, byAgent: map[string]map[*subscriber]struct{}{}}
		h.tenants[tenant] = a
	}
	return a
}

// coverAll and its kin report whether anything changed.
func (h *hub) coverAll(s *subscriber) bool {
	changed := !s.all
	s.all = true
	h.audience(s.tenant).all[s] = struct{}{}
	return changed
}

func (h *hub) cover(s *subscriber, agent string) bool {
	if _, ok := s.agents[agent]; ok {
		return false
	}
	s.agents[agent] = struct{}{}
	a := h.audience(s.tenant)
	if a.byAgent[agent] == nil {
		a.byAgent[agent] = map[*subscriber]struct{}{}
	}
	a.byAgent[agent][s] = struct{}{}
	return true
}

func (h *hub) uncoverAll(s *subscriber) {
	s.all = false
	if a := h.tenants[s.tenant]; a != nil {
		delete(a.all, s)
		h.trim(s.tenant, a)
	}
}

func (h *hub) uncover(s *subscriber, agent string) {
	delete(s.agents, agent)
	a := h.tenants[s.tenant]
	if a == nil {
		return
	}
	delete(a.byAgent[agent], s)
	if len(a.byAgent[agent]) == 0 {
		delete(a.byAgent, agent)
	}
	h.trim(s.tenant, a)
}

// trim lets go of an audience without anybody in it.
func (h *hub) trim(tenant string, a *audience) {
	if len(a.all) == 0 && len(a.byAgent) == 0 {
		delete(h.tenants, tenant)
	}
}

// framedEvent is an event as peers get it.
type framedEvent struct {
	subjects.Event
	Cursor string `json:"cursor"`
}

// eventFrame encodes a stored event for peers.
func eventFrame(d *bus.Delivery) ([]byte, error) {
	event, err := subjects.DecodeEvent(d.Data)
	if err != nil {
		return nil, fmt.Errorf("decode event: %w", err)
	}
	frame, err := json.Marshal(framedEvent{Event: event, Cursor: formatCursor(d.Seq)})
	if err != nil {
		return nil, fmt.Errorf("encode event frame: %w", err)
	}
	return frame, nil
}

func formatCursor(seq uint64) string { return strconv.FormatUint(seq, 10) }

func keys(set map[string]struct{}) []string {
	out := make([]string, 0, len(set))
	for key := range set {
		out = append(out, key)
	}
	return out
}
