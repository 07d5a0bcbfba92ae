package e2e

import (
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestAlertsNameMetrics holds that every metric in the rules is one that some process
// has: an alert on anything else never fires.
func TestAlertsNameMetrics(t *testing.T) {
	t.Parallel()
	exprs := alertExprs(t)
	s := newStack(t, options{
		args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"},
		env:  []string{"ROLLCALL_PRESENCE_SWEEP=1s", "ROLLCALL_GATEWAY_PUBLISH_TIMEOUT=1s"},
	})
	processes := map[string]string{"gateway": s.Gateways[0].URL, "presence": s.Presence[0].URL, "lease": s.Lease[0].URL}
	checkAbsences(t, exprs, processes)

	conn := s.worker(t, s.Gateways[0], "ada")
	s.journal().awaitStatuses("ada", subjects.StatusOnline)
	await(t, "one consumer for one agent", func() bool {
		return metricsOf(t, processes["presence"])["rollcall_presence_consumers_per_agent"] == 1
	})
	all := map[string]string{} // a series of each metric
	for _, url := range processes {
		for series := range metricsOf(t, url) {
			name, _, _ := strings.Cut(series, "{")
			all[name] = series
		}
	}
	for _, expr := range exprs {
		for _, selector := range selectors(expr) {
			if selector.metric == "up" { // Prometheus's own
				continue
			}
			require.Contains(t, all, selector.metric, expr)
			for _, label := range selector.labels {
				require.Regexp(t, `[{,]`+label+`="`, all[selector.metric], expr)
			}
		}
	}
	s.checkUnavailable(t, exprs, conn)
	cut(conn)
}

// checkAbsences holds that there is an alert for each service of which no process
// answers. What it misses is exposed before anything has happened, by that service
// alone, and without labels: absent of a series that comes later fires at each start.
func checkAbsences(t *testing.T, exprs []string, processes map[string]string) {
	t.Helper()
	missed := map[string]string{}
	for _, expr := range exprs {
		for _, found := range regexp.MustCompile(`\babsent\((\w+)\)`).FindAllStringSubmatch(expr, -1) {
			for service := range processes {
				if strings.HasPrefix(found[1], "rollcall_"+service+"_") {
					missed[service] = found[1]
				}
			}
		}
	}
	for service := range processes {
		require.Contains(t, missed, service, "no alert when all processes of it are gone")
		for other, url := range processes {
			_, has := metricsOf(t, url)[missed[service]]
			require.Equal(t, other == service, has, "%s of %s", missed[service], other)
		}
	}
}

// checkUnavailable holds that a lease request which nobody answers is counted where the
// rules look.
func (s *stack) checkUnavailable(t *testing.T, exprs []string, conn *client.Conn) {
	t.Helper()
	const outcome = `rollcall_gateway_requests_total{outcome="unavailable"`
	require.Contains(t, strings.Join(exprs, "\n"), outcome)
	s.kill(s.Lease[0].PID)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	_, _, err := conn.RequestLease(ctx, "repo", client.LeaseOptions{})
	var refusal *client.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, client.CodeUnavailable, refusal.Code)
	require.InDelta(t, 1, metricsOf(t, s.Gateways[0].URL)[outcome+`,type="lease.request"}`], 0)
}

// alertExprs are the expressions of the rules, each of which is one line.
func alertExprs(t *testing.T) []string {
	t.Helper()
	rules, err := os.ReadFile(filepath.Join(repository, "deploy", "alerts.yaml"))
	require.NoError(t, err)
	var exprs []string
	for _, found := range regexp.MustCompile(`(?m)^ +expr: (\S.{3,})$`).FindAllStringSubmatch(string(rules), -1) {
		exprs = append(exprs, found[1])
	}
	require.Len(t, exprs, strings.Count(string(rules), "- alert: "))
	return exprs
}

// selector is a metric that an expression names, with the labels that it is asked for.
type selector struct {
	metric string
	labels []string
}

// selectors finds whatever in an expression is no function, no keyword, no label that is
// grouped or matched by, no number and no duration.
func selectors(expr string) []selector {
	grouping := regexp.MustCompile(`\b(by|without|on|ignoring|group_left|group_right) ?\([^)]*\)|\[[^]]*\]`)
	named := regexp.MustCompile(`([a-zA-Z_:][\w:]*)(\{[^}]*\}|\s*\()?`)
	var all []selector
	for _, found := range named.FindAllStringSubmatch(grouping.ReplaceAllString(expr, " "), -1) {
		switch name, behind := found[1], strings.TrimSpace(found[2]); {
		case behind == "(", name == "or", name == "and", name == "unless", name == "bool":
		default:
			s := selector{metric: name}
			for _, label := range regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`).FindAllStringSubmatch(behind, -1) {
				s.labels = append(s.labels, label[1])
			}
			all = append(all, s)
		}
	}
	return all
}

// TestSelectors holds that the check of the rules sees what they name.
func TestSelectors(t *testing.T) {
	t.Parallel()
	require.Equal(t, []selector{{"a_total", []string{"x", "y"}}, {"b", nil}, {"up", nil}, {"c:d", nil}},
		selectors(`sum by (le, z) (rate(a_total{x="1", y!~"e|f"}[5m])) > 0.1 or absent(b) or up == 0 and on (job) last_over_time(c:d[1h])`))
}
