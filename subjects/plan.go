package subjects

// Types of the events about how an agent decides what to do.
const (
	TypePlanSelected     = "plan.selected"
	TypeWorkflowSelected = "workflow.selected"
	TypeIntentDeclared   = "intent.declared"
)

// PlanSelected is the payload of plan.selected: of the ways to a goal, the
// agent takes this one.
type PlanSelected struct {
	PlanID  string `json:"plan_id" schema:"ref"`
	AgentID string `json:"agent_id,omitempty" schema:"agent"`
	RunID   string `json:"run_id,omitempty" schema:"ref"`
	Goal    string `json:"goal,omitempty" schema:"prose"`
	// Steps is how many steps the plan has.
	Steps *int64 `json:"steps,omitempty" schema:"count"`
	// Reason is why this one.
	Reason string `json:"reason,omitempty" schema:"prose"`
}

// Validate refuses a plan without an id.
func (p PlanSelected) Validate() error {
	return first(
		checkRef("plan_id", p.PlanID),
		checkOptionalAgent(p.AgentID),
		checkOptionalRef("run_id", p.RunID),
		checkProse("goal", p.Goal),
		checkCount("steps", p.Steps, 0),
		checkProse("reason", p.Reason),
	)
}

// WorkflowSelected is the payload of workflow.selected: the agent follows a
// procedure that somebody wrote down before.
type WorkflowSelected struct {
	WorkflowID string `json:"workflow_id" schema:"ref"`
	Version    string `json:"version,omitempty" schema:"text"`
	AgentID    string `json:"agent_id,omitempty" schema:"agent"`
	RunID      string `json:"run_id,omitempty" schema:"ref"`
	Reason     string `json:"reason,omitempty" schema:"prose"`
}

// Validate refuses a workflow without an id.
func (p WorkflowSelected) Validate() error {
	return first(
		checkRef("workflow_id", p.WorkflowID),
		CheckText("version", p.Version),
		checkOptionalAgent(p.AgentID),
		checkOptionalRef("run_id", p.RunID),
		checkProse("reason", p.Reason),
	)
}

// IntentDeclared is the payload of intent.declared: what the agent understood
// it is to do, before it plans.
type IntentDeclared struct {
	// Intent is a name or a sentence.
	Intent         string `json:"intent" schema:"prose,least=1"`
	AgentID        string `json:"agent_id,omitempty" schema:"agent"`
	RunID          string `json:"run_id,omitempty" schema:"ref"`
	ConversationID string `json:"conversation_id,omitempty" schema:"ref"`
	// Confidence is 1 for certain.
	Confidence *float64 `json:"confidence,omitempty" schema:"ratio"`
}

// Validate refuses an intent that says nothing.
func (p IntentDeclared) Validate() error {
	return first(
		checkRequiredProse("intent", p.Intent),
		checkOptionalAgent(p.AgentID),
		checkOptionalRef("run_id", p.RunID),
		checkOptionalRef("conversation_id", p.ConversationID),
		checkRatio("confidence", p.Confidence),
	)
}
