package subjects

import "time"

// Types of the events about runs: one execution of a task each.
const (
	TypeRunQueued    = "run.queued"
	TypeRunStarted   = "run.started"
	TypeRunPaused    = "run.paused"
	TypeRunResumed   = "run.resumed"
	TypeRunRetried   = "run.retried"
	TypeRunCompleted = "run.completed"
	TypeRunFailed    = "run.failed"
	TypeRunCancelled = "run.cancelled"
)

// RunQueued is the payload of run.queued: a run waits for its turn.
type RunQueued struct {
	RunID   string `json:"run_id" schema:"ref"`
	AgentID string `json:"agent_id,omitempty" schema:"agent"`
	// ParentRunID is the run that this one is a part of.
	ParentRunID string `json:"parent_run_id,omitempty" schema:"ref"`
	Title       string `json:"title,omitempty" schema:"text"`
	// Trigger is what asked for it: a person, a schedule, another event.
	Trigger string `json:"trigger,omitempty" schema:"text"`
}

// Validate refuses a run without an id.
func (p RunQueued) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		checkOptionalAgent(p.AgentID),
		checkOptionalRef("parent_run_id", p.ParentRunID),
		CheckText("title", p.Title),
		CheckText("trigger", p.Trigger),
	)
}

// RunStarted is the payload of run.started.
type RunStarted struct {
	RunID   string `json:"run_id" schema:"ref"`
	AgentID string `json:"agent_id,omitempty" schema:"agent"`
	Title   string `json:"title,omitempty" schema:"text"`
	// Attempt counts from 1.
	Attempt *int64 `json:"attempt,omitempty" schema:"count,least=1"`
}

// Validate refuses a run without an id.
func (p RunStarted) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		checkOptionalAgent(p.AgentID),
		CheckText("title", p.Title),
		checkCount("attempt", p.Attempt, 1),
	)
}

// RunPaused is the payload of run.paused: the run waits for something outside
// of it.
type RunPaused struct {
	RunID  string `json:"run_id" schema:"ref"`
	Reason string `json:"reason,omitempty" schema:"prose"`
	// ApprovalID is the decision the run waits for, where it waits for one.
	ApprovalID string `json:"approval_id,omitempty" schema:"ref"`
}

// Validate refuses a run without an id.
func (p RunPaused) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		checkProse("reason", p.Reason),
		checkOptionalRef("approval_id", p.ApprovalID),
	)
}

// RunResumed is the payload of run.resumed.
type RunResumed struct {
	RunID  string `json:"run_id" schema:"ref"`
	Reason string `json:"reason,omitempty" schema:"prose"`
}

// Validate refuses a run without an id.
func (p RunResumed) Validate() error {
	return first(checkRef("run_id", p.RunID), checkProse("reason", p.Reason))
}

// RunRetried is the payload of run.retried: a run, or one step of it, failed
// and is tried again.
type RunRetried struct {
	RunID string `json:"run_id" schema:"ref"`
	// StepID is set when only that step is tried again.
	StepID string `json:"step_id,omitempty" schema:"ref"`
	// Attempt is the number of the attempt to come, counted from 1.
	Attempt     *int64 `json:"attempt,omitempty" schema:"count,least=1"`
	MaxAttempts *int64 `json:"max_attempts,omitempty" schema:"count,least=1"`
	// RetryAt is when it begins, where that is not at once.
	RetryAt time.Time `json:"retry_at,omitzero"`
	// Error is why the attempt before failed.
	Error *Failure `json:"error,omitempty"`
}

// Validate refuses a retry of nothing.
func (p RunRetried) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		checkOptionalRef("step_id", p.StepID),
		checkCount("attempt", p.Attempt, 1),
		checkCount("max_attempts", p.MaxAttempts, 1),
		checkFailure(p.Error),
	)
}

// RunCompleted is the payload of run.completed: the run ended well.
type RunCompleted struct {
	RunID      string `json:"run_id" schema:"ref"`
	Summary    string `json:"summary,omitempty" schema:"prose"`
	DurationMS *int64 `json:"duration_ms,omitempty" schema:"count"`
}

// Validate refuses a run without an id.
func (p RunCompleted) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		checkProse("summary", p.Summary),
		checkCount("duration_ms", p.DurationMS, 0),
	)
}

// RunFailed is the payload of run.failed: the run ended, and no attempt of it
// follows.
type RunFailed struct {
	RunID      string   `json:"run_id" schema:"ref"`
	Error      *Failure `json:"error,omitempty"`
	DurationMS *int64   `json:"duration_ms,omitempty" schema:"count"`
}

// Validate refuses a run without an id.
func (p RunFailed) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		checkFailure(p.Error),
		checkCount("duration_ms", p.DurationMS, 0),
	)
}

// RunCancelled is the payload of run.cancelled: somebody ended the run.
type RunCancelled struct {
	RunID string `json:"run_id" schema:"ref"`
	// By is who ended it.
	By     string `json:"by,omitempty" schema:"text"`
	Reason string `json:"reason,omitempty" schema:"prose"`
}

// Validate refuses a run without an id.
func (p RunCancelled) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		CheckText("by", p.By),
		checkProse("reason", p.Reason),
	)
}
