package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/services/e2e/internal/audit"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// mutant is a build that makes one mistake on purpose, and the invariant whose check
// must find it.
type mutant struct {
	mistake   string
	invariant audit.Invariant
}

// mutants are at least one for each invariant. The first few are tried in every test
// run, all of them with MUTANTS=all.
func mutants() []mutant {
	return []mutant{
		{"presence.ghost-kept", audit.NoGhost},
		{"presence.change-twice", audit.Once},
		{"lease.claim-unannounced", audit.LegalTransition},
		{"lease.fence-stuck", audit.FenceGrows},
		{"presence.change-dropped", audit.NoneLost},
		{"presence.working-unleased", audit.WorkingIfLeased},
		{"presence.change-unfounded", audit.Justified},
		{"presence.change-without-change", audit.OnlyChanges},
		{"presence.change-late", audit.InOrder},
		{"presence.row-stale", audit.RowIsReplay},
		{"presence.lease-kept", audit.LeaseBound},
		{"lease.claim-undone", audit.LegalTransition},
		{"lease.row-differs", audit.LeaseRowIsEvent},
		{"lease.close-ignored", audit.LeaseHeld},
		{"gateway.opening-unstored", audit.Kept},
		{"gateway.other-id", audit.WellFormed},
	}
}

const fewMutants = 4

// mutantBinaries builds the services once with their mistakes, which the environment
// chooses from.
var mutantBinaries = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(binaries, "mutants")
	ctx, cancel := context.WithTimeout(context.Background(), buildTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, "go", "build", "-tags", "mutants", "-o", dir+string(filepath.Separator),
		"./services/gateway/cmd/gateway", "./services/presence/cmd/presence", "./services/lease/cmd/lease", "./scripts/cmd/up", "./scripts/cmd/token")
	cmd.Dir = repository
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the mutants: %w\n%s", err, out)
	}
	return dir, nil
})

// TestMutants holds that the check of the fault suite finds what it is for: processes
// that make one mistake break exactly the rule that is about it, in a stack where
// nothing else is wrong, and the same processes without the mistake break none.
func TestMutants(t *testing.T) {
	t.Parallel()
	dir, err := mutantBinaries()
	require.NoError(t, err)
	tried := append([]mutant{{}}, mutants()...)
	if os.Getenv("MUTANTS") != "all" {
		tried = tried[:1+fewMutants]
	}
	limit := make(chan struct{}, 3)
	for _, m := range tried {
		t.Run(m.mistake, func(t *testing.T) {
			t.Parallel()
			limit <- struct{}{}
			defer func() { <-limit }()
			violations := tryMutant(t, dir, m.mistake)
			if m.mistake == "" {
				require.Empty(t, violations)
				return
			}
			require.True(t, slices.ContainsFunc(violations, func(v audit.Violation) bool { return v.Invariant == m.invariant }), "%v", violations)
			t.Logf("%s: %d violations, among them of %s", m.mistake, len(violations), m.invariant)
		})
	}
}

// TestEveryInvariantHasAMutant holds that no check was forgotten.
func TestEveryInvariantHasAMutant(t *testing.T) {
	t.Parallel()
	found := map[audit.Invariant]bool{}
	for _, m := range mutants() {
		found[m.invariant] = true
	}
	require.Len(t, found, 15)
}

// tryMutant lets an agent live for a while in a stack with a mistake, and checks what
// it left behind once nothing moves any more.
func tryMutant(t *testing.T, dir, mistake string) []audit.Violation {
	t.Helper()
	s := newStack(t, options{
		bin: dir, args: []string{"--gateways", "1", "--presence", "1", "--lease", "1"},
		env: []string{"ROLLCALL_TEST_MUTATION=" + mistake, "ROLLCALL_LOG_LEVEL=info"},
	})
	c := &chaos{s: s, ledger: &ledger{refused: map[string]int{}}}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	connect := func() *client.Conn {
		conn := s.connect(t, s.Gateways[0], token.Grant{Agent: "ada", Scopes: []string{scopeUse}}, client.Options{})
		c.ledger.told(subjects.TypeConnectionOpened, conn.Welcome().ClientID, 0)
		return conn
	}
	first := connect()
	_, _ = first.Beacon(ctx, client.Report{}) // a mutant may not know the connection
	wait(t, 300*time.Millisecond)
	id, _, err := first.RequestLease(ctx, "repo", client.LeaseOptions{Timeout: time.Hour})
	require.NoError(t, err)
	for round := range 2 {
		claim, err := first.ClaimLease(ctx, id)
		require.NoError(t, err)
		if round == 0 {
			require.NoError(t, first.RollbackLease(ctx, claim, "try again"))
		} else {
			require.NoError(t, first.FinalizeLease(ctx, claim, "m"))
		}
	}
	// One lease is claimed and one granted when she is gone.
	for _, claims := range []bool{true, false} {
		id, _, err := first.RequestLease(ctx, "repo", client.LeaseOptions{Timeout: time.Hour})
		require.NoError(t, err)
		if claims {
			_, err = first.ClaimLease(ctx, id)
			require.NoError(t, err)
		}
	}
	cut(first)
	second := connect()
	wait(t, 500*time.Millisecond)
	if id, _, err = second.RequestLease(ctx, "repo", client.LeaseOptions{Timeout: time.Hour}); err == nil { // likewise
		claim, err := second.ClaimLease(ctx, id)
		require.NoError(t, err)
		require.NoError(t, second.FinalizeLease(ctx, claim, "m"))
	}
	_, _ = second.Beacon(ctx, client.Report{})
	return audit.Check(c.still(ctx))
}

// still is the history once nothing has moved for a while.
func (c *chaos) still(ctx context.Context) audit.History {
	t := c.s.t
	t.Helper()
	for before := -1; ; {
		h, err := c.history(ctx)
		require.NoError(t, err)
		if len(h.Messages) == before {
			return h
		}
		before = len(h.Messages)
		wait(t, 2*time.Second)
	}
}
