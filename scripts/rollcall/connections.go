package rollcall

import (
	"context"
	"encoding/json"
	"net/url"
	"strconv"
	"time"
)

// connectionRow is a live connection.
type connectionRow struct {
	ConnectionID string    `json:"connection_id"`
	InstanceID   string    `json:"instance_id"`
	AgentID      string    `json:"agent_id"`
	Role         string    `json:"role"`
	GatewayID    string    `json:"gateway_id"`
	ConnectedAt  time.Time `json:"connected_at"`
	IP           string    `json:"ip"`
	Version      string    `json:"version"`
	Mode         string    `json:"mode"`
	Leases       []string  `json:"leases"`
	Uncertain    bool      `json:"uncertain"`
}

// runConnections lists the live connections on all gateways.
func runConnections(ctx context.Context, args, env []string, std Streams) error {
	var (
		t                    target
		agent, role, gateway string
		out                  listing
	)
	s := settingsOf("connections", &t)
	s.String(&agent, "agent", "", "only this agent's connections")
	s.String(&role, "role", "", "only those of a client or a node")
	s.String(&gateway, "gateway", "", "only those on this gateway, by its instance id")
	out.settings(s)
	g, err := t.open(s, args, env)
	if err != nil {
		return err
	}
	defer g.close()
	query := url.Values{"agent_id": {agent}, "role": {role}, "gateway_id": {gateway}}
	var rows []connectionRow
	now, err := out.read(ctx, g, std, "/connections", query, func(raw json.RawMessage) error { return appendRow(&rows, raw) })
	if err != nil || out.asJSON {
		return err
	}
	head := []string{"CONNECTION", "AGENT", "ROLE", "MODE", "VERSION", "IP", "FOR", "LEASES", "GATEWAY", "STATE"}
	return out.table(std, head, cellsOf(rows, func(r connectionRow) []string {
		state := "live"
		if r.Uncertain {
			state = "uncertain"
		}
		return []string{
			dash(r.ConnectionID), dash(r.AgentID), dash(r.Role), dash(r.Mode), dash(r.Version), dash(r.IP), ago(now, r.ConnectedAt),
			strconv.Itoa(len(r.Leases)), clip(dash(r.GatewayID), 16), state,
		}
	}))
}
