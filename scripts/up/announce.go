package up

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"rollcall/subjects"
)

// summary is the JSON line. Its keys are fixed: programs read them.
type summary struct {
	NATSURL        string                   `json:"nats_url"`
	NATSWSURL      string                   `json:"nats_ws_url"`
	NATSMonitorURL string                   `json:"nats_monitor_url"`
	Gateways       []gatewaySummary         `json:"gateways"`
	Presence       []processSummary         `json:"presence"`
	Lease          []processSummary         `json:"lease"`
	Tenants        map[string]tenantSummary `json:"tenants"`
	Dir            string                   `json:"dir"`
	// NATSNodes is there when NATS servers are processes of their own; then
	// NATSURL lists all of them, and the other two URLs are the first one's.
	NATSNodes []nodeSummary `json:"nats_nodes,omitempty"`
}

type nodeSummary struct {
	PID        int    `json:"pid"`
	Name       string `json:"name"`
	URL        string `json:"url"`
	WSURL      string `json:"ws_url"`
	MonitorURL string `json:"monitor_url"`
}

type processSummary struct {
	PID int    `json:"pid"`
	URL string `json:"url"`
}

type gatewaySummary struct {
	PID        int    `json:"pid"`
	URL        string `json:"url"`
	WSURL      string `json:"ws_url"`
	InstanceID string `json:"instance_id"`
}

type tenantSummary struct {
	OperatorToken string `json:"operator_token"`
	// TailCreds is empty where NATS has no authentication, or another's.
	TailCreds string `json:"tail_creds"`
}

// announce says on stdout that everything is ready.
func (s *stack) announce(stdout io.Writer) error {
	sum, err := s.summary()
	if err != nil {
		return err
	}
	if s.config.JSON {
		return json.NewEncoder(stdout).Encode(sum)
	}
	_, err = io.WriteString(stdout, s.screen(sum))
	return err
}

func (s *stack) summary() (summary, error) {
	sum := summary{
		NATSURL: s.natsURL(), Presence: summaries(s.presence), Lease: summaries(s.lease),
		Gateways: []gatewaySummary{}, Tenants: map[string]tenantSummary{}, Dir: s.config.Dir,
	}
	if sum.NATSNodes = s.nodeSummaries(); len(sum.NATSNodes) > 0 {
		sum.NATSWSURL, sum.NATSMonitorURL = sum.NATSNodes[0].WSURL, sum.NATSNodes[0].MonitorURL
	}
	if s.nats != nil {
		sum.NATSWSURL = "ws://" + address(s.ports.websocket)
		sum.NATSMonitorURL = "http://" + address(s.ports.monitor)
	}
	for i, p := range s.gateways {
		id, err := subjects.InstanceID(s.instances[i])
		if err != nil {
			return summary{}, err
		}
		sum.Gateways = append(sum.Gateways, gatewaySummary{PID: p.pid(), URL: p.url, WSURL: socketURL(p), InstanceID: id})
	}
	for tenant, token := range s.tokens {
		tail, err := s.tailCreds(tenant)
		if err != nil {
			return summary{}, err
		}
		sum.Tenants[tenant] = tenantSummary{OperatorToken: token, TailCreds: tail}
	}
	return sum, nil
}

func summaries(processes []*process) []processSummary {
	out := make([]processSummary, 0, len(processes))
	for _, p := range processes {
		out = append(out, processSummary{PID: p.pid(), URL: p.url})
	}
	return out
}

// socketURL is where a gateway takes sockets.
func socketURL(p *process) string { return "ws" + strings.TrimPrefix(p.url, "http") + "/ws" }

// screen is the summary for people. Tokens stay in their files.
func (s *stack) screen(sum summary) string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("rollcall is up. Ctrl-C stops it.\n")
	if len(sum.NATSNodes) == 0 {
		line("  %-12s %s", "nats", sum.NATSURL)
	}
	if s.nats != nil {
		line("  %-12s %s   monitor %s", "", sum.NATSWSURL, sum.NATSMonitorURL)
	}
	for _, n := range sum.NATSNodes {
		line("  %-12s %s   pid %d   monitor %s", n.Name, n.URL, n.PID, n.MonitorURL)
	}
	for _, group := range [][]*process{s.gateways, s.presence, s.lease} {
		for _, p := range group {
			line("  %-12s %s   pid %d", p.name, p.url, p.pid())
		}
	}
	if s.config.Agents > 0 {
		line("  %-12s %d in %s", "demo agents", s.config.Agents, strings.Join(s.config.Tenants, ", "))
	}
	line("  %-12s %s\n", "directory", sum.Dir)

	tenant := s.config.Tenants[0]
	line("Follow what happens:\n")
	cli := "XDG_CONFIG_HOME=" + quote(s.cliHome()) + " nats --context "
	line("  %s%s sub 'tenant.%s.>'", cli, s.contextOf(tenant), tenant)
	line("  %s%s kv watch PRESENCE", cli, adminContext)
	for _, tenant := range s.config.Tenants {
		if len(sum.Gateways) > 0 {
			line(`  curl -H "Authorization: Bearer $(cat %s)" %s/presence`, quote(s.tokenFile(tenant)), sum.Gateways[0].URL)
		}
	}
	line("\nA token for an agent of your own:\n")
	line("  bin/token --dir %s --tenant %s --agent a1 --scope lease.use\n", quote(sum.Dir), tenant)
	return b.String()
}

// quote makes a path one word for a shell.
func quote(path string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-", r)
	}
	if strings.ContainsFunc(path, func(r rune) bool { return !plain(r) }) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}
