package audit

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"rollcall/subjects"
)

// Invariant names a rule that no history breaks.
type Invariant string

// The invariants.
const (
	// WellFormed: every event is one that its subject allows, and its id is that
	// of its message.
	WellFormed Invariant = "well-formed"
	// Once: no event is stored twice, and nothing is announced twice.
	Once Invariant = "stored-once"
	// NoGhost: a connection in a row was opened, was not closed since, and its
	// gateway's incarnation lives.
	NoGhost Invariant = "no-ghost"
	// NoneLost: whatever changed a status, or had to be audited, was announced.
	NoneLost Invariant = "no-lost-transition"
	// Justified: whatever was announced follows from the inputs before it.
	Justified Invariant = "justified"
	// OnlyChanges: presence.changed says that the status changed.
	OnlyChanges Invariant = "changed-only-if-changed"
	// InOrder: what is announced of an agent comes in the order of its causes.
	InOrder Invariant = "in-order"
	// WorkingIfLeased: a row says working if and only if a connection in it holds
	// a lease.
	WorkingIfLeased Invariant = "working-if-leased"
	// RowIsReplay: a row is what a replay of the stream gives.
	RowIsReplay Invariant = "row-is-replay"
	// LegalTransition: a lease goes only where it may, for a reason that holds.
	LegalTransition Invariant = "lease-transition-legal"
	// FenceGrows: each claim of a lease has a higher fence than the one before,
	// and nothing else changes it.
	FenceGrows Invariant = "fence-grows"
	// LeaseRowIsEvent: a lease's row is what its last event says.
	LeaseRowIsEvent Invariant = "lease-row-is-last-event"
	// LeaseBound: a lease in an agent's row is alive and bound to that connection.
	LeaseBound Invariant = "lease-bound"
	// LeaseHeld: a lease that waits or is granted belongs to a connection that is
	// open.
	LeaseHeld Invariant = "lease-held"
	// Kept: what a peer was told is stored.
	Kept Invariant = "promise-kept"
)

// Message is one message of EVENTS.
type Message struct {
	Seq     uint64    `json:"seq"`
	Subject string    `json:"subject"`
	ID      string    `json:"id"`
	Cause   string    `json:"cause,omitempty"`
	Time    time.Time `json:"time"`
	// Data is the stored envelope.
	Data json.RawMessage `json:"data"`
}

// Row is one row of a bucket.
type Row struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

// Promise is something that a peer was told.
type Promise struct {
	// Type is the event that must be stored: connection.opened, or a lease's.
	Type string `json:"type"`
	// ID is the connection's or the lease's.
	ID string `json:"id"`
	// Fence is that of a claim.
	Fence uint64 `json:"fence,omitempty"`
}

// History is everything that is checked.
type History struct {
	// Messages are all of EVENTS, in order, from the first that was ever stored.
	Messages []Message `json:"messages"`
	Presence []Row     `json:"presence"`
	Leases   []Row     `json:"leases"`
	Gateways []Row     `json:"gateways"`
	// At is when the rows were read. A row that may have lapsed by then may be
	// missing.
	At time.Time `json:"at"`
	// Retention is how long the row of a disconnected agent is kept,
	// LeaseRetention that of a lease that has ended.
	Retention      time.Duration `json:"retention"`
	LeaseRetention time.Duration `json:"lease_retention"`
	Promises       []Promise     `json:"promises,omitempty"`
}

// Violation is one breach of an invariant.
type Violation struct {
	Invariant Invariant
	// Subject is the subject, or the bucket and key, that shows it.
	Subject string
	// Seqs are the sequences of the events concerned.
	Seqs   []uint64
	Detail string
}

// String is the violation on one line.
func (v Violation) String() string {
	return fmt.Sprintf("%s: %s %v: %s", v.Invariant, v.Subject, v.Seqs, v.Detail)
}

// event is a message that is well-formed.
type event struct {
	Message
	subject  subjects.Subject
	envelope subjects.Event
	cause    uint64 // 0 when there is none
}

// key names somebody or something of a tenant.
type key struct{ tenant, id string }

