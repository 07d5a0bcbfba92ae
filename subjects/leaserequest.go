package subjects

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Bounds of lease requests.
const (
	maxResource = 256
	// MaxLeaseTimeoutMS bounds every time-out of a lease: 24 hours.
	MaxLeaseTimeoutMS = 24 * 3600 * 1000
	// MaxPage is the largest page of a listing, DefaultPage the usual one.
	MaxPage     = 1000
	DefaultPage = 200
	// maxPrefixes bounds how many prefixes one connection moderates.
	maxPrefixes = 64
)

// LeaseRequest is the payload of lease.request.
type LeaseRequest struct {
	Resource string `json:"resource"`
	// TimeoutMS is how long the lease stays claimable once granted.
	TimeoutMS *int64          `json:"timeout_ms,omitempty"`
	Metadata  json.RawMessage `json:"metadata,omitempty"`
}

// Validate refuses a resource that no policy could speak of.
func (p LeaseRequest) Validate() error {
	return first(
		CheckResource("resource", p.Resource),
		checkTimeout("timeout_ms", p.TimeoutMS, 1),
		CheckMetadata("metadata", p.Metadata),
	)
}

// LeaseRetry is the payload of lease.retry.
type LeaseRetry struct {
	LeaseID string `json:"lease_id"`
}

// Validate refuses a malformed id.
func (p LeaseRetry) Validate() error { return CheckUUID("lease_id", p.LeaseID) }

