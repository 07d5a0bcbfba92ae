package machine_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/services/presence/internal/machine"
	"rollcall/subjects"
)

// TestConcerns holds that the subject tells of every type what reading the event would.
func TestConcerns(t *testing.T) {
	t.Parallel()
	moving := 0
	for _, subject := range []subjects.Subject{
		subjects.AgentConnection("acme", "ada", "opened"), subjects.AgentConnection("acme", "ada", "closed"), subjects.AgentConnection("acme", "ada", "beacon"),
		subjects.InstanceConnection("acme", "i", "opened"), subjects.AgentPresence("acme", "ada"),
		subjects.AgentLease("acme", "ada", "requested"), subjects.AgentLease("acme", "ada", "granted"), subjects.AgentLease("acme", "ada", "denied"),
		subjects.AgentLease("acme", "ada", "held"), subjects.AgentLease("acme", "ada", "abandoned"), subjects.AgentLease("acme", "ada", "claimed"),
		subjects.AgentLease("acme", "ada", "renewed"), subjects.AgentLease("acme", "ada", "rolled_back"), subjects.AgentLease("acme", "ada", "consumed"),
		subjects.AgentLease("acme", "ada", "expired"),
	} {
		fact, _, err := machine.FactOf(subjects.Event{Type: subject.Type(), Payload: []byte(`{}`)})
		require.Equal(t, fact != nil, machine.Concerns(subject), subject.Type())
		if fact != nil {
			moving++
			continue
		}
		var refusal *subjects.Problem
		require.ErrorAs(t, err, &refusal, subject.Type())
		require.Equal(t, "type", refusal.Details["field"], subject.Type())
	}
	require.Equal(t, 7, moving)
}
