package subjects_test

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func sampleRejected() subjects.EventRejected {
	return subjects.EventRejected{
		Subject: "tenant.acme.event.run.started", Seq: 42, EventID: eventID, Field: "payload.run_id", Rule: "is required",
	}
}

func sampleFailure() *subjects.Failure {
	return &subjects.Failure{Message: "the page did not load", Code: "timeout", Retryable: true}
}

func count(n int64) *int64 { return new(n) }

// samplePayloads holds, per type of the catalogue, a payload with every key.
func samplePayloads() map[string]subjects.Payload {
	payloads := map[string]subjects.Payload{
		subjects.TypeConnectionOpened: sampleOpened(),
		subjects.TypeConnectionBeacon: sampleBeacon(),
		subjects.TypeConnectionClosed: sampleClosed(),
		subjects.TypePresenceChanged:  sampleChanged(),
		subjects.TypePresenceUpserted: subjects.PresenceUpserted{Entry: sampleInstanceRow()},
		subjects.TypePresencePruned:   samplePruned(),

		subjects.TypeAuditEventRejected: sampleRejected(),
		"audit.presence.brake_engaged": subjects.BrakeChanged{
			Reason: "gateways", Gateways: 3, Since: at(), Until: at().Add(time.Minute),
		},
		"audit.presence.brake_released": subjects.BrakeChanged{
			Reason: "returned", Gateways: 3, Since: at(), Until: at().Add(time.Second),
		},

		subjects.TypePairingRequested: subjects.PairingRequested{
			PairingID: "pair-1", InstanceID: deviceID, Label: "Ada's phone", Platform: "android", ExpiresAt: at().Add(time.Minute),
		},
		subjects.TypePairingApproved: subjects.PairingApproved{
			PairingID: "pair-1", InstanceID: deviceID, By: "grace", Capabilities: []string{"camera", "location"},
		},
		subjects.TypePairingDenied:  subjects.PairingEnded{PairingID: "pair-1", InstanceID: deviceID, By: "grace", Reason: "not ours"},
		subjects.TypePairingRevoked: subjects.PairingEnded{PairingID: "pair-1", InstanceID: deviceID, By: "grace", Reason: "lost"},

		subjects.TypeApprovalRequested: subjects.ApprovalRequested{
			ApprovalID: "approval-1", AgentID: "ada", RunID: "run-1", StepID: "step-1", Action: "deploy",
			Summary: "Deploy build 7 to production", Details: json.RawMessage(`{"build":7}`), ExpiresAt: at().Add(time.Hour),
		},
		subjects.TypeApprovalResolved: subjects.ApprovalResolved{
			ApprovalID: "approval-1", Decision: subjects.ApprovalApproved, RunID: "run-1", By: "grace", Reason: "looks good",
		},
		subjects.TypeApprovalExpired: subjects.ApprovalExpired{ApprovalID: "approval-1", RunID: "run-1"},
	}
	states := map[string]string{
		"requested": subjects.LeasePending, "held": subjects.LeaseHold, "denied": subjects.LeaseDenied, "claimed": subjects.LeaseClaimed,
		"consumed": subjects.LeaseConsumed, "expired": subjects.LeaseExpired, "abandoned": subjects.LeaseAbandoned,
	}
	for _, name := range transitions() {
		lease := sampleLeaseRow()
		if state, other := states[name]; other {
			lease.State = state
		}
		payloads["lease."+name] = subjects.LeaseTransition{Lease: lease}
	}
	for _, name := range []string{
		subjects.AuditBeginAfterDisconnect, subjects.AuditEndAfterDisconnect,
		subjects.AuditStaleConnection, subjects.AuditLeaseClaimDeadline,
	} {
		payloads["audit."+name] = sampleAudit()
	}
	addExecution(payloads)
	addRuntime(payloads)
	return payloads
}

func addExecution(payloads map[string]subjects.Payload) {
	budget := subjects.Budget{RunID: "run-1", AgentID: "ada", Unit: "tokens", Used: 100, Limit: 1000}
	condition := subjects.Postcondition{
		RunID: "run-1", StepID: "step-1", Condition: "the page shows the order", Detail: "it shows an error", ArtifactIDs: []string{"art-1"},
	}
	maps.Copy(payloads, map[string]subjects.Payload{
		subjects.TypeRunQueued: subjects.RunQueued{
			RunID: "run-1", AgentID: "ada", ParentRunID: "run-0", Title: "Order paper", Trigger: "schedule",
		},
		subjects.TypeRunStarted: subjects.RunStarted{RunID: "run-1", AgentID: "ada", Title: "Order paper", Attempt: count(1)},
		subjects.TypeRunPaused:  subjects.RunPaused{RunID: "run-1", Reason: "waits for approval", ApprovalID: "approval-1"},
		subjects.TypeRunResumed: subjects.RunResumed{RunID: "run-1", Reason: "approved"},
		subjects.TypeRunRetried: subjects.RunRetried{
			RunID: "run-1", StepID: "step-1", Attempt: count(2), MaxAttempts: count(3), RetryAt: at().Add(time.Second), Error: sampleFailure(),
		},
		subjects.TypeRunCompleted: subjects.RunCompleted{RunID: "run-1", Summary: "Ordered.\nArrives on Monday.", DurationMS: count(61_000)},
		subjects.TypeRunFailed:    subjects.RunFailed{RunID: "run-1", Error: sampleFailure(), DurationMS: count(61_000)},
		subjects.TypeRunCancelled: subjects.RunCancelled{RunID: "run-1", By: "grace", Reason: "not needed any more"},
		subjects.TypeStepStarted:  subjects.StepStarted{RunID: "run-1", StepID: "step-1", Name: "browser.open", Index: count(1), Attempt: count(1)},
		subjects.TypeStepCompleted: subjects.StepCompleted{
			RunID: "run-1", StepID: "step-1", Outcome: "failed", DurationMS: count(1200), Error: sampleFailure(),
		},
		subjects.TypeBudgetUpdated:  budget,
		subjects.TypeBudgetExceeded: budget,
		subjects.TypeArtifactCaptured: subjects.ArtifactCaptured{
			ArtifactID: "art-1", RunID: "run-1", StepID: "step-1", Kind: "screenshot", Label: "order page", MediaType: "image/png",
			SizeBytes: count(48_213), SHA256: strings.Repeat("0123456789abcdef", 4), URI: "s3://evidence/art-1.png",
		},
		subjects.TypeArtifactAttached:    subjects.ArtifactAttached{ArtifactID: "art-1", RunID: "run-1", StepID: "step-1"},
		subjects.TypePostconditionPassed: condition,
		subjects.TypePostconditionFailed: condition,
	})
}