// LeaseResolve is the payload of lease.resolve, and what a gateway makes of a
// moderator's answer to lease.authorize.
type LeaseResolve struct {
	LeaseID   string `json:"lease_id"`
	AgentID   string `json:"agent_id"`
	Verdict   string `json:"verdict"`
	TimeoutMS *int64 `json:"timeout_ms,omitempty"`
	HoldMS    *int64 `json:"hold_ms,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// Validate refuses unknown verdicts.
func (p LeaseResolve) Validate() error {
	if err := first(CheckUUID("lease_id", p.LeaseID), CheckAgent("agent_id", p.AgentID)); err != nil {
		return err
	}
	return LeaseAuthorized{Verdict: p.Verdict, TimeoutMS: p.TimeoutMS, HoldMS: p.HoldMS, Reason: p.Reason}.Validate()
}

// TypeLeaseAuthorize is the request that asks a moderator for a verdict.
const TypeLeaseAuthorize = "lease.authorize"

// LeaseAuthorized is a moderator's answer to lease.authorize.
type LeaseAuthorized struct {
	Verdict   string `json:"verdict"`
	TimeoutMS *int64 `json:"timeout_ms,omitempty"`
	HoldMS    *int64 `json:"hold_ms,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// Validate refuses unknown verdicts.
func (p LeaseAuthorized) Validate() error {
	switch p.Verdict {
	case VerdictGrant, VerdictDeny, VerdictHold:
	default:
		return Invalid("verdict", "must be grant, deny or hold")
	}
	return first(
		checkTimeout("timeout_ms", p.TimeoutMS, 1),
		checkTimeout("hold_ms", p.HoldMS, 1),
		CheckText("reason", p.Reason),
	)
}

// LeaseClaim is the payload of lease.claim.
type LeaseClaim struct {
	LeaseID string `json:"lease_id"`
}

// Validate refuses a malformed id.
func (p LeaseClaim) Validate() error { return CheckUUID("lease_id", p.LeaseID) }

// LeaseFinalize is the payload of lease.finalize.
type LeaseFinalize struct {
	LeaseID string `json:"lease_id"`
	Fence   uint64 `json:"fence"`
	// MessageID names what the act produced.
	MessageID string `json:"message_id,omitempty"`
}

// Validate refuses a finalize without its fence.
func (p LeaseFinalize) Validate() error {
	return first(CheckUUID("lease_id", p.LeaseID), checkFence(p.Fence), CheckText("message_id", p.MessageID))
}

// LeaseRollback is the payload of lease.rollback.
type LeaseRollback struct {
	LeaseID string `json:"lease_id"`
	Fence   uint64 `json:"fence"`
	Reason  string `json:"reason,omitempty"`
}

// Validate refuses a rollback without its fence.
func (p LeaseRollback) Validate() error {
	return first(CheckUUID("lease_id", p.LeaseID), checkFence(p.Fence), CheckText("reason", p.Reason))
}

// LeaseRenew is the payload of lease.renew.
type LeaseRenew struct {
	LeaseID   string `json:"lease_id"`
	TimeoutMS *int64 `json:"timeout_ms,omitempty"`
}

// Validate refuses a time-out out of bounds.
func (p LeaseRenew) Validate() error {
	return first(CheckUUID("lease_id", p.LeaseID), checkTimeout("timeout_ms", p.TimeoutMS, 1))
}

// LeaseGet is the payload of lease.get.
type LeaseGet struct {
	LeaseID string `json:"lease_id"`
	AgentID string `json:"agent_id,omitempty"`
}

// Validate refuses malformed ids.
func (p LeaseGet) Validate() error {
	return first(CheckUUID("lease_id", p.LeaseID), checkOptionalAgent(p.AgentID))
}

// LeaseList is the payload of lease.list.
type LeaseList struct {
	AgentID string `json:"agent_id,omitempty"`
	State   string `json:"state,omitempty"`
	Limit   *int   `json:"limit,omitempty"`
	// After is the next of the page before.
	After string `json:"after,omitempty"`
}

// Validate refuses unknown states and pages out of bounds.
func (p LeaseList) Validate() error {
	if p.State != "" && !slices.Contains(LeaseStates(), p.State) {
		return Invalid("state", "must be one of "+strings.Join(LeaseStates(), ", "))
	}
	if p.Limit != nil && (*p.Limit < 1 || *p.Limit > MaxPage) {
		return Invalid("limit", "must be 1 to 1000")
	}
	return first(checkOptionalAgent(p.AgentID), CheckText("after", p.After))
}

// LeaseModerate is the payload of lease.moderate.
type LeaseModerate struct {
	// Resources are prefixes; the empty one is every resource.
	Resources []string `json:"resources"`
}

// Validate refuses a moderator of nothing.
func (p LeaseModerate) Validate() error {
	if len(p.Resources) == 0 || len(p.Resources) > maxPrefixes {
		return Invalid("resources", "must hold 1 to 64 prefixes")
	}
	for _, prefix := range p.Resources {
		if err := checkPrefix("resources", prefix); err != nil {
			return err
		}
	}
	return nil
}

// LeaseOutcome is the result of request, claim, finalize, rollback and renew.
type LeaseOutcome struct {
	LeaseID string `json:"lease_id"`
	State   string `json:"state"`
	// Fence is set by a claim.
	Fence uint64 `json:"fence,omitempty"`
	// ExpiresAt is the deadline that is in force after a rollback or a renew.
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	// ClaimExpiresAt is the deadline of a claim; absent when there is none.
	ClaimExpiresAt time.Time `json:"claim_expires_at,omitzero"`
}

// LeaseResult is the result of retry, resolve and get, and the payload of
// lease.authorize.
type LeaseResult struct {
	Lease LeaseRow `json:"lease"`
}

// LeasePage is the result of list. Total counts all that match, on whatever
// page; Next is absent on the last page.
type LeasePage struct {
	Items []LeaseRow `json:"items"`
	Total int        `json:"total"`
	Next  string     `json:"next,omitempty"`
}

// CheckResource refuses what is not 1 to 256 printable characters.
func CheckResource(field, s string) error {
	if s == "" || checkPrefix(field, s) != nil {
		return Invalid(field, "must be 1 to 256 printable characters")
	}
	return nil
}

func checkPrefix(field, s string) error {
	notPrintable := func(r rune) bool { return !unicode.IsPrint(r) }
	if utf8.RuneCountInString(s) > maxResource || strings.ContainsFunc(s, notPrintable) {
		return Invalid(field, "must be at most 256 printable characters")
	}
	return nil
}

func checkTimeout(field string, ms *int64, least int64) error {
	switch {
	case ms == nil:
		return nil
	case *ms < least:
		if least == 0 {
			return Invalid(field, "must be 0 or more")
		}
		return Invalid(field, "must be at least 1")
	case *ms > MaxLeaseTimeoutMS:
		return Invalid(field, "must be at most 86400000")
	default:
		return nil
	}
}

func checkFence(fence uint64) error {
	if fence == 0 {
		return Invalid("fence", "is required")
	}
	return nil
}

func checkOptionalAgent(agent string) error {
	if agent == "" {
		return nil
	}
	return CheckAgent("agent_id", agent)
}
