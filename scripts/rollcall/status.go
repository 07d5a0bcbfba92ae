package rollcall

import (
	"cmp"
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"

	"rollcall/subjects"
)

// statusDoc is what people are shown of GET /status.
type statusDoc struct {
	Status     string `json:"status"`
	Version    string `json:"version"`
	InstanceID string `json:"instance_id"`
	UptimeMS   int64  `json:"uptime_ms"`
	NATS       struct {
		Connected     bool     `json:"connected"`
		ServerVersion string   `json:"server_version"`
		Replicas      int      `json:"replicas"`
		Sync          string   `json:"sync"`
		Faults        []string `json:"faults"`
	} `json:"nats"`
	Presence struct {
		Mode        string `json:"mode"`
		LagMS       int64  `json:"lag_ms"`
		Brake       bool   `json:"brake"`
		BrakeReason string `json:"brake_reason"`
		Consumers   int    `json:"consumers"`
	} `json:"presence"`
	Connections int `json:"connections"`
	Tenant      struct {
		TenantID  string                  `json:"tenant_id"`
		Agents    map[subjects.Status]int `json:"agents"`
		Uncertain int                     `json:"uncertain"`
		Instances int                     `json:"instances"`
	} `json:"tenant"`
	Gateways []gatewayStatus `json:"gateways"`
}

type gatewayStatus struct {
	InstanceID  string    `json:"instance_id"`
	Incarnation string    `json:"incarnation"`
	Version     string    `json:"version"`
	LastSeenAt  time.Time `json:"last_seen_at"`
	Connections int       `json:"connections"`
}

// runStatus shows how a gateway is and what it stands on. One that is degraded is
// a failure to scripts: what it says of the fleet may be old.
func runStatus(ctx context.Context, args, env []string, std Streams) error {
	var t target
	var asJSON bool
	s := settingsOf("status", &t)
	s.Bool(&asJSON, "json", false, "print one JSON line: the answer as the gateway gives it")
	g, err := t.open(s, args, env)
	if err != nil {
		return err
	}
	defer g.close()
	var raw json.RawMessage
	if err := g.get(ctx, "/status", nil, &raw); err != nil {
		return err
	}
	var doc statusDoc
	if err := json.Unmarshal(raw, &doc); err != nil {
		return failure(exitFailure, "GET /status: the answer makes no sense: %w", err)
	}
	if asJSON {
		err = jsonLine(std.Out, raw)
	} else {
		err = showStatus(std, doc, g.url())
	}
	if err == nil && doc.Status != "ok" {
		return failure(exitFailure, "%s is %s", g.url(), clean(cmp.Or(doc.Status, "unwell")))
	}
	return err
}

func showStatus(std Streams, d statusDoc, url string) error {
	agents := d.Tenant.Agents
	for _, row := range [][2]string{
		{"gateway", strings.Join([]string{url, clean(d.InstanceID), clean(d.Version), "up " + span(time.Duration(d.UptimeMS)*time.Millisecond)}, "  ")},
		{"status", clean(d.Status)},
		{"nats", natsWords(d)},
		{"presence", presenceWords(d)},
		{"tenant", clean(d.Tenant.TenantID)},
		{"agents", strings.Join([]string{
			"online " + strconv.Itoa(agents[subjects.StatusOnline]), "working " + strconv.Itoa(agents[subjects.StatusWorking]),
			"offline " + strconv.Itoa(agents[subjects.StatusOffline]), "uncertain " + strconv.Itoa(d.Tenant.Uncertain),
		}, "  ")},
		{"instances", strconv.Itoa(d.Tenant.Instances)},
		{"gateways", strconv.Itoa(len(d.Gateways))},
	} {
		if err := line(std.Out, "%-10s %s", row[0], row[1]); err != nil {
			return err
		}
	}
	return nil
}

func natsWords(d statusDoc) string {
	if !d.NATS.Connected {
		return "not connected"
	}
	words := "connected to " + clean(cmp.Or(d.NATS.ServerVersion, "?")) + ", replicas " + strconv.Itoa(d.NATS.Replicas) + ", sync " + clean(cmp.Or(d.NATS.Sync, "?"))
	if len(d.NATS.Faults) > 0 {
		words += "; " + clean(strings.Join(d.NATS.Faults, "; "))
	}
	return words
}

func presenceWords(d statusDoc) string {
	words := clean(cmp.Or(d.Presence.Mode, "?")) + ", lag " + strconv.FormatInt(d.Presence.LagMS, 10) + " ms"
	if d.Presence.Brake {
		words += ", brake engaged: " + clean(cmp.Or(d.Presence.BrakeReason, "?"))
	}
	return words
}
