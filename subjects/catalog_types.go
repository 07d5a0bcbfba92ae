package subjects

import "slices"

// ownTypes are the types that only rollcall itself emits.
func ownTypes() []EventType {
	return slices.Concat(connectionTypes(), presenceTypes(), leaseTypes(), auditTypes())
}

func connectionTypes() []EventType {
	s := shelf{
		CategoryConnection,
		[]string{ScopeAgent, ScopeDevice},
		[]Class{ClassAgentConnection, ClassInstanceConnection},
	}
	return []EventType{
		on[ConnectionOpened](s, TypeConnectionOpened, "a peer's socket was authenticated"),
		on[ConnectionBeacon](s, TypeConnectionBeacon, "a peer said how it is"),
		on[ConnectionClosed](s, TypeConnectionClosed, "a connection ended"),
	}
}

func presenceTypes() []EventType {
	agent := shelf{CategoryPresence, []string{ScopeAgent}, []Class{ClassAgentPresence}}
	device := shelf{CategoryPresence, []string{ScopeDevice}, []Class{ClassInstancePresence}}
	return []EventType{
		on[PresenceChanged](agent, TypePresenceChanged, "an agent's status changed"),
		on[PresenceUpserted](device, TypePresenceUpserted, "a device's row is new or changed"),
		on[PresencePruned](device, TypePresencePruned, "a device's row is gone"),
	}
}

func leaseTypes() []EventType {
	s := shelf{CategoryLease, []string{ScopeAgent}, []Class{ClassAgentLease}}
	return []EventType{
		on[LeaseTransition](s, TypeLeaseRequested, "an agent asked for a lease"),
		on[LeaseTransition](s, TypeLeaseGranted, "the lease may be claimed"),
		on[LeaseTransition](s, TypeLeaseDenied, "the lease was refused"),
		on[LeaseTransition](s, TypeLeaseHeld, "the decision was put off"),
		on[LeaseTransition](s, TypeLeaseClaimed, "the act began"),
		on[LeaseTransition](s, TypeLeaseRolledBack, "the act was called off; the lease may be claimed again"),
		on[LeaseTransition](s, TypeLeaseRenewed, "the lease's deadline moved"),
		on[LeaseTransition](s, TypeLeaseConsumed, "the act is done"),
		on[LeaseTransition](s, TypeLeaseExpired, "a deadline passed, or the holder is gone"),
		on[LeaseTransition](s, TypeLeaseAbandoned, "the one who asked is gone"),
	}
}

func auditTypes() []EventType {
	agent := shelf{CategoryAudit, []string{ScopeAgent}, []Class{ClassAudit}}
	event := shelf{CategoryAudit, []string{ScopeDevice}, []Class{ClassEventAudit}}
	presence := shelf{CategoryAudit, []string{ScopeGlobal}, []Class{ClassPresenceAudit}}
	return []EventType{
		on[AuditRecord](agent, "audit."+AuditBeginAfterDisconnect, "a lease began for an agent without a connection"),
		on[AuditRecord](agent, "audit."+AuditEndAfterDisconnect, "a lease ended for an agent without a connection"),
		on[AuditRecord](agent, "audit."+AuditStaleConnection, "a lease began or ended on a connection that is gone"),
		on[AuditRecord](agent, "audit."+AuditLeaseClaimDeadline, "an act was under way and nobody said how it ended"),
		on[EventRejected](event, TypeAuditEventRejected, "a producer's event is kept out of delivery"),
		on[BrakeChanged](presence, "audit.presence."+AuditBrakeEngaged, "so many gateways are missing that nobody is taken to be offline"),
		on[BrakeChanged](presence, "audit.presence."+AuditBrakeReleased, "whoever is missing is taken to be offline again"),
	}
}

// producerTypes are the types that any producer may publish.
func producerTypes() []EventType {
	return slices.Concat(
		pairingTypes(), approvalTypes(), executionTypes(), evidenceTypes(),
		agentRuntimeTypes(), memoryTypes(), messagingTypes(), observabilityTypes(),
	)
}

// producers is the shelf of a category of producers' types.
func producers(category Category, scopes ...string) shelf {
	return shelf{category, scopes, []Class{ClassEvent}}
}

