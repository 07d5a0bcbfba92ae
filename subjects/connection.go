package subjects

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"
	"unicode"
)

// Roles of an instance.
const (
	RoleGateway = "gateway"
	RoleClient  = "client"
	RoleNode    = "node"
)

// Reasons of connection.closed.
const (
	ClosedByClient         = "client_closed"
	ClosedHeartbeatTimeout = "heartbeat_timeout"
	ClosedGatewayDraining  = "gateway_draining"
	ClosedGatewayLost      = "gateway_lost"
	ClosedSlowConsumer     = "slow_consumer"
	ClosedTokenExpired     = "token_expired"
	ClosedTokenRevoked     = "token_revoked"
	ClosedProtocolError    = "protocol_error"
)

// Bounds of what a peer says of itself.
const (
	maxText         = 256
	maxMetadata     = 8 << 10
	maxCapabilities = 64
)

// Capability is something a peer can do.
type Capability struct {
	ID      string `json:"id" schema:"text,least=1"`
	Version string `json:"version,omitempty" schema:"text"`
}

// ConnectionOpened is the payload of connection.opened: a socket was
// authenticated. It is published before the peer is told so.
type ConnectionOpened struct {
	ConnectionID string `json:"connection_id" schema:"uuid"`
	InstanceID   string `json:"instance_id" schema:"instance"`
	// GatewayID and Incarnation name the gateway process that owns the
	// connection.
	GatewayID   string `json:"gateway_id" schema:"instance"`
	Incarnation string `json:"incarnation" schema:"uuid"`
	Role        string `json:"role" schema:"role"`
	// IP is the address the gateway observed.
	IP           string       `json:"ip" schema:"ip"`
	Host         string       `json:"host,omitempty" schema:"text"`
	Version      string       `json:"version,omitempty" schema:"text"`
	Mode         string       `json:"mode,omitempty" schema:"mode"`
	Capabilities []Capability `json:"capabilities,omitempty" schema:"most=64"`
}

// Validate refuses a payload that would make a row nobody can own or close.
func (p ConnectionOpened) Validate() error {
	return first(
		CheckUUID("connection_id", p.ConnectionID),
		CheckInstance("instance_id", p.InstanceID),
		CheckInstance("gateway_id", p.GatewayID),
		CheckUUID("incarnation", p.Incarnation),
		checkRole(p.Role),
		checkIP("ip", p.IP),
		CheckText("host", p.Host),
		CheckText("version", p.Version),
		CheckMode("mode", p.Mode),
		CheckCapabilities("capabilities", p.Capabilities),
	)
}

// ConnectionClosed is the payload of connection.closed.
type ConnectionClosed struct {
	ConnectionID string `json:"connection_id" schema:"uuid"`
	InstanceID   string `json:"instance_id" schema:"instance"`
	Reason       string `json:"reason" schema:"closed_reason"`
	// Code is the WebSocket close code, where one was sent or received.
	Code int `json:"code,omitempty"`
}

// Validate refuses unknown reasons and malformed ids.
func (p ConnectionClosed) Validate() error {
	return first(
		CheckUUID("connection_id", p.ConnectionID),
		CheckInstance("instance_id", p.InstanceID),
		checkClosedReason(p.Reason),
	)
}

// Reported is what a peer says of itself in a beacon. Host and IP are kept
// apart from what the gateway observed.
type Reported struct {
	Host    string `json:"host,omitempty" schema:"text"`
	IP      string `json:"ip,omitempty" schema:"ip"`
	Version string `json:"version,omitempty" schema:"text"`
	Mode    string `json:"mode,omitempty" schema:"mode"`
}

// ConnectionBeacon is the payload of connection.beacon: a peer's own word on
// how it is. Absent keys leave the row's values as they are.
type ConnectionBeacon struct {
	ConnectionID     string          `json:"connection_id" schema:"uuid"`
	InstanceID       string          `json:"instance_id" schema:"instance"`
	Reported         Reported        `json:"reported"`
	LastInputSeconds *int64          `json:"last_input_seconds,omitempty" schema:"whole,least=0"`
	Metadata         json.RawMessage `json:"metadata,omitempty" schema:"object"`
}

