// Package policy turns a tenant's settings into what they mean for one
// resource. It is pure.
package policy

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"rollcall/services/lease/internal/machine"
	"rollcall/subjects"
)

// What holds where a tenant's settings say nothing.
const (
	DefaultLeaseTimeout = time.Minute
	DefaultClaimTimeout = 15 * time.Minute
	DefaultHookTimeout  = 10 * time.Second
)

// Of returns the policy of a resource: that of the longest prefix, or else
// everything is granted. The moderator of a hook is left to be found.
func Of(settings subjects.LeaseSettings, resource string) machine.Policy {
	best := subjects.LeasePolicy{Policy: subjects.PolicyGrant}
	found := false
	for _, p := range settings.Policies {
		if strings.HasPrefix(resource, p.Prefix) && (!found || len(p.Prefix) > len(best.Prefix)) {
			best, found = p, true
		}
	}
	return machine.Policy{
		Decision:     best.Policy,
		LeaseTimeout: orDefault(best.LeaseTimeoutMS, DefaultLeaseTimeout),
		ClaimTimeout: orDefault(best.ClaimTimeoutMS, DefaultClaimTimeout),
		HookTimeout:  orDefault(best.HookTimeoutMS, DefaultHookTimeout),
		Reason:       best.Reason,
	}
}

func orDefault(ms *int64, preset time.Duration) time.Duration {
	if ms == nil {
		return preset
	}
	return time.Duration(*ms) * time.Millisecond
}

// Moderator picks who is asked about a resource: the one with the longest
// prefix that covers it, of several the one that has moderated for longest; nil
// when nobody covers it. All processes pick the same one from the same rows.
func Moderator(moderators []subjects.ModeratorRow, resource string) *machine.Address {
	covering := slices.DeleteFunc(slices.Clone(moderators), func(m subjects.ModeratorRow) bool {
		return !machine.Covers(m.Resources, resource)
	})
	if len(covering) == 0 {
		return nil
	}
	first := slices.MinFunc(covering, func(a, b subjects.ModeratorRow) int {
		return cmp.Or(
			cmp.Compare(longest(b.Resources, resource), longest(a.Resources, resource)),
			a.Since.Compare(b.Since),
			strings.Compare(a.ConnectionID, b.ConnectionID),
		)
	})
	return &machine.Address{ConnectionID: first.ConnectionID, Incarnation: first.Incarnation}
}

// longest is the length of the longest prefix that covers a resource.
func longest(prefixes []string, resource string) int {
	most := 0
	for _, prefix := range prefixes {
		if strings.HasPrefix(resource, prefix) {
			most = max(most, len(prefix))
		}
	}
	return most
}
