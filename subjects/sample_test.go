package subjects_test

import (
	"encoding/json"
	"time"

	"rollcall/subjects"
)

// The samples set every field, also those that would not meet in one value
// (a device that is connected and has a time at which it lapses).

func sampleOpened() subjects.ConnectionOpened {
	return subjects.ConnectionOpened{
		ConnectionID: connectionID, InstanceID: deviceID, GatewayID: gatewayID, Incarnation: incarnationID,
		Role: subjects.RoleClient, IP: "203.0.113.9", Host: "ada-laptop", Version: "2.1.0", Mode: "cli",
		Capabilities: []subjects.Capability{{ID: "shell", Version: "1"}, {ID: "browser", Version: "2"}},
	}
}

func sampleClosed() subjects.ConnectionClosed {
	return subjects.ConnectionClosed{
		ConnectionID: connectionID, InstanceID: deviceID, Reason: subjects.ClosedHeartbeatTimeout, Code: 1001,
	}
}

func sampleBeacon() subjects.ConnectionBeacon {
	return subjects.ConnectionBeacon{
		ConnectionID: connectionID, InstanceID: deviceID,
		Reported:         subjects.Reported{Host: "ada-laptop", IP: "192.0.2.7", Version: "2.1.0", Mode: "cli"},
		LastInputSeconds: new(int64(12)), Metadata: json.RawMessage(`{"battery":0.8,"tags":["lab"]}`),
	}
}

func sampleChanged() subjects.PresenceChanged {
	return subjects.PresenceChanged{
		AgentID: "ada", Status: subjects.StatusWorking, Previous: subjects.StatusOnline, Reason: subjects.ReasonLeaseGranted,
		Connections: 2, Leases: 1, Since: at(),
	}
}

func samplePruned() subjects.PresencePruned {
	return subjects.PresencePruned{InstanceID: deviceID, Reason: subjects.PrunedTTL}
}

func sampleAudit() subjects.AuditRecord {
	return subjects.AuditRecord{
		AgentID: "ada", LeaseID: leaseID, Kind: "begin", StaleConnectionID: incarnationID,
		CurrentConnectionID: connectionID, Detail: "the lease's connection is gone",
	}
}

func sampleAgentRow() subjects.AgentRow {
	return subjects.AgentRow{
		AgentID: "ada", Status: subjects.StatusWorking, Since: at(), Reason: subjects.ReasonLeaseGranted,
		Connections: []subjects.AgentConnectionEntry{{
			ConnectionID: connectionID, InstanceID: deviceID, GatewayID: gatewayID, Incarnation: incarnationID,
			ConnectedAt: at().Add(-time.Minute), Leases: []string{leaseID},
		}},
		LastSeenAt: at(),
		Evidence:   &subjects.Evidence{Seq: 42, EventID: eventID, Type: subjects.TypeLeaseGranted, At: at()},
		AppliedSeq: 42, Previous: subjects.StatusOnline,
	}
}

func sampleInstanceRow() subjects.InstanceRow {
	return subjects.InstanceRow{
		InstanceID: deviceID, Role: subjects.RoleClient, Host: "ada-laptop", IP: "203.0.113.9", Version: "2.1.0", Mode: "cli",
		AgentID: "ada", ConnectionID: connectionID, ConnectedAt: at().Add(-time.Minute), LastSeenAt: at(),
		ExpiresAt: at().Add(5 * time.Minute), LastInputSeconds: new(int64(12)), Reason: subjects.InstancePeriodic,
		Metadata: json.RawMessage(`{"battery":0.8}`), Reported: &subjects.ReportedAddress{Host: "ada-laptop", IP: "192.0.2.7"},
		Links: []subjects.Link{{
			ConnectionID: connectionID, AgentID: "ada", GatewayID: gatewayID, Incarnation: incarnationID,
			ConnectedAt: at().Add(-time.Minute), Role: subjects.RoleClient, IP: "203.0.113.9", Host: "ada-laptop",
			Version: "2.1.0", Mode: "cli",
		}},
		Applied: map[string]uint64{"": 7, "ada": 42},
	}
}

func sampleLeaseRow() subjects.LeaseRow {
	return subjects.LeaseRow{
		LeaseID: leaseID, AgentID: "ada", ConnectionID: connectionID, Resource: "repo/acme/site", State: "GRANTED",
		Verdict: &subjects.Verdict{Decision: "grant", Reason: "default", By: "policy"}, Fence: 3,
		RequestedAt: at(), ResolvedAt: at(), ClaimedAt: at(), EndedAt: at(), ExpiresAt: at().Add(time.Minute),
		ClaimExpiresAt: at().Add(15 * time.Minute), MessageID: "m-1", Metadata: json.RawMessage(`{"ticket":7}`), Reason: "timeout",
	}
}