func pairingTypes() []EventType {
	s := producers(CategoryPairing, ScopeDevice)
	return []EventType{
		on[PairingRequested](s, TypePairingRequested, "a device asks to be let in"),
		on[PairingApproved](s, TypePairingApproved, "the device may come in"),
		on[PairingEnded](s, TypePairingDenied, "the device may not come in"),
		on[PairingEnded](s, TypePairingRevoked, "the device may not come in any more"),
	}
}

func approvalTypes() []EventType {
	s := producers(CategoryApproval, ScopeAgent)
	return []EventType{
		on[ApprovalRequested](s, TypeApprovalRequested, "somebody must decide on what an agent is about to do"),
		on[ApprovalResolved](s, TypeApprovalResolved, "somebody decided"),
		on[ApprovalExpired](s, TypeApprovalExpired, "nobody decided in time"),
	}
}

func executionTypes() []EventType {
	s := producers(CategoryExecution, ScopeAgent)
	return []EventType{
		on[RunQueued](s, TypeRunQueued, "a run waits for its turn"),
		on[RunStarted](s, TypeRunStarted, "a run began"),
		on[RunPaused](s, TypeRunPaused, "a run waits for something outside of it"),
		on[RunResumed](s, TypeRunResumed, "a run goes on"),
		on[RunRetried](s, TypeRunRetried, "a run, or one step of it, failed and is tried again"),
		on[RunCompleted](s, TypeRunCompleted, "a run ended well"),
		on[RunFailed](s, TypeRunFailed, "a run ended, and no attempt follows"),
		on[RunCancelled](s, TypeRunCancelled, "somebody ended a run"),
		on[StepStarted](s, TypeStepStarted, "a step of a run began"),
		on[StepCompleted](s, TypeStepCompleted, "a step is over, whatever came of it"),
		on[Budget](s, TypeBudgetUpdated, "more of a budget is spent"),
		on[Budget](s, TypeBudgetExceeded, "a budget is spent"),
	}
}

func evidenceTypes() []EventType {
	s := producers(CategoryEvidence, ScopeAgent)
	return []EventType{
		on[ArtifactCaptured](s, TypeArtifactCaptured, "a screenshot, a log, a file was kept"),
		on[ArtifactAttached](s, TypeArtifactAttached, "an artifact belongs to a run or a step from now on"),
		on[Postcondition](s, TypePostconditionPassed, "what must be true after the work is"),
		on[Postcondition](s, TypePostconditionFailed, "what must be true after the work is not"),
	}
}

func agentRuntimeTypes() []EventType {
	s := producers(CategoryAgentRuntime, ScopeAgent)
	return []EventType{
		on[IntentDeclared](s, TypeIntentDeclared, "what the agent understood it is to do"),
		on[PlanSelected](s, TypePlanSelected, "of the ways to a goal the agent takes this one"),
		on[WorkflowSelected](s, TypeWorkflowSelected, "the agent follows a procedure that was written down before"),
	}
}

func memoryTypes() []EventType {
	s := producers(CategoryMemory, ScopeAgent)
	return []EventType{
		on[MemoryWritten](s, TypeMemoryWritten, "a memory is new or changed"),
		on[MemoryAccessed](s, TypeMemoryAccessed, "a memory was read"),
		on[MemoryTombstoned](s, TypeMemoryTombstoned, "what a memory held is gone"),
		on[MemoryConsolidated](s, TypeMemoryConsolidated, "several memories became one"),
		on[MemoryEvicted](s, TypeMemoryEvicted, "memories were collected to stay within a budget"),
	}
}

func messagingTypes() []EventType {
	s := producers(CategoryMessaging, ScopeAgent)
	return []EventType{
		on[Typing](s, TypeTypingStarted, "an agent began to write"),
		on[Typing](s, TypeTypingStopped, "it stopped"),
		on[MessageDelivered](s, TypeMessageDelivered, "a channel delivered a message"),
		on[MessageFailed](s, TypeMessageFailed, "a channel could not deliver it"),
		on[MessageFormattingFallback](s, TypeMessageFormattingFallback, "a channel could not show it as it was written"),
	}
}

func observabilityTypes() []EventType {
	agent, global := producers(CategoryObservability, ScopeAgent), producers(CategoryObservability, ScopeGlobal)
	return []EventType{
		on[ContextReported](agent, TypeContextReported, "what fills a model's context window"),
		on[UsageSnapshot](agent, TypeUsageSnapshot, "what was used up so far"),
		on[ProviderQuota](global, TypeProviderQuota, "what a provider still allows"),
	}
}
