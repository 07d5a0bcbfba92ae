package policy_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/services/lease/internal/machine"
	"rollcall/services/lease/internal/policy"
	"rollcall/subjects"
)

func TestLongestPrefixWins(t *testing.T) {
	t.Parallel()
	settings := subjects.LeaseSettings{Policies: []subjects.LeasePolicy{
		{Prefix: "repo/", Policy: subjects.PolicyHook, HookTimeoutMS: new(int64(2000))},
		{Prefix: "", Policy: subjects.PolicyDeny, Reason: "closed"},
		{Prefix: "repo/acme/", Policy: subjects.PolicyGrant, LeaseTimeoutMS: new(int64(500)), ClaimTimeoutMS: new(int64(0))},
	}}
	for resource, want := range map[string]machine.Policy{
		"shell": {
			Decision: subjects.PolicyDeny, Reason: "closed", LeaseTimeout: time.Minute,
			ClaimTimeout: 15 * time.Minute, HookTimeout: 10 * time.Second,
		},
		"repo/other": {
			Decision: subjects.PolicyHook, LeaseTimeout: time.Minute,
			ClaimTimeout: 15 * time.Minute, HookTimeout: 2 * time.Second,
		},
		"repo/acme/site": {
			Decision: subjects.PolicyGrant, LeaseTimeout: 500 * time.Millisecond, HookTimeout: 10 * time.Second,
		},
	} {
		require.Equal(t, want, policy.Of(settings, resource), resource)
	}
}

func TestNoSettingsGrant(t *testing.T) {
	t.Parallel()
	require.Equal(t, machine.Policy{
		Decision: subjects.PolicyGrant, LeaseTimeout: policy.DefaultLeaseTimeout,
		ClaimTimeout: policy.DefaultClaimTimeout, HookTimeout: policy.DefaultHookTimeout,
	}, policy.Of(subjects.LeaseSettings{}, "anything"))
}

func TestModeratorOfAResource(t *testing.T) {
	t.Parallel()
	moderator := func(name string, since int, prefixes ...string) subjects.ModeratorRow {
		return subjects.ModeratorRow{
			ConnectionID: name, Incarnation: "g-" + name, Resources: prefixes, Since: time.Unix(int64(since), 0),
		}
	}
	all := []subjects.ModeratorRow{
		moderator("any", 1, ""), moderator("young", 9, "repo/"), moderator("old", 5, "shell", "repo/"),
		moderator("acme", 7, "repo/acme"),
	}
	for resource, want := range map[string]string{"x": "any", "repo/x": "old", "shell/1": "old", "repo/acme/site": "acme"} {
		require.Equal(t, &machine.Address{ConnectionID: want, Incarnation: "g-" + want}, policy.Moderator(all, resource), resource)
	}
	require.Nil(t, policy.Moderator(all[1:], "x"))
	require.Nil(t, policy.Moderator(nil, "x"))
	require.Equal(t, "any", all[0].ConnectionID, "the rows given stay as they are")
}