func addRuntime(payloads map[string]subjects.Payload) {
	typing := subjects.Typing{ConversationID: "conv-1", AgentID: "ada", ExpiresAt: at().Add(5 * time.Second)}
	maps.Copy(payloads, map[string]subjects.Payload{
		subjects.TypeIntentDeclared: subjects.IntentDeclared{
			Intent: "order printer paper", AgentID: "ada", RunID: "run-1", ConversationID: "conv-1", Confidence: new(0.9),
		},
		subjects.TypePlanSelected: subjects.PlanSelected{
			PlanID: "plan-1", AgentID: "ada", RunID: "run-1", Goal: "paper on the shelf", Steps: count(4), Reason: "the cheapest",
		},
		subjects.TypeWorkflowSelected: subjects.WorkflowSelected{
			WorkflowID: "order-supplies", Version: "3", AgentID: "ada", RunID: "run-1", Reason: "it fits the intent",
		},
		subjects.TypeMemoryWritten: subjects.MemoryWritten{
			MemoryID: "mem-1", AgentID: "ada", RunID: "run-1", Kind: "episodic", SizeBytes: count(512),
		},
		subjects.TypeMemoryAccessed:     subjects.MemoryAccessed{MemoryID: "mem-1", AgentID: "ada", RunID: "run-1", Purpose: "planning"},
		subjects.TypeMemoryTombstoned:   subjects.MemoryTombstoned{MemoryID: "mem-1", AgentID: "ada", By: "grace", Reason: "asked to forget"},
		subjects.TypeMemoryConsolidated: subjects.MemoryConsolidated{MemoryID: "mem-3", FromMemoryIDs: []string{"mem-1", "mem-2"}, AgentID: "ada"},
		subjects.TypeMemoryEvicted: subjects.MemoryEvicted{
			AgentID: "ada", Count: 2, FreedBytes: count(1024), BudgetBytes: count(1 << 20), MemoryIDs: []string{"mem-1", "mem-2"},
		},
		subjects.TypeTypingStarted:    typing,
		subjects.TypeTypingStopped:    typing,
		subjects.TypeMessageDelivered: subjects.MessageDelivered{MessageID: "msg-1", ConversationID: "conv-1", Channel: "slack", ReceiptID: "1700000000.0001"},
		subjects.TypeMessageFailed:    subjects.MessageFailed{MessageID: "msg-1", ConversationID: "conv-1", Channel: "slack", Error: sampleFailure()},
		subjects.TypeMessageFormattingFallback: subjects.MessageFormattingFallback{
			MessageID: "msg-1", ConversationID: "conv-1", Channel: "sms", From: "markdown", To: "plain", Reason: "no markup",
		},
		subjects.TypeContextReported: subjects.ContextReported{
			RunID: "run-1", AgentID: "ada", Model: "large-2", UsedTokens: 9000, MaxTokens: count(200_000),
			Parts: []subjects.ContextPart{{Name: "system", Tokens: 1000}, {Name: "history", Tokens: 8000}},
		},
		subjects.TypeUsageSnapshot: subjects.UsageSnapshot{
			RunID: "run-1", AgentID: "ada", Provider: "example", Model: "large-2", InputTokens: 9000, OutputTokens: 700,
			CachedInputTokens: count(4000), CostUSDMicros: count(31_500), DurationMS: count(61_000), Since: at().Add(-time.Minute),
		},
		subjects.TypeProviderQuota: subjects.ProviderQuota{
			Provider: "example", Model: "large-2", Unit: "requests", Limit: count(1000), Remaining: count(37), ResetsAt: at().Add(time.Hour),
		},
	})
}

// sampleSubject is a subject that a type travels on, and sampleScope the scope
// its events have there.
func sampleSubject(typ subjects.EventType) subjects.Subject {
	s := subjects.Subject{Class: typ.Classes[0], Tenant: "acme", Agent: "ada", Instance: deviceID, Name: typ.Type}
	if !typ.Producer() {
		s.Name = typ.Type[strings.LastIndexByte(typ.Type, '.')+1:]
	}
	return s
}

func sampleScope(typ subjects.EventType) subjects.Scope {
	return subjects.Scope{Kind: typ.Scopes[0], ID: map[string]string{
		subjects.ScopeAgent: "ada", subjects.ScopeDevice: deviceID, subjects.ScopeSession: connectionID,
	}[typ.Scopes[0]]}
}

// sampleEvent is an event of a type with every key.
func sampleEvent(tb testing.TB, typ subjects.EventType) subjects.Event {
	tb.Helper()
	payload, ok := samplePayloads()[typ.Type]
	require.True(tb, ok, "no sample of %s", typ.Type)
	e, err := subjects.NewEvent(eventID, typ.Type, at(), sampleScope(typ), payload)
	require.NoError(tb, err)
	return e
}
