package e2e

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/bus"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// Scopes of the peers of lease tests.
const (
	scopeUse      = "lease.use"
	scopeModerate = "lease.moderate"
	scopeOperate  = "operator.write"
)

// leaseStack starts two of everything.
func leaseStack(t *testing.T, env ...string) *stack {
	t.Helper()
	return newStack(t, options{args: []string{"--gateways", "2", "--presence", "2", "--lease", "2"}, env: env})
}

// worker connects an agent of tenant acme that may use leases.
func (s *stack) worker(t *testing.T, g gateway, agent string) *client.Conn {
	t.Helper()
	return s.connect(t, g, token.Grant{Agent: agent, Scopes: []string{scopeUse}}, client.Options{})
}

// operator connects somebody who may resolve any lease.
func (s *stack) operator(t *testing.T, g gateway) *client.Conn {
	t.Helper()
	return s.connect(t, g, token.Grant{Scopes: []string{scopeOperate}}, client.Options{})
}

// silentModerator connects a moderator that never gives a verdict.
func (s *stack) silentModerator(t *testing.T, g gateway, prefix string) *client.Conn {
	t.Helper()
	conn := s.connect(t, g, token.Grant{Scopes: []string{scopeModerate}}, client.Options{
		OnRequest: func(ctx context.Context, _ client.ServerRequest) (any, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		},
	})
	require.NoError(t, conn.Moderate(t.Context(), prefix))
	return conn
}

// granted asks for a lease that the policy grants.
func granted(t *testing.T, conn *client.Conn, resource string, o client.LeaseOptions) string {
	t.Helper()
	id, state, err := conn.RequestLease(t.Context(), resource, o)
	require.NoError(t, err)
	require.Equal(t, subjects.LeaseGranted, state)
	return id
}

// claimed asks for a lease and claims it.
func claimed(t *testing.T, conn *client.Conn, resource string) client.Claim {
	t.Helper()
	claim, err := conn.ClaimLease(t.Context(), granted(t, conn, resource, client.LeaseOptions{}))
	require.NoError(t, err)
	require.Equal(t, subjects.LeaseClaimed, claim.State)
	return claim
}

// resolve gives a verdict.
func resolve(ctx context.Context, conn *client.Conn, agent, lease, verdict string) (client.Lease, error) {
	var answer struct {
		Lease client.Lease `json:"lease"`
	}
	err := conn.Request(ctx, "lease.resolve", map[string]any{
		"lease_id": lease, "agent_id": agent, "verdict": verdict,
	}, &answer)
	return answer.Lease, err
}

// requireRefused sees that a request was refused with the given code, and
// returns the details.
func requireRefused(t *testing.T, err error, code string) map[string]any {
	t.Helper()
	var refusal *client.Error
	require.ErrorAs(t, err, &refusal)
	require.Equal(t, code, refusal.Code, "%v", refusal)
	return refusal.Details
}

// requireInvalid sees that a refusal says all it must about a lease whose state
// does not allow the operation.
func requireInvalid(t *testing.T, err error, lease, operation, state string, expected ...any) {
	t.Helper()
	details := requireRefused(t, err, subjects.CodeLeaseInvalid)
	require.Equal(t, map[string]any{
		"lease_id": lease, "operation": operation, "state": state, "expected": expected,
	}, details)
}

// requireStale sees that a refusal names the wrong fence.
func requireStale(t *testing.T, err error, lease, operation, state string) {
	t.Helper()
	details := requireRefused(t, err, subjects.CodeLeaseInvalid)
	require.Equal(t, map[string]any{
		"lease_id": lease, "operation": operation, "state": state,
		"expected": []any{subjects.LeaseClaimed}, "fence": "stale",
	}, details)
}

// lease reads the row of a lease of tenant acme.
func (s *stack) lease(agent, id string) subjects.LeaseRow {
	s.t.Helper()
	var row subjects.LeaseRow
	_, exists := s.read(subjects.BucketLeases, subjects.LeaseKey(acme, agent, id), &row)
	require.True(s.t, exists, "row of lease %s of %s", id, agent)
	return row
}

// awaitLease waits for a state of a lease and returns its row.
func (s *stack) awaitLease(agent, id, state string) subjects.LeaseRow {
	s.t.Helper()
	var row subjects.LeaseRow
	await(s.t, fmt.Sprintf("lease %s %s", id, state), func() bool {
		row = s.lease(agent, id)
		return row.State == state
	})
	return row
}

// leaseRows reads the rows of all leases of tenant acme by id.
func (s *stack) leaseRows() map[string]subjects.LeaseRow {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	rows, faults := map[string]subjects.LeaseRow{}, []error{}
	require.NoError(s.t, s.bucket(subjects.BucketLeases).Watch(ctx, acme+".>", func(u bus.Update) {
		if u.Synced {
			cancel()
			return
		}
		if _, _, _, err := subjects.ParseLeaseKey(u.Key); err != nil || u.Op != bus.Put {
			return
		}
		var row subjects.LeaseRow
		if err := json.Unmarshal(u.Value, &row); err != nil {
			faults = append(faults, err)
		}
		rows[row.LeaseID] = row
	}))
	require.Empty(s.t, faults)
	return rows
}

// awaitIdle waits until the lease service has handled everything there is, and
// the journal has read everything there is.
func (s *stack) awaitIdle(j *journal) {
	s.t.Helper()
	js := s.conn().JS()
	for stream, name := range map[string]string{subjects.StreamCommands: "lease-commands", subjects.StreamEvents: "lease-closes"} {
		await(s.t, "nothing left for "+name, func() bool {
			consumer, err := js.PushConsumer(s.t.Context(), stream, name)
			require.NoError(s.t, err)
			info := consumer.CachedInfo()
			return info.NumPending == 0 && info.NumAckPending == 0
		})
	}
	stream, err := js.Stream(s.t.Context(), subjects.StreamEvents)
	require.NoError(s.t, err)
	last := stream.CachedInfo().State.LastSeq
	await(s.t, "journal up to date", func() bool {
		j.mu.Lock()
		defer j.mu.Unlock()
		return len(j.all) > 0 && j.all[len(j.all)-1].seq >= last
	})
}

// policies sets the lease policies of tenant acme and waits until both lease
// processes say what became of them, which must be said.
func (s *stack) policies(t *testing.T, settings, said string) {
	t.Helper()
	kv, err := s.conn().JS().KeyValue(t.Context(), subjects.BucketSettings)
	require.NoError(t, err)
	revision, err := kv.Put(t.Context(), subjects.SettingsKey(acme, "lease"), []byte(settings))
	require.NoError(t, err)
	for i := range s.Lease {
		log := filepath.Join(s.Dir, "logs", fmt.Sprintf("lease-%d.log", i))
		await(t, fmt.Sprintf("%s: %s", log, said), func() bool { return logged(t, log, said, revision) })
	}
}

// logged searches a log for a message about a revision of tenant acme's lease
// settings.
func logged(t *testing.T, log, message string, revision uint64) bool {
	t.Helper()
	file, err := os.Open(log)
	require.NoError(t, err)
	defer func() { _ = file.Close() }()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var line struct {
			Message  string `json:"message"`
			Key      string `json:"key"`
			Revision uint64 `json:"revision"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Key == subjects.SettingsKey(acme, "lease") &&
			line.Revision == revision && strings.HasPrefix(line.Message, message) {
			return true
		}
	}
	return false
}

// What a lease process says of a setting.
const (
	settingTaken   = "setting taken"
	settingRefused = "setting refused"
)