// checker is a check under way.
type checker struct {
	history    History
	violations []Violation
	events     []event
	// announced are the derived events by subject and cause.
	announced map[string]map[uint64]event
	// latest are the last of them by subject.
	latest map[string]event
	// explained are the sequences of announcements that an input explains.
	explained map[uint64]bool
	// incarnations are the highest known of each gateway; live the ones that are
	// in GATEWAYS.
	incarnations, live map[string]string
	// connections are the last opening and closing of each.
	connections map[key]*connection
	// instances are the devices by tenant and instance_id, with their connections.
	instances map[key][]*connection
	leases    map[key]*trail
	agents    map[key]*agent
}

// connection is what the stream says of one connection.
type connection struct {
	id             string
	opened, closed uint64
	// firstClosed is its first closing; there are several when presence took its
	// gateway for lost, and it was not.
	firstClosed uint64
	// lost is its last closing by presence, which took its gateway for lost or refused
	// its opening.
	lost  uint64
	owner subjects.ConnectionOpened
}

func (c *connection) open() bool { return c.opened > c.closed }

// Check reports every breach of an invariant, in a stable order. An empty answer
// says that all hold.
func Check(h History) []Violation {
	c := &checker{
		history: h, announced: map[string]map[uint64]event{}, latest: map[string]event{}, explained: map[uint64]bool{},
		incarnations: map[string]string{}, live: map[string]string{}, connections: map[key]*connection{},
		instances: map[key][]*connection{}, leases: map[key]*trail{}, agents: map[key]*agent{},
	}
	c.read()
	c.readGateways()
	c.index()
	c.replayAgents()
	c.checkInstances()
	c.checkUnexplained()
	c.checkLeases()
	c.checkPresenceRows()
	c.checkPromises()
	slices.SortStableFunc(c.violations, func(a, b Violation) int {
		return strings.Compare(string(a.Invariant)+a.Subject, string(b.Invariant)+b.Subject)
	})
	return c.violations
}

func (c *checker) report(invariant Invariant, subject string, seqs []uint64, format string, args ...any) {
	c.violations = append(c.violations, Violation{invariant, subject, seqs, fmt.Sprintf(format, args...)})
}

// read takes the messages apart and finds those that are stored twice.
func (c *checker) read() {
	ids, last := map[string]uint64{}, uint64(0)
	for _, m := range c.history.Messages {
		if m.Seq <= last {
			c.report(WellFormed, m.Subject, []uint64{last, m.Seq}, "the history is not in order")
		}
		last = m.Seq
		e, err := parse(m)
		if err != nil {
			c.report(WellFormed, m.Subject, []uint64{m.Seq}, "%v", err)
			continue
		}
		if before, known := ids[m.ID]; known {
			c.report(Once, m.Subject, []uint64{before, m.Seq}, "event %s is stored twice", m.ID)
			continue
		}
		ids[m.ID] = m.Seq
		c.events = append(c.events, e)
		c.noteAnnouncement(e)
	}
}

// parse reads a message as its subject demands.
func parse(m Message) (event, error) {
	e := event{Message: m}
	var err error
	if e.subject, err = subjects.Parse(m.Subject); err != nil {
		return e, err
	}
	if e.envelope, err = subjects.DecodeEvent(m.Data); err != nil {
		return e, err
	}
	switch {
	case e.envelope.EventID != m.ID:
		return e, fmt.Errorf("event_id %s in a message with id %s", e.envelope.EventID, m.ID)
	case e.envelope.Type != e.subject.Type():
		return e, fmt.Errorf("an event %s", e.envelope.Type)
	}
	if m.Cause != "" {
		if e.cause, err = strconv.ParseUint(m.Cause, 10, 64); err != nil {
			return e, fmt.Errorf("cause: %w", err)
		}
	}
	return e, nil
}

// derived tells the events that presence derives from others; what is pruned
// follows from no event.
func derived(s subjects.Subject) bool {
	switch s.Class {
	case subjects.ClassAgentPresence:
		return true
	case subjects.ClassInstancePresence:
		return s.Name == "upserted"
	case subjects.ClassAudit:
		return s.Name == subjects.AuditBeginAfterDisconnect || s.Name == subjects.AuditEndAfterDisconnect ||
			s.Name == subjects.AuditStaleConnection
	default:
		return false
	}
}

