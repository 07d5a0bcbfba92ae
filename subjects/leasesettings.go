package subjects

import "fmt"

// Policies on leases.
const (
	PolicyGrant = "grant"
	PolicyDeny  = "deny"
	// PolicyHook asks a moderator.
	PolicyHook = "hook"
)

// maxPolicies bounds a tenant's policies.
const maxPolicies = 1000

// LeaseSettings is the value of <tenant_id>.lease in SETTINGS.
type LeaseSettings struct {
	Policies []LeasePolicy `json:"policies,omitempty"`
}

// LeasePolicy says what becomes of requests for the resources that start with
// Prefix; the empty prefix is every resource. The longest prefix wins.
type LeasePolicy struct {
	Prefix string `json:"prefix"`
	Policy string `json:"policy"`
	// LeaseTimeoutMS is how long a granted lease stays claimable unless the
	// request says otherwise.
	LeaseTimeoutMS *int64 `json:"lease_timeout_ms,omitempty"`
	// ClaimTimeoutMS is how long a claim may last; 0 is for ever.
	ClaimTimeoutMS *int64 `json:"claim_timeout_ms,omitempty"`
	// HookTimeoutMS is how long a moderator has to answer.
	HookTimeoutMS *int64 `json:"hook_timeout_ms,omitempty"`
	// Reason is given with the verdict.
	Reason string `json:"reason,omitempty"`
}

// Validate refuses what could not be applied, and two policies for one prefix.
func (s LeaseSettings) Validate() error {
	if len(s.Policies) > maxPolicies {
		return Invalid("policies", "must hold at most 1000")
	}
	seen := map[string]bool{}
	for i, p := range s.Policies {
		field := fmt.Sprintf("policies[%d]", i)
		if err := p.validate(field + "."); err != nil {
			return err
		}
		if seen[p.Prefix] {
			return Invalid(field+".prefix", "must not come twice")
		}
		seen[p.Prefix] = true
	}
	return nil
}

func (p LeasePolicy) validate(path string) error {
	switch p.Policy {
	case PolicyGrant, PolicyDeny, PolicyHook:
	default:
		return Invalid(path+"policy", "must be grant, deny or hook")
	}
	return first(
		checkPrefix(path+"prefix", p.Prefix),
		checkTimeout(path+"lease_timeout_ms", p.LeaseTimeoutMS, 1),
		checkTimeout(path+"claim_timeout_ms", p.ClaimTimeoutMS, 0),
		checkTimeout(path+"hook_timeout_ms", p.HookTimeoutMS, 1),
		CheckText(path+"reason", p.Reason),
	)
}
