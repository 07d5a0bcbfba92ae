package subjects

import (
	"fmt"
	"strings"
)

// Class tells the families of subjects apart; each has its own writer, readers
// and stream.
type Class int

// The classes, with the subject each one has after "tenant.<tenant_id>.".
const (
	// ClassAgentConnection is agent.<agent_id>.connection.<opened|closed|beacon>.
	ClassAgentConnection Class = iota + 1
	// ClassAgentLease is agent.<agent_id>.lease.<transition>.
	ClassAgentLease
	// ClassInstanceConnection is instance.<instance_id>.connection.<opened|closed|beacon>.
	ClassInstanceConnection
	// ClassAgentPresence is presence.agent.<agent_id>.changed.
	ClassAgentPresence
	// ClassInstancePresence is presence.instance.<instance_id>.<upserted|pruned>.
	ClassInstancePresence
	// ClassAudit is audit.agent.<agent_id>.<name>.
	ClassAudit
	// ClassEventAudit is audit.event.<name>.
	ClassEventAudit
	// ClassPresenceAudit is audit.presence.<name>.
	ClassPresenceAudit
	// ClassEvent is event.<category>.<name…>.
	ClassEvent
	// ClassLeaseCommand is lease.<lease_id>.<command>.
	ClassLeaseCommand
	// ClassEdge is edge.<incarnation>.<connection_id>.
	ClassEdge
)

// Subject is a parsed subject. Which of the fields are set depends on Class;
// String builds the text again, and Parse(s.String()) gives s back.
type Subject struct {
	Class  Class
	Tenant string
	// Agent is set for agent, agent presence and audit subjects.
	Agent string
	// Instance is set for instance and instance presence subjects.
	Instance string
	// Lease is set for lease commands.
	Lease string
	// Incarnation and Connection are set for edge subjects.
	Incarnation string
	Connection  string
	// Name is what happened or what is asked: "opened", "granted", "changed",
	// "claim", an audit's name, or the whole type of a producer's event
	// ("run.started").
	Name string
}

// AgentConnection is the subject of a connection event of an agent; name is
// opened, closed or beacon.
func AgentConnection(tenant, agent, name string) Subject {
	return Subject{Class: ClassAgentConnection, Tenant: tenant, Agent: agent, Name: name}
}

// AgentLease is the subject of a lease transition of an agent.
func AgentLease(tenant, agent, name string) Subject {
	return Subject{Class: ClassAgentLease, Tenant: tenant, Agent: agent, Name: name}
}

// InstanceConnection is the subject of a connection event of a peer without an
// agent, and of a gateway itself.
func InstanceConnection(tenant, instance, name string) Subject {
	return Subject{Class: ClassInstanceConnection, Tenant: tenant, Instance: instance, Name: name}
}

// AgentPresence is the subject of presence.changed.
func AgentPresence(tenant, agent string) Subject {
	return Subject{Class: ClassAgentPresence, Tenant: tenant, Agent: agent, Name: "changed"}
}

// InstancePresence is the subject of presence.upserted and presence.pruned.
func InstancePresence(tenant, instance, name string) Subject {
	return Subject{Class: ClassInstancePresence, Tenant: tenant, Instance: instance, Name: name}
}

// Audit is the subject of an audit event about an agent.
func Audit(tenant, agent, name string) Subject {
	return Subject{Class: ClassAudit, Tenant: tenant, Agent: agent, Name: name}
}

// EventAudit is the subject of an audit event about another event, which
// concerns no agent.
func EventAudit(tenant, name string) Subject {
	return Subject{Class: ClassEventAudit, Tenant: tenant, Name: name}
}

// PresenceAudit is the subject of an audit event about presence as a whole.
func PresenceAudit(tenant, name string) Subject {
	return Subject{Class: ClassPresenceAudit, Tenant: tenant, Name: name}
}

// ProducerEvent is the subject of an event of any producer; its type's dots
// become the subject's.
func ProducerEvent(tenant, eventType string) Subject {
	return Subject{Class: ClassEvent, Tenant: tenant, Name: eventType}
}

// LeaseCommand is the subject of a command to the lease service.
func LeaseCommand(tenant, lease, command string) Subject {
	return Subject{Class: ClassLeaseCommand, Tenant: tenant, Lease: lease, Name: command}
}

// Edge is the subject that reaches one connection through the gateway
// incarnation that holds it.
func Edge(tenant, incarnation, connection string) Subject {
	return Subject{Class: ClassEdge, Tenant: tenant, Incarnation: incarnation, Connection: connection}
}

// String builds the subject's text. It does not validate: what goes into a
// Subject has passed a Check function before.
func (s Subject) String() string {
	return "tenant." + s.Tenant + "." + s.rest()
}

func (s Subject) rest() string {
	switch s.Class {
	case ClassAgentConnection:
		return "agent." + s.Agent + ".connection." + s.Name
	case ClassAgentLease:
		return "agent." + s.Agent + ".lease." + s.Name
	case ClassInstanceConnection:
		return "instance." + s.Instance + ".connection." + s.Name
	case ClassAgentPresence:
		return "presence.agent." + s.Agent + "." + s.Name
	case ClassInstancePresence:
		return "presence.instance." + s.Instance + "." + s.Name
	case ClassAudit:
		return "audit.agent." + s.Agent + "." + s.Name
	case ClassEventAudit:
		return "audit.event." + s.Name
	case ClassPresenceAudit:
		return "audit.presence." + s.Name
	case ClassEvent:
		return "event." + s.Name
	case ClassLeaseCommand:
		return "lease." + s.Lease + "." + s.Name
	case ClassEdge:
		return "edge." + s.Incarnation + "." + s.Connection
	default:
		panic(fmt.Sprintf("subjects: no such class %d", s.Class))
	}
}

