package subjects

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Commands of the lease service: the last token of
// tenant.<tenant_id>.lease.<lease_id>.<command>. For list and moderate, which
// concern no single lease, the lease_id of the subject is the command's own id.
const (
	CommandRequest  = "request"
	CommandRetry    = "retry"
	CommandResolve  = "resolve"
	CommandClaim    = "claim"
	CommandFinalize = "finalize"
	CommandRollback = "rollback"
	CommandRenew    = "renew"
	CommandGet      = "get"
	CommandList     = "list"
	CommandModerate = "moderate"
	// CommandTimer is a deadline that the server's scheduler delivers.
	CommandTimer = "timer"
)

// TimerSchedule ends the subject on which a lease's timer waits until it is
// due. It is a token longer than a command, so that [AllLeaseCommands] does not
// match it: a waiting timer belongs to the server's scheduler alone.
const TimerSchedule = CommandTimer + ".schedule"

// LeaseCommands returns the commands the lease service consumes.
func LeaseCommands() []string {
	return []string{
		CommandRequest, CommandRetry, CommandResolve, CommandClaim, CommandFinalize, CommandRollback,
		CommandRenew, CommandGet, CommandList, CommandModerate, CommandTimer,
	}
}

// AllLeaseCommands is the filter for every command, of all tenants and leases.
// It is one filter on purpose: a consumer with several looks each message up in
// a list of them.
const AllLeaseCommands = "tenant.*.lease.*.*"

// Filters of everything that says a connection is gone.
const (
	AllAgentConnectionsClosed    = "tenant.*.agent.*.connection.closed"
	AllInstanceConnectionsClosed = "tenant.*.instance.*.connection.closed"
)

// Command is a message to the lease service. Its command_id is the Nats-Msg-Id
// it is stored under; the lease service records it in the lease's row, and so
// a command that is delivered twice answers the same twice.
type Command struct {
	CommandID string    `json:"command_id"`
	IssuedAt  time.Time `json:"issued_at"`
	// Deadline is when the gateway gives up waiting and tells the peer
	// "unavailable". The command is applied nonetheless.
	Deadline time.Time `json:"deadline"`
	Peer     Peer      `json:"peer"`
	Grants   Grants    `json:"grants"`
	// Payload is the payload of the peer's request, as it came.
	Payload json.RawMessage `json:"payload"`
	// Resource is that of the lease which a moderator was shown, where the command is
	// its answer. A verdict about another resource is refused.
	Resource string `json:"resource,omitempty"`
}

// Peer is the connection a command comes from, and where its reply goes.
type Peer struct {
	ConnectionID string `json:"connection_id"`
	InstanceID   string `json:"instance_id"`
	AgentID      string `json:"agent_id,omitempty"`
	// Incarnation is that of the gateway that holds the connection.
	Incarnation string `json:"incarnation"`
}

// Grants are the scopes of a peer's token that the lease service looks at. An
// absent one is not granted.
type Grants struct {
	OperatorRead  bool `json:"operator_read,omitempty"`
	OperatorWrite bool `json:"operator_write,omitempty"`
	Moderate      bool `json:"moderate,omitempty"`
}

// Validate refuses a command that nobody could be answered to.
func (c Command) Validate() error {
	if err := first(
		CheckUUID("command_id", c.CommandID),
		CheckUUID("peer.connection_id", c.Peer.ConnectionID),
		CheckInstance("peer.instance_id", c.Peer.InstanceID),
		CheckUUID("peer.incarnation", c.Peer.Incarnation),
	); err != nil {
		return err
	}
	if c.Peer.AgentID != "" {
		if err := CheckAgent("peer.agent_id", c.Peer.AgentID); err != nil {
			return err
		}
	}
	switch {
	case c.IssuedAt.IsZero():
		return Invalid("issued_at", "is required")
	case c.Deadline.IsZero():
		return Invalid("deadline", "is required")
	case !isObject(c.Payload):
		return Invalid("payload", "must be an object")
	default:
		return nil
	}
}

// DecodeCommand reads a command strictly; its payload is left for
// [DecodeRequest].
func DecodeCommand(data []byte) (Command, error) {
	c, err := Decode[Command](data)
	if err != nil {
		return Command{}, fmt.Errorf("command: %w", err)
	}
	if err := c.Validate(); err != nil {
		return Command{}, fmt.Errorf("command: %w", err)
	}
	return c, nil
}

// DecodeRequest reads the payload of a peer's request strictly and validates
// it. The gateway does so before it sends a command, the lease service again:
// neither trusts that the other has the same version. The error is a
// *[Problem] that names the field as the peer spells it.
func DecodeRequest[T interface{ Validate() error }](payload json.RawMessage) (T, *Problem) {
	v, err := Decode[T](payload)
	if err == nil {
		err = v.Validate()
	}
	if err == nil {
		return v, nil
	}
	var problem *Problem
	if !errors.As(err, &problem) {
		problem = Invalid("", cut(err.Error()))
	}
	return v, problem
}

// CheckLeaseRequest refuses a payload that is not one of the given command.
// Commands that peers cannot send are refused too.
func CheckLeaseRequest(command string, payload json.RawMessage) *Problem {
	switch command {
	case CommandRequest:
		return checkRequest[LeaseRequest](payload)
	case CommandRetry:
		return checkRequest[LeaseRetry](payload)
	case CommandResolve:
		return checkRequest[LeaseResolve](payload)
	case CommandClaim:
		return checkRequest[LeaseClaim](payload)
	case CommandFinalize:
		return checkRequest[LeaseFinalize](payload)
	case CommandRollback:
		return checkRequest[LeaseRollback](payload)
	case CommandRenew:
		return checkRequest[LeaseRenew](payload)
	case CommandGet:
		return checkRequest[LeaseGet](payload)
	case CommandList:
		return checkRequest[LeaseList](payload)
	case CommandModerate:
		return checkRequest[LeaseModerate](payload)
	default:
		return &Problem{Code: CodeUnsupportedRequest, Message: "no such lease command"}
	}
}

func checkRequest[T interface{ Validate() error }](payload json.RawMessage) *Problem {
	_, problem := DecodeRequest[T](payload)
	return problem
}

// LeaseTimer is the message of a lease's timer, both while it waits and when
// it fires.
type LeaseTimer struct {
	AgentID string `json:"agent_id"`
	// Epoch numbers the deadlines of one lease. A timer of another epoch than
	// the row's is a deadline that was met or moved.
	Epoch uint64 `json:"epoch"`
}

// Validate refuses a timer that names no row.
func (t LeaseTimer) Validate() error { return CheckAgent("agent_id", t.AgentID) }
