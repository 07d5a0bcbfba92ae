package subjects

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// Types of the events about people's consent to what an agent is about to do.
const (
	TypeApprovalRequested = "approval.requested"
	TypeApprovalResolved  = "approval.resolved"
	TypeApprovalExpired   = "approval.expired"
)

// ApprovalRequested is the payload of approval.requested. It tells everybody
// who looks that a decision is due; the request that asks one peer for it has
// the same name and is no event.
type ApprovalRequested struct {
	ApprovalID string `json:"approval_id" schema:"ref"`
	AgentID    string `json:"agent_id,omitempty" schema:"agent"`
	RunID      string `json:"run_id,omitempty" schema:"ref"`
	StepID     string `json:"step_id,omitempty" schema:"ref"`
	// Action names the kind of thing that waits for the decision.
	Action string `json:"action,omitempty" schema:"text"`
	// Summary says it to the person who decides.
	Summary   string          `json:"summary,omitempty" schema:"prose"`
	Details   json.RawMessage `json:"details,omitempty" schema:"object"`
	ExpiresAt time.Time       `json:"expires_at,omitzero"`
}

// Validate refuses a request that nobody could answer.
func (p ApprovalRequested) Validate() error {
	return first(
		checkRef("approval_id", p.ApprovalID),
		checkOptionalAgent(p.AgentID),
		checkOptionalRef("run_id", p.RunID),
		checkOptionalRef("step_id", p.StepID),
		CheckText("action", p.Action),
		checkProse("summary", p.Summary),
		CheckMetadata("details", p.Details),
	)
}

// Decisions on an approval.
const (
	ApprovalApproved = "approved"
	ApprovalDenied   = "denied"
)

// ApprovalDecisions returns the values decision may have.
func ApprovalDecisions() []string { return []string{ApprovalApproved, ApprovalDenied} }

// ApprovalResolved is the payload of approval.resolved.
type ApprovalResolved struct {
	ApprovalID string `json:"approval_id" schema:"ref"`
	Decision   string `json:"decision" schema:"decision"`
	RunID      string `json:"run_id,omitempty" schema:"ref"`
	// By is who decided.
	By     string `json:"by,omitempty" schema:"text"`
	Reason string `json:"reason,omitempty" schema:"prose"`
}

// Validate refuses a resolution that decides nothing.
func (p ApprovalResolved) Validate() error {
	return first(
		checkRef("approval_id", p.ApprovalID),
		checkDecision("decision", p.Decision),
		checkOptionalRef("run_id", p.RunID),
		CheckText("by", p.By),
		checkProse("reason", p.Reason),
	)
}

// ApprovalExpired is the payload of approval.expired: nobody decided in time.
type ApprovalExpired struct {
	ApprovalID string `json:"approval_id" schema:"ref"`
	RunID      string `json:"run_id,omitempty" schema:"ref"`
}

// Validate refuses the expiry of nothing.
func (p ApprovalExpired) Validate() error {
	return first(checkRef("approval_id", p.ApprovalID), checkOptionalRef("run_id", p.RunID))
}

func checkDecision(field, decision string) error {
	if !slices.Contains(ApprovalDecisions(), decision) {
		return Invalid(field, "must be one of "+strings.Join(ApprovalDecisions(), ", "))
	}
	return nil
}