// noteAnnouncement files a derived event under its cause.
func (c *checker) noteAnnouncement(e event) {
	if !derived(e.subject) {
		return
	}
	if c.announced[e.Subject] == nil {
		c.announced[e.Subject] = map[uint64]event{}
	}
	by := c.announced[e.Subject]
	if before, known := by[e.cause]; known {
		c.report(Once, e.Subject, []uint64{before.Seq, e.Seq}, "event %d is announced twice, under two ids", e.cause)
		c.explained[e.Seq] = true
		return
	}
	if before := c.latest[e.Subject]; before.cause > e.cause && e.subject.Class == subjects.ClassAgentPresence {
		c.report(InOrder, e.Subject, []uint64{before.Seq, e.Seq}, "event %d is announced after event %d", e.cause, before.cause)
	}
	by[e.cause], c.latest[e.Subject] = e, e
}

// readGateways learns which incarnations live.
func (c *checker) readGateways() {
	for _, row := range c.history.Gateways {
		var g subjects.GatewayRow
		if err := json.Unmarshal(row.Value, &g); err != nil {
			c.report(WellFormed, "GATEWAYS "+row.Key, nil, "%v", err)
			continue
		}
		c.live[g.InstanceID] = g.Incarnation
		c.incarnations[g.InstanceID] = max(c.incarnations[g.InstanceID], g.Incarnation)
	}
}

// index finds the ends of connections and the trails of leases.
func (c *checker) index() {
	for _, e := range c.events {
		switch e.subject.Class {
		case subjects.ClassAgentConnection, subjects.ClassInstanceConnection:
			c.indexConnection(e)
		case subjects.ClassAgentLease:
			c.indexLease(e)
		default:
		}
	}
}

func (c *checker) indexConnection(e event) {
	switch e.subject.Name {
	case "opened":
		p, err := subjects.DecodePayload[subjects.ConnectionOpened](e.envelope)
		if err != nil {
			c.report(WellFormed, e.Subject, []uint64{e.Seq}, "%v", err)
			return
		}
		k := key{e.subject.Tenant, p.ConnectionID}
		if c.connections[k] == nil {
			c.connections[k] = &connection{id: p.ConnectionID}
			device := key{e.subject.Tenant, p.InstanceID}
			c.instances[device] = append(c.instances[device], c.connections[k])
		}
		c.connections[k].opened, c.connections[k].owner = e.Seq, p
		c.incarnations[p.GatewayID] = max(c.incarnations[p.GatewayID], p.Incarnation)
	case "closed":
		p, err := subjects.DecodePayload[subjects.ConnectionClosed](e.envelope)
		if err != nil {
			c.report(WellFormed, e.Subject, []uint64{e.Seq}, "%v", err)
			return
		}
		if known := c.connections[key{e.subject.Tenant, p.ConnectionID}]; known != nil {
			known.closed = e.Seq
			if p.Reason == subjects.ClosedGatewayLost {
				known.lost = e.Seq
			}
			if known.firstClosed == 0 {
				known.firstClosed = e.Seq
			}
		}
	default:
	}
}

// refusable reports whether an opening may have been refused: its gateway is known to
// have run on as a later incarnation, whose ids sort by the time of their making, and the
// connection was closed for it afterwards, as a refusal always does.
func (c *checker) refusable(e event, p subjects.ConnectionOpened) bool {
	known := c.connections[key{e.subject.Tenant, p.ConnectionID}]
	return p.GatewayID != p.InstanceID && c.incarnations[p.GatewayID] > p.Incarnation && known != nil && known.lost > e.Seq
}

// checkUnexplained reports what was announced for no reason.
func (c *checker) checkUnexplained() {
	for _, e := range c.events {
		if derived(e.subject) && !c.explained[e.Seq] {
			c.report(Justified, e.Subject, []uint64{e.cause, e.Seq}, "%s follows from no input: %s", e.envelope.Type, e.envelope.Payload)
		}
	}
}

// checkPromises looks for what peers were told.
func (c *checker) checkPromises() {
	kept := map[Promise]bool{}
	for k, known := range c.connections {
		if known.opened > 0 {
			kept[Promise{Type: subjects.TypeConnectionOpened, ID: k.id}] = true
		}
	}
	for k, t := range c.leases {
		for _, step := range t.steps {
			p := Promise{Type: step.envelope.Type, ID: k.id}
			if p.Type == subjects.TypeLeaseClaimed {
				p.Fence = step.lease.Fence
			}
			kept[p] = true
		}
	}
	for _, p := range c.history.Promises {
		if !kept[p] {
			c.report(Kept, p.Type+" "+p.ID, nil, "a peer was told (fence %d), and no event says so", p.Fence)
		}
	}
}
