package subjects

// Types of the events about the steps of a run and about what it may spend.
const (
	TypeStepStarted    = "step.started"
	TypeStepCompleted  = "step.completed"
	TypeBudgetUpdated  = "budget.updated"
	TypeBudgetExceeded = "budget.exceeded"
)

// StepStarted is the payload of step.started.
type StepStarted struct {
	RunID  string `json:"run_id" schema:"ref"`
	StepID string `json:"step_id" schema:"ref"`
	// Name is what the step does: a tool, a prompt, a branch.
	Name string `json:"name,omitempty" schema:"text"`
	// Index is the step's place in the run, counted from 0.
	Index *int64 `json:"index,omitempty" schema:"count"`
	// Attempt counts from 1.
	Attempt *int64 `json:"attempt,omitempty" schema:"count,least=1"`
}

// Validate refuses a step of no run.
func (p StepStarted) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		checkRef("step_id", p.StepID),
		CheckText("name", p.Name),
		checkCount("index", p.Index, 0),
		checkCount("attempt", p.Attempt, 1),
	)
}

// StepCompleted is the payload of step.completed: the step is over, whatever
// came of it.
type StepCompleted struct {
	RunID  string `json:"run_id" schema:"ref"`
	StepID string `json:"step_id" schema:"ref"`
	// Outcome is what came of it: succeeded, failed, skipped, or a word of the
	// producer's own.
	Outcome    string   `json:"outcome,omitempty" schema:"text"`
	DurationMS *int64   `json:"duration_ms,omitempty" schema:"count"`
	Error      *Failure `json:"error,omitempty"`
}

// Validate refuses a step of no run.
func (p StepCompleted) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		checkRef("step_id", p.StepID),
		CheckText("outcome", p.Outcome),
		checkCount("duration_ms", p.DurationMS, 0),
		checkFailure(p.Error),
	)
}

// Budget is the payload of budget.updated and budget.exceeded: how much of
// what may be spent is spent.
type Budget struct {
	// RunID and AgentID say whose budget it is; neither is the tenant's.
	RunID   string `json:"run_id,omitempty" schema:"ref"`
	AgentID string `json:"agent_id,omitempty" schema:"agent"`
	// Unit is what is counted: tokens, usd_micros, ms, calls.
	Unit  string `json:"unit" schema:"text,least=1"`
	Used  int64  `json:"used" schema:"count"`
	Limit int64  `json:"limit" schema:"count"`
}

// Validate refuses a budget without a unit.
func (p Budget) Validate() error {
	return first(
		checkOptionalRef("run_id", p.RunID),
		checkOptionalAgent(p.AgentID),
		checkRequiredText("unit", p.Unit),
		checkNumber("used", p.Used, 0),
		checkNumber("limit", p.Limit, 0),
	)
}
