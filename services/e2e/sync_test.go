package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/shared/client"
	"rollcall/subjects"
)

// TestLeaseOnSyncedServer takes a lease through its life on a NATS server that has
// every write on the disk before it acknowledges, which is killed while the lease is
// claimed. NB: what a machine without power forgets cannot be tried here; that the
// server is set so, and that everything works with it, can.
func TestLeaseOnSyncedServer(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--nats-nodes", "1", "--nats-sync", "always", "--gateways", "1", "--presence", "1", "--lease", "1"}})
	node := s.NATSNodes[0]
	require.True(t, syncsAlways(t, node))
	surveyed := func(service string) bool {
		log, err := os.ReadFile(s.Dir + "/logs/" + service + ".log")
		require.NoError(t, err)
		for line := range strings.SplitSeq(string(log), "\n") {
			var said struct {
				Message, Sync string
				Replicas      int
				ServerVersion string `json:"server_version"`
			}
			if json.Unmarshal([]byte(line), &said) == nil && said.Message == "NATS surveyed" {
				return said.Sync == "always" && said.Replicas == 1 && said.ServerVersion != ""
			}
		}
		return false
	}
	for _, service := range []string{"gateway-0", "presence-0", "lease-0"} {
		require.True(t, surveyed(service), service)
	}
	conn := s.worker(t, s.Gateways[0], "ada")
	claim := claimed(t, conn, "repo")

	again := commandOf(t, node.PID)
	signal(t, node.PID, syscall.SIGKILL)
	back := spawn(t, again, s.logs+"/nats-0.log")
	// Stopped behind the services, as up would do it.
	t.Cleanup(func() { s.stop(); signal(t, back.pid, syscall.SIGTERM); back.exit(t) })
	await(t, "a gateway that is ready", func() bool { return ready(t, s.Gateways[0].URL) })
	await(t, "the end of the lease", func() bool {
		err := conn.FinalizeLease(t.Context(), claim, "m")
		var refusal *client.Error
		// The first time may have counted without an answer.
		return err == nil || errors.As(err, &refusal) && refusal.Code == subjects.CodeLeaseInvalid
	})
	s.awaitLease("ada", claim.LeaseID, subjects.LeaseConsumed)
	_, err := conn.ClaimLease(t.Context(), claim.LeaseID)
	requireInvalid(t, err, claim.LeaseID, "claim", subjects.LeaseConsumed, subjects.LeaseGranted)
	require.NoError(t, conn.Use(t.Context(), "repo", client.LeaseOptions{}, func(context.Context, client.Claim) (string, error) { return "m", nil }))
}

// syncsAlways asks a NATS server how it is set.
func syncsAlways(t *testing.T, node natsNode) bool {
	t.Helper()
	response, err := http.Get(node.MonitorURL + "/varz")
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	var varz struct {
		JetStream struct {
			Config struct {
				SyncAlways bool `json:"sync_always"`
			} `json:"config"`
		} `json:"jetstream"`
	}
	require.NoError(t, json.NewDecoder(response.Body).Decode(&varz))
	return varz.JetStream.Config.SyncAlways
}
