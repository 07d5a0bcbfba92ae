package subjects

// Types of the events about what an agent remembers. They name memories and
// never hold what is remembered.
const (
	TypeMemoryWritten      = "memory.written"
	TypeMemoryAccessed     = "memory.accessed"
	TypeMemoryTombstoned   = "memory.tombstoned"
	TypeMemoryConsolidated = "memory.consolidated"
	TypeMemoryEvicted      = "memory.evicted"
)

// MemoryWritten is the payload of memory.written: a memory is new or changed.
type MemoryWritten struct {
	MemoryID string `json:"memory_id" schema:"ref"`
	AgentID  string `json:"agent_id,omitempty" schema:"agent"`
	RunID    string `json:"run_id,omitempty" schema:"ref"`
	// Kind is the producer's word: semantic, episodic, procedural, …
	Kind      string `json:"kind,omitempty" schema:"text"`
	SizeBytes *int64 `json:"size_bytes,omitempty" schema:"count"`
}

// Validate refuses a memory without an id.
func (p MemoryWritten) Validate() error {
	return first(
		checkRef("memory_id", p.MemoryID),
		checkOptionalAgent(p.AgentID),
		checkOptionalRef("run_id", p.RunID),
		CheckText("kind", p.Kind),
		checkCount("size_bytes", p.SizeBytes, 0),
	)
}

// MemoryAccessed is the payload of memory.accessed.
type MemoryAccessed struct {
	MemoryID string `json:"memory_id" schema:"ref"`
	AgentID  string `json:"agent_id,omitempty" schema:"agent"`
	RunID    string `json:"run_id,omitempty" schema:"ref"`
	Purpose  string `json:"purpose,omitempty" schema:"text"`
}

// Validate refuses a memory without an id.
func (p MemoryAccessed) Validate() error {
	return first(
		checkRef("memory_id", p.MemoryID),
		checkOptionalAgent(p.AgentID),
		checkOptionalRef("run_id", p.RunID),
		CheckText("purpose", p.Purpose),
	)
}

// MemoryTombstoned is the payload of memory.tombstoned: what it held is gone,
// that it was there is not.
type MemoryTombstoned struct {
	MemoryID string `json:"memory_id" schema:"ref"`
	AgentID  string `json:"agent_id,omitempty" schema:"agent"`
	By       string `json:"by,omitempty" schema:"text"`
	Reason   string `json:"reason,omitempty" schema:"prose"`
}

// Validate refuses a memory without an id.
func (p MemoryTombstoned) Validate() error {
	return first(
		checkRef("memory_id", p.MemoryID),
		checkOptionalAgent(p.AgentID),
		CheckText("by", p.By),
		checkProse("reason", p.Reason),
	)
}

// MemoryConsolidated is the payload of memory.consolidated: several memories
// became one.
type MemoryConsolidated struct {
	// MemoryID is the one, FromMemoryIDs are the several.
	MemoryID      string   `json:"memory_id" schema:"ref"`
	FromMemoryIDs []string `json:"from_memory_ids" schema:"ref,least=1,most=64"`
	AgentID       string   `json:"agent_id,omitempty" schema:"agent"`
}

// Validate refuses a consolidation of nothing.
func (p MemoryConsolidated) Validate() error {
	return first(
		checkRef("memory_id", p.MemoryID),
		checkRefs("from_memory_ids", p.FromMemoryIDs, 1),
		checkOptionalAgent(p.AgentID),
	)
}

// MemoryEvicted is the payload of memory.evicted: memories were collected to
// stay within a budget.
type MemoryEvicted struct {
	AgentID string `json:"agent_id,omitempty" schema:"agent"`
	// Count is how many went.
	Count       int64  `json:"count" schema:"count"`
	FreedBytes  *int64 `json:"freed_bytes,omitempty" schema:"count"`
	BudgetBytes *int64 `json:"budget_bytes,omitempty" schema:"count"`
	// MemoryIDs are those that went, where they are few enough to be listed.
	MemoryIDs []string `json:"memory_ids,omitempty" schema:"ref,most=64"`
}

// Validate refuses numbers out of bounds.
func (p MemoryEvicted) Validate() error {
	return first(
		checkOptionalAgent(p.AgentID),
		checkNumber("count", p.Count, 0),
		checkCount("freed_bytes", p.FreedBytes, 0),
		checkCount("budget_bytes", p.BudgetBytes, 0),
		checkRefs("memory_ids", p.MemoryIDs, 0),
	)
}