// Validate refuses malformed ids and values out of bounds.
func (p ConnectionBeacon) Validate() error {
	return first(
		CheckUUID("connection_id", p.ConnectionID),
		CheckInstance("instance_id", p.InstanceID),
		within("reported", CheckReported(p.Reported)),
		CheckLastInput(p.LastInputSeconds),
		CheckMetadata("metadata", p.Metadata),
	)
}

// CheckReported refuses what a peer may not say of itself; fields are named as
// in presence.beacon.
func CheckReported(r Reported) error {
	return first(
		CheckText("host", r.Host),
		checkReportedIP(r.IP),
		CheckText("version", r.Version),
		CheckMode("mode", r.Mode),
	)
}

// CheckLastInput refuses a negative number of seconds.
func CheckLastInput(seconds *int64) error {
	if seconds != nil && *seconds < 0 {
		return Invalid("last_input_seconds", "must be 0 or more")
	}
	return nil
}

// CheckText refuses free text over 256 bytes or with control characters. Empty
// is absent.
func CheckText(field, s string) error {
	if len(s) > maxText {
		return Invalid(field, "must be at most 256 bytes")
	}
	if strings.ContainsFunc(s, unicode.IsControl) {
		return Invalid(field, "must not hold control characters")
	}
	return nil
}

// Modes returns the values mode may have.
func Modes() []string {
	return []string{"ui", "web", "cli", "node", "backend", "probe", "test", "desktop", "browser-node"}
}

// CheckMode refuses a mode outside [Modes]. Empty is absent.
func CheckMode(field, s string) error {
	if s != "" && !slices.Contains(Modes(), s) {
		return Invalid(field, "must be one of "+strings.Join(Modes(), ", "))
	}
	return nil
}

// CheckMetadata refuses what is not a JSON object of at most 8 KiB.
func CheckMetadata(field string, raw json.RawMessage) error {
	switch {
	case len(raw) == 0:
		return nil
	case len(raw) > maxMetadata:
		return Invalid(field, "must be at most 8 KiB")
	case !isObject(raw):
		return Invalid(field, "must be an object")
	default:
		return nil
	}
}

// CheckCapabilities refuses more than 64 of them, and ids or versions that are
// empty or too long.
func CheckCapabilities(field string, cs []Capability) error {
	if len(cs) > maxCapabilities {
		return Invalid(field, "must hold at most 64")
	}
	for i, c := range cs {
		place := indexed(field, i)
		if c.ID == "" {
			return Invalid(place+".id", "is required")
		}
		if err := first(CheckText(place+".id", c.ID), CheckText(place+".version", c.Version)); err != nil {
			return err
		}
	}
	return nil
}

func checkRole(role string) error {
	switch role {
	case RoleGateway, RoleClient, RoleNode:
		return nil
	default:
		return Invalid("role", "must be gateway, client or node")
	}
}

func checkIP(field, s string) error {
	// A zone ("fe80::1%eth0") may be any text of any length.
	if err := CheckText(field, s); err != nil {
		return err
	}
	if _, err := netip.ParseAddr(s); err != nil {
		return Invalid(field, "must be an IP address")
	}
	return nil
}

func checkReportedIP(s string) error {
	if s == "" {
		return nil
	}
	return checkIP("ip", s)
}

// ClosedReasons returns the values that the reason of connection.closed may
// have.
func ClosedReasons() []string {
	return []string{
		ClosedByClient, ClosedHeartbeatTimeout, ClosedGatewayDraining, ClosedGatewayLost,
		ClosedSlowConsumer, ClosedTokenExpired, ClosedTokenRevoked, ClosedProtocolError,
	}
}

func checkClosedReason(reason string) error {
	if !slices.Contains(ClosedReasons(), reason) {
		return Invalid("reason", "must be one of connection.closed's")
	}
	return nil
}

// first returns the first error that is not nil.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
