package subjects

import "time"

// Types of the events about what agents use up.
const (
	TypeContextReported = "context.reported"
	TypeUsageSnapshot   = "usage.snapshot"
	TypeProviderQuota   = "provider.quota"
)

// ContextReported is the payload of context.reported: what fills a model's
// context window.
type ContextReported struct {
	RunID   string `json:"run_id" schema:"ref"`
	AgentID string `json:"agent_id,omitempty" schema:"agent"`
	Model   string `json:"model,omitempty" schema:"text"`
	// UsedTokens of MaxTokens are taken.
	UsedTokens int64  `json:"used_tokens" schema:"count"`
	MaxTokens  *int64 `json:"max_tokens,omitempty" schema:"count"`
	// Parts are what takes them.
	Parts []ContextPart `json:"parts,omitempty" schema:"most=64"`
}

// ContextPart is one thing in a context window: the system prompt, the tools,
// the history.
type ContextPart struct {
	Name   string `json:"name" schema:"text,least=1"`
	Tokens int64  `json:"tokens" schema:"count"`
}

// Validate refuses a report on no run.
func (p ContextReported) Validate() error {
	if err := first(
		checkRef("run_id", p.RunID),
		checkOptionalAgent(p.AgentID),
		CheckText("model", p.Model),
		checkNumber("used_tokens", p.UsedTokens, 0),
		checkCount("max_tokens", p.MaxTokens, 0),
		checkLength("parts", len(p.Parts), 0),
	); err != nil {
		return err
	}
	for i, part := range p.Parts {
		field := indexed("parts", i)
		if err := first(
			checkRequiredText(field+".name", part.Name),
			checkNumber(field+".tokens", part.Tokens, 0),
		); err != nil {
			return err
		}
	}
	return nil
}

// UsageSnapshot is the payload of usage.snapshot: what was used up so far, not
// since the snapshot before, so that a lost one costs nothing.
type UsageSnapshot struct {
	// RunID and AgentID say whose usage it is; neither is the tenant's.
	RunID    string `json:"run_id,omitempty" schema:"ref"`
	AgentID  string `json:"agent_id,omitempty" schema:"agent"`
	Provider string `json:"provider,omitempty" schema:"text"`
	Model    string `json:"model,omitempty" schema:"text"`
	// InputTokens include those that a cache served.
	InputTokens       int64  `json:"input_tokens" schema:"count"`
	OutputTokens      int64  `json:"output_tokens" schema:"count"`
	CachedInputTokens *int64 `json:"cached_input_tokens,omitempty" schema:"count"`
	// CostUSDMicros is in millionths of a dollar.
	CostUSDMicros *int64 `json:"cost_usd_micros,omitempty" schema:"count"`
	DurationMS    *int64 `json:"duration_ms,omitempty" schema:"count"`
	// Since is when the counting began.
	Since time.Time `json:"since,omitzero"`
}

// Validate refuses numbers out of bounds.
func (p UsageSnapshot) Validate() error {
	return first(
		checkOptionalRef("run_id", p.RunID),
		checkOptionalAgent(p.AgentID),
		CheckText("provider", p.Provider),
		CheckText("model", p.Model),
		checkNumber("input_tokens", p.InputTokens, 0),
		checkNumber("output_tokens", p.OutputTokens, 0),
		checkCount("cached_input_tokens", p.CachedInputTokens, 0),
		checkCount("cost_usd_micros", p.CostUSDMicros, 0),
		checkCount("duration_ms", p.DurationMS, 0),
	)
}

// ProviderQuota is the payload of provider.quota: what a provider still allows.
type ProviderQuota struct {
	Provider string `json:"provider" schema:"text,least=1"`
	Model    string `json:"model,omitempty" schema:"text"`
	// Unit is what is counted: requests, tokens, usd_micros.
	Unit      string    `json:"unit,omitempty" schema:"text"`
	Limit     *int64    `json:"limit,omitempty" schema:"count"`
	Remaining *int64    `json:"remaining,omitempty" schema:"count"`
	ResetsAt  time.Time `json:"resets_at,omitzero"`
}

// Validate refuses a quota of nobody.
func (p ProviderQuota) Validate() error {
	return first(
		checkRequiredText("provider", p.Provider),
		CheckText("model", p.Model),
		CheckText("unit", p.Unit),
		checkCount("limit", p.Limit, 0),
		checkCount("remaining", p.Remaining, 0),
	)
}
