package client

import (
	"context"
	"encoding/json"
	"fmt"
	"time"
)

// Agent is what presence says of an agent. Status is working, online or
// offline; an agent that nobody has heard of is offline.
type Agent struct {
	AgentID     string       `json:"agent_id"`
	Status      string       `json:"status"`
	Since       time.Time    `json:"since"`
	Reason      string       `json:"reason"`
	Connections []Connection `json:"connections"`
	LastSeenAt  time.Time    `json:"last_seen_at"`
}

// Connection is one live connection of an agent.
type Connection struct {
	ConnectionID string    `json:"connection_id"`
	InstanceID   string    `json:"instance_id"`
	GatewayID    string    `json:"gateway_id"`
	Incarnation  string    `json:"incarnation"`
	ConnectedAt  time.Time `json:"connected_at"`
	// Leases are the ids of the leases it holds.
	Leases []string `json:"leases"`
}

// Instance is what presence says of a device.
type Instance struct {
	InstanceID       string          `json:"instance_id"`
	Role             string          `json:"role"`
	Host             string          `json:"host"`
	IP               string          `json:"ip"`
	Version          string          `json:"version"`
	Mode             string          `json:"mode"`
	AgentID          string          `json:"agent_id"`
	ConnectionID     string          `json:"connection_id"`
	ConnectedAt      time.Time       `json:"connected_at"`
	LastSeenAt       time.Time       `json:"last_seen_at"`
	ExpiresAt        time.Time       `json:"expires_at"`
	LastInputSeconds *int64          `json:"last_input_seconds"`
	Reason           string          `json:"reason"`
	Metadata         json.RawMessage `json:"metadata"`
	Reported         struct {
		Host string `json:"host"`
		IP   string `json:"ip"`
	} `json:"reported"`
}

// Query says what to list. The zero value is the first page of all agents.
type Query struct {
	// Kind is agents (also when empty) or instances.
	Kind   string `json:"kind,omitempty"`
	Status string `json:"status,omitempty"`
	Role   string `json:"role,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	// Limit is 1 to 1000, 200 when 0.
	Limit int `json:"limit,omitempty"`
	// After is the Next of the page before.
	After string `json:"after,omitempty"`
}

// Page is one page of a listing.
type Page struct {
	Items []json.RawMessage `json:"items"`
	Total int               `json:"total"`
	// Next is empty on the last page.
	Next   string `json:"next"`
	Cursor string `json:"cursor"`
}

// Agents decodes the items of a page of agents.
func (p Page) Agents() ([]Agent, error) { return items[Agent](p.Items) }

// Instances decodes the items of a page of instances.
func (p Page) Instances() ([]Instance, error) { return items[Instance](p.Items) }

func items[T any](raw []json.RawMessage) ([]T, error) {
	out := make([]T, len(raw))
	for i := range raw {
		if err := json.Unmarshal(raw[i], &out[i]); err != nil {
			return nil, fmt.Errorf("decode item %d: %w", i, err)
		}
	}
	return out, nil
}

// List asks for one page of agents or instances (presence.list).
func (c *Conn) List(ctx context.Context, q Query) (Page, error) {
	var page Page
	err := c.Request(ctx, "presence.list", q, &page)
	return page, err
}

// Selection names the agents of a subscription: some, or all of them.
type Selection struct {
	AgentIDs []string `json:"agent_ids,omitempty"`
	All      bool     `json:"all,omitempty"`
}

// Snapshot is how the selected agents are at Cursor. Every later change arrives
// as an event presence.changed.
type Snapshot struct {
	Statuses []Agent `json:"statuses"`
	Cursor   string  `json:"cursor"`
}

// Subscribe asks for the status of agents, now and from now on
// (presence.subscribe).
func (c *Conn) Subscribe(ctx context.Context, s Selection) (Snapshot, error) {
	var snapshot Snapshot
	err := c.Request(ctx, "presence.subscribe", s, &snapshot)
	return snapshot, err
}

// Unsubscribe ends what Subscribe began (presence.unsubscribe).
func (c *Conn) Unsubscribe(ctx context.Context, s Selection) error {
	return c.Request(ctx, "presence.unsubscribe", s, nil)
}

// Report is a peer's own word on how it is. What is left out keeps its value.
type Report struct {
	Host             string          `json:"host,omitempty"`
	IP               string          `json:"ip,omitempty"`
	Version          string          `json:"version,omitempty"`
	Mode             string          `json:"mode,omitempty"`
	LastInputSeconds *int64          `json:"last_input_seconds,omitempty"`
	Metadata         json.RawMessage `json:"metadata,omitempty"`
}

// Beacon tells how this peer is (presence.beacon) and returns its row.
func (c *Conn) Beacon(ctx context.Context, r Report) (Instance, error) {
	var result struct {
		Entry Instance `json:"entry"`
	}
	err := c.Request(ctx, "presence.beacon", r, &result)
	return result.Entry, err
}
