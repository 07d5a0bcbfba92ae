package subjects

// Types of the events about what proves that a run did what it says.
const (
	TypeArtifactCaptured    = "artifact.captured"
	TypeArtifactAttached    = "artifact.attached"
	TypePostconditionPassed = "postcondition.passed"
	TypePostconditionFailed = "postcondition.failed"
)

// ArtifactCaptured is the payload of artifact.captured: a screenshot, a log, a
// file was kept.
type ArtifactCaptured struct {
	ArtifactID string `json:"artifact_id" schema:"ref"`
	RunID      string `json:"run_id,omitempty" schema:"ref"`
	StepID     string `json:"step_id,omitempty" schema:"ref"`
	// Kind is the producer's word for what it is.
	Kind      string `json:"kind,omitempty" schema:"text"`
	Label     string `json:"label,omitempty" schema:"text"`
	MediaType string `json:"media_type,omitempty" schema:"text"`
	SizeBytes *int64 `json:"size_bytes,omitempty" schema:"count"`
	SHA256    string `json:"sha256,omitempty" schema:"sha256"`
	// URI is where it is kept. It must open nothing by itself: whoever may see
	// the event may see the address.
	URI string `json:"uri,omitempty" schema:"uri"`
}

// Validate refuses an artifact without an id.
func (p ArtifactCaptured) Validate() error {
	return first(
		checkRef("artifact_id", p.ArtifactID),
		checkOptionalRef("run_id", p.RunID),
		checkOptionalRef("step_id", p.StepID),
		CheckText("kind", p.Kind),
		CheckText("label", p.Label),
		CheckText("media_type", p.MediaType),
		checkCount("size_bytes", p.SizeBytes, 0),
		checkSHA256("sha256", p.SHA256),
		checkURI("uri", p.URI),
	)
}

// ArtifactAttached is the payload of artifact.attached: an artifact belongs to
// a run, or to one step of it, from now on.
type ArtifactAttached struct {
	ArtifactID string `json:"artifact_id" schema:"ref"`
	RunID      string `json:"run_id" schema:"ref"`
	StepID     string `json:"step_id,omitempty" schema:"ref"`
}

// Validate refuses an attachment to nothing.
func (p ArtifactAttached) Validate() error {
	return first(
		checkRef("artifact_id", p.ArtifactID),
		checkRef("run_id", p.RunID),
		checkOptionalRef("step_id", p.StepID),
	)
}

// Postcondition is the payload of postcondition.passed and
// postcondition.failed: what must be true after the work, and whether it is.
type Postcondition struct {
	RunID  string `json:"run_id" schema:"ref"`
	StepID string `json:"step_id,omitempty" schema:"ref"`
	// Condition names or states what was looked at.
	Condition string `json:"condition" schema:"prose,least=1"`
	// Detail is what was found instead.
	Detail string `json:"detail,omitempty" schema:"prose"`
	// ArtifactIDs are the evidence.
	ArtifactIDs []string `json:"artifact_ids,omitempty" schema:"ref,most=64"`
}

// Validate refuses a verdict on nothing.
func (p Postcondition) Validate() error {
	return first(
		checkRef("run_id", p.RunID),
		checkOptionalRef("step_id", p.StepID),
		checkRequiredProse("condition", p.Condition),
		checkProse("detail", p.Detail),
		checkRefs("artifact_ids", p.ArtifactIDs, 0),
	)
}
