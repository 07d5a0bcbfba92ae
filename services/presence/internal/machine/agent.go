package machine

import (
	"slices"

	"rollcall/subjects"
)

// Step applies an event to an agent's row. A missing row is
// subjects.OfflineAgent. The row that comes back is the one given unless the
// first effect is Save; the one given is never modified.
func Step(row subjects.AgentRow, in Input) (subjects.AgentRow, []Effect) {
	switch {
	case in.Seq < row.AppliedSeq:
		return row, nil
	case in.Seq == row.AppliedSeq:
		return row, again(row, in)
	}
	row.Connections = cloneConnections(row.Connections)
	switch fact := in.Fact.(type) {
	case Opened:
		return open(row, in, fact)
	case Closed:
		return shut(row, in, fact)
	case Beacon:
		return beacon(row, in, fact)
	case LeaseBegan:
		return begin(row, in, fact)
	case LeaseEnded:
		return end(row, in, fact)
	default:
		return row, nil
	}
}

// again repeats the announcement of the event that made the row's last change,
// for the case that the process died after it saved the row.
func again(row subjects.AgentRow, in Input) []Effect {
	if row.Evidence == nil || row.Evidence.Seq != in.Seq {
		return nil
	}
	return []Effect{changed(row)}
}

func open(row subjects.AgentRow, in Input, fact Opened) (subjects.AgentRow, []Effect) {
	if find(row, fact.ConnectionID) >= 0 {
		return row, nil
	}
	row.Connections = append(row.Connections, subjects.AgentConnectionEntry{
		ConnectionID: fact.ConnectionID,
		InstanceID:   fact.InstanceID,
		GatewayID:    fact.GatewayID,
		Incarnation:  fact.Incarnation,
		ConnectedAt:  in.At,
		Leases:       []string{},
	})
	row.LastSeenAt = in.At
	return settle(row, in, subjects.ReasonConnected)
}

func shut(row subjects.AgentRow, in Input, fact Closed) (subjects.AgentRow, []Effect) {
	i := find(row, fact.ConnectionID)
	if i < 0 {
		return row, nil
	}
	// The connection's leases live inside its entry, and so leave with it: no
	// lease can be left behind.
	row.Connections = slices.Delete(row.Connections, i, i+1)
	row.LastSeenAt = in.At
	return settle(row, in, reasonOfClose(fact.Reason))
}

func beacon(row subjects.AgentRow, in Input, fact Beacon) (subjects.AgentRow, []Effect) {
	if find(row, fact.ConnectionID) < 0 {
		return row, nil
	}
	row.LastSeenAt = in.At
	return settle(row, in, row.Reason)
}

func begin(row subjects.AgentRow, in Input, fact LeaseBegan) (subjects.AgentRow, []Effect) {
	i := find(row, fact.ConnectionID)
	if i < 0 {
		return row, audit(row, "begin", fact.LeaseID, fact.ConnectionID)
	}
	if slices.Contains(row.Connections[i].Leases, fact.LeaseID) {
		return row, nil
	}
	row.Connections[i].Leases = append(row.Connections[i].Leases, fact.LeaseID)
	return settle(row, in, subjects.ReasonLeaseGranted)
}

func end(row subjects.AgentRow, in Input, fact LeaseEnded) (subjects.AgentRow, []Effect) {
	i := find(row, fact.ConnectionID)
	if i < 0 {
		return row, audit(row, "end", fact.LeaseID, fact.ConnectionID)
	}
	j := slices.Index(row.Connections[i].Leases, fact.LeaseID)
	if j < 0 {
		return row, nil
	}
	row.Connections[i].Leases = slices.Delete(row.Connections[i].Leases, j, j+1)
	return settle(row, in, subjects.ReasonLeaseEnded)
}

// settle closes a change of the row: it marks the event as applied and, if the
// status is another than before, notes why and announces it.
func settle(row subjects.AgentRow, in Input, reason string) (subjects.AgentRow, []Effect) {
	row.AppliedSeq = in.Seq
	status := statusOf(row)
	if status == row.Status {
		return row, []Effect{Save{}}
	}
	row.Previous, row.Status = row.Status, status
	row.Since, row.Reason = in.At, reason
	row.Evidence = &subjects.Evidence{Seq: in.Seq, EventID: in.EventID, Type: in.Type, At: in.At}
	return row, []Effect{Save{}, changed(row)}
}

func statusOf(row subjects.AgentRow) subjects.Status {
	switch {
	case row.Leases() > 0:
		return subjects.StatusWorking
	case len(row.Connections) > 0:
		return subjects.StatusOnline
	default:
		return subjects.StatusOffline
	}
}

func changed(row subjects.AgentRow) Changed {
	return Changed{subjects.PresenceChanged{
		AgentID:     row.AgentID,
		Status:      row.Status,
		Previous:    row.Previous,
		Reason:      row.Reason,
		Connections: len(row.Connections),
		Leases:      row.Leases(),
		Since:       row.Since,
	}}
}

// audit reports a lease event on a connection that is not in the row. It needs
// no mark in the row: until the event is acknowledged it finds the same row
// and gives the same audit under the same id.
func audit(row subjects.AgentRow, kind, lease, connection string) []Effect {
	record := subjects.AuditRecord{AgentID: row.AgentID, LeaseID: lease, Kind: kind, StaleConnectionID: connection}
	switch {
	case len(row.Connections) > 0:
		record.CurrentConnectionID = row.Connections[len(row.Connections)-1].ConnectionID
		return []Effect{Audited{subjects.AuditStaleConnection, record}}
	case kind == "begin":
		return []Effect{Audited{subjects.AuditBeginAfterDisconnect, record}}
	default:
		return []Effect{Audited{subjects.AuditEndAfterDisconnect, record}}
	}
}

func reasonOfClose(reason string) string {
	switch reason {
	case subjects.ClosedHeartbeatTimeout:
		return subjects.ReasonHeartbeatTimeout
	case subjects.ClosedGatewayLost:
		return subjects.ReasonGatewayLost
	default:
		return subjects.ReasonDisconnected
	}
}

func find(row subjects.AgentRow, connection string) int {
	return slices.IndexFunc(row.Connections, func(c subjects.AgentConnectionEntry) bool {
		return c.ConnectionID == connection
	})
}

func cloneConnections(in []subjects.AgentConnectionEntry) []subjects.AgentConnectionEntry {
	out := make([]subjects.AgentConnectionEntry, len(in))
	for i, c := range in {
		c.Leases = append(make([]string, 0, len(c.Leases)), c.Leases...)
		out[i] = c
	}
	return out
}
