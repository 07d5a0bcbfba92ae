package e2e

import (
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// TestAlertsNameMetrics holds that every metric in the rules is one that some process
// has: an alert on anything else never fires.
func TestAlertsNameMetrics(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile(filepath.Join(repository, "deploy", "alerts.yaml"))
	require.NoError(t, err)
	named := regexp.MustCompile(`rollcall_[a-z_]+`).FindAllString(string(rules), -1)
	require.Greater(t, len(named), 6)

	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"}, env: []string{"ROLLCALL_PRESENCE_SWEEP=1s"}})
	conn := s.agent(t, s.Gateways[0], "ada", nil)
	metrics := func() string {
		var all strings.Builder
		for _, url := range []string{s.Gateways[0].URL, s.Presence[0].URL, s.Lease[0].URL} {
			response, err := http.Get(url + "/metrics")
			require.NoError(t, err)
			text, err := io.ReadAll(response.Body)
			require.NoError(t, err)
			require.NoError(t, response.Body.Close())
			all.Write(text)
		}
		return all.String()
	}
	s.journal().awaitStatuses("ada", subjects.StatusOnline)
	all := metrics()
	for _, name := range named {
		require.Regexp(t, `(?m)^`+name+`[{ ]`, all)
	}
	await(t, "one consumer for one agent", func() bool {
		return strings.Contains(metrics(), "\nrollcall_presence_consumers_per_agent 1\n")
	})
	cut(conn)
}
