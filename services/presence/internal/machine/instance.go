package machine

import (
	"maps"
	"slices"
	"time"

	"rollcall/subjects"
)

// maxSources bounds the sources an instance row remembers; a device speaks for
// one agent, rarely for a few.
const maxSources = 16

// StepInstance applies a connection event to an instance's row. Source is the
// agent whose subject carried the event, or empty for the instance's own
// subjects: events of one source arrive in order, those of different sources
// may overtake each other. Retention is how long the row stays after the last
// close.
//
// An event that is not above the last one applied from its source has no
// effect; if it is that one, its announcement is made again.
func StepInstance(row subjects.InstanceRow, source string, in Input, retention time.Duration) (subjects.InstanceRow, []Effect) {
	if last, known := row.Applied[source]; known && in.Seq <= last {
		if in.Seq < last {
			return row, nil
		}
		return row, []Effect{Upserted{row.Public()}}
	}
	row.Links = slices.Clone(row.Links)
	switch fact := in.Fact.(type) {
	case Opened:
		return openLink(row, source, in, fact)
	case Closed:
		return closeLink(row, source, in, fact, retention)
	case Beacon:
		return beaconLink(row, source, in, fact)
	case LeaseBegan, LeaseEnded:
		return row, nil
	default:
		return row, nil
	}
}

func openLink(row subjects.InstanceRow, source string, in Input, fact Opened) (subjects.InstanceRow, []Effect) {
	if findLink(row, fact.ConnectionID) >= 0 {
		return row, nil
	}
	link := subjects.Link{
		ConnectionID: fact.ConnectionID,
		AgentID:      source,
		GatewayID:    fact.GatewayID,
		Incarnation:  fact.Incarnation,
		ConnectedAt:  in.At,
		Role:         fact.Role,
		IP:           fact.IP,
		Host:         fact.Host,
		Version:      fact.Version,
		Mode:         fact.Mode,
	}
	row.Links = append(row.Links, link)
	row = show(row, newest(row.Links))
	row.InstanceID = fact.InstanceID
	if in.At.After(row.LastSeenAt) {
		row.LastSeenAt = in.At
	}
	return noted(row, source, in), []Effect{Save{}, Upserted{row.Public()}}
}

func closeLink(
	row subjects.InstanceRow, source string, in Input, fact Closed, retention time.Duration,
) (subjects.InstanceRow, []Effect) {
	i := findLink(row, fact.ConnectionID)
	if i < 0 {
		return row, nil
	}
	row.Links = slices.Delete(row.Links, i, i+1)
	switch {
	case len(row.Links) == 0:
		row.ConnectionID = ""
		row.LastSeenAt, row.ExpiresAt = in.At, in.At.Add(retention)
		row.Reason = subjects.InstanceDisconnected
	case fact.ConnectionID != row.ConnectionID:
		// An old connection of a device that is shown by a newer one: nobody
		// sees a difference.
		return noted(row, source, in), []Effect{Save{}}
	default:
		// The device lives on through an older socket.
		row = show(row, newest(row.Links))
	}
	return noted(row, source, in), []Effect{Save{}, Upserted{row.Public()}}
}

func beaconLink(row subjects.InstanceRow, source string, in Input, fact Beacon) (subjects.InstanceRow, []Effect) {
	i := findLink(row, fact.ConnectionID)
	if i < 0 {
		return row, nil
	}
	row = row.WithBeacon(fact.ConnectionBeacon, in.At)
	if fact.ConnectionID == row.ConnectionID {
		row.Links[i].Version, row.Links[i].Mode = row.Version, row.Mode
	}
	return noted(row, source, in), []Effect{Save{}, Upserted{row.Public()}}
}

// show makes a link the one the row is shown by. What the peer said of itself
// in beacons stays.
func show(row subjects.InstanceRow, link subjects.Link) subjects.InstanceRow {
	row.ConnectionID, row.ConnectedAt = link.ConnectionID, link.ConnectedAt
	row.AgentID, row.Role = link.AgentID, link.Role
	row.IP, row.Host = link.IP, link.Host
	row.Version, row.Mode = link.Version, link.Mode
	row.ExpiresAt = time.Time{}
	switch link.Role {
	case subjects.RoleGateway:
		row.Reason = subjects.InstanceSelf
	case subjects.RoleNode:
		row.Reason = subjects.InstanceNodeConnected
	default:
		row.Reason = subjects.InstanceConnected
	}
	return row
}

// newest is the link opened last. Links of different sources may have been
// appended out of order.
func newest(links []subjects.Link) subjects.Link {
	return slices.MaxFunc(links, func(a, b subjects.Link) int { return a.ConnectedAt.Compare(b.ConnectedAt) })
}

// noted marks the event as applied for its source.
func noted(row subjects.InstanceRow, source string, in Input) subjects.InstanceRow {
	row.Applied = maps.Clone(row.Applied)
	if row.Applied == nil {
		row.Applied = map[string]uint64{}
	}
	row.Applied[source] = in.Seq
	for len(row.Applied) > maxSources {
		oldest := source
		for s, seq := range row.Applied {
			if seq < row.Applied[oldest] {
				oldest = s
			}
		}
		delete(row.Applied, oldest)
	}
	return row
}

func findLink(row subjects.InstanceRow, connection string) int {
	return slices.IndexFunc(row.Links, func(l subjects.Link) bool { return l.ConnectionID == connection })
}