// Type is the type of the events on this subject: "connection.opened",
// "lease.granted", "presence.changed", "audit.<name>", "audit.event.<name>", or
// the producer's own.
// It is empty for commands and edge subjects, which carry no events.
func (s Subject) Type() string {
	switch s.Class {
	case ClassAgentConnection, ClassInstanceConnection:
		return "connection." + s.Name
	case ClassAgentLease:
		return "lease." + s.Name
	case ClassAgentPresence, ClassInstancePresence:
		return "presence." + s.Name
	case ClassAudit:
		return "audit." + s.Name
	case ClassEventAudit:
		return "audit.event." + s.Name
	case ClassPresenceAudit:
		return "audit.presence." + s.Name
	case ClassEvent:
		return s.Name
	case ClassLeaseCommand, ClassEdge:
		return ""
	default:
		return ""
	}
}

// Parse reads a subject and refuses, with the rule it breaks, anything that
// none of the builders of this package could have made.
func Parse(subject string) (Subject, error) {
	tokens := strings.Split(subject, ".")
	if len(tokens) < 4 || tokens[0] != "tenant" {
		return Subject{}, Invalid("subject", "must be tenant.<tenant_id>.<family>.…")
	}
	s := Subject{Tenant: tokens[1]}
	if !validName(s.Tenant) {
		return Subject{}, Invalid("subject", "tenant "+nameRule)
	}
	if !s.parseFamily(tokens[2], tokens[3:]) {
		return Subject{}, Invalid("subject", "is none of rollcall's")
	}
	return s, nil
}

// parseFamily fills s from the tokens behind the family's name and reports
// whether they form one of its subjects.
func (s *Subject) parseFamily(family string, t []string) bool {
	switch {
	case family == "event":
		s.Class, s.Name = ClassEvent, strings.Join(t, ".")
		return validType(s.Name)
	case family == "agent" && len(t) == 3 && t[1] == "connection":
		s.Class, s.Agent, s.Name = ClassAgentConnection, t[0], t[2]
		return validName(s.Agent) && isConnectionName(s.Name)
	case family == "agent" && len(t) == 3 && t[1] == "lease":
		s.Class, s.Agent, s.Name = ClassAgentLease, t[0], t[2]
		return validName(s.Agent) && isTransition(s.Name)
	case family == "instance" && len(t) == 3 && t[1] == "connection":
		s.Class, s.Instance, s.Name = ClassInstanceConnection, t[0], t[2]
		return validInstance(s.Instance) && isConnectionName(s.Name)
	case family == "presence" && len(t) == 3 && t[0] == "agent":
		s.Class, s.Agent, s.Name = ClassAgentPresence, t[1], t[2]
		return validName(s.Agent) && s.Name == "changed"
	case family == "presence" && len(t) == 3 && t[0] == "instance":
		s.Class, s.Instance, s.Name = ClassInstancePresence, t[1], t[2]
		return validInstance(s.Instance) && (s.Name == "upserted" || s.Name == "pruned")
	case family == "audit" && len(t) == 3 && t[0] == "agent":
		s.Class, s.Agent, s.Name = ClassAudit, t[1], t[2]
		return validName(s.Agent) && validWord(s.Name)
	case family == "audit" && len(t) == 2 && t[0] == "event":
		s.Class, s.Name = ClassEventAudit, t[1]
		return validWord(s.Name)
	case family == "audit" && len(t) == 2 && t[0] == "presence":
		s.Class, s.Name = ClassPresenceAudit, t[1]
		return validWord(s.Name)
	case family == "lease" && len(t) == 2:
		s.Class, s.Lease, s.Name = ClassLeaseCommand, t[0], t[1]
		return validUUID(s.Lease) && validWord(s.Name)
	case family == "edge" && len(t) == 2:
		s.Class, s.Incarnation, s.Connection = ClassEdge, t[0], t[1]
		return validUUID(s.Incarnation) && validUUID(s.Connection)
	default:
		return false
	}
}

func isConnectionName(s string) bool {
	return s == "opened" || s == "closed" || s == "beacon"
}

func isTransition(s string) bool {
	switch s {
	case "requested", "granted", "denied", "held", "claimed", "rolled_back",
		"renewed", "consumed", "expired", "abandoned":
		return true
	default:
		return false
	}
}

// validWord accepts one token of an event type: [a-z][a-z0-9_]{0,63}.
func validWord(s string) bool {
	return validName(s) && s[0] >= 'a' && !strings.Contains(s, "-")
}

// maxTypeTokens bounds the words of an event type, so that a subject stays far
// below what NATS accepts.
const maxTypeTokens = 8

func validType(s string) bool {
	words := strings.Split(s, ".")
	if len(words) > maxTypeTokens {
		return false
	}
	for _, w := range words {
		if !validWord(w) {
			return false
		}
	}
	return true
}

// CheckType refuses what is not an event type: one to eight words of
// [a-z][a-z0-9_]{0,63}, joined by dots.
func CheckType(field, s string) error {
	if !validType(s) {
		return Invalid(field, "must be 1 to 8 words of [a-z][a-z0-9_]{0,63} joined by dots")
	}
	return nil
}
