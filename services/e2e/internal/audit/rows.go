package audit

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"

	"rollcall/subjects"
)

// checkPresenceRows holds the rows of PRESENCE against the stream.
func (c *checker) checkPresenceRows() {
	agents, instances := map[key]bool{}, map[key]bool{}
	for _, row := range c.history.Presence {
		name := "PRESENCE " + row.Key
		k, err := subjects.ParsePresenceKey(row.Key)
		if err != nil {
			if !strings.HasPrefix(row.Key, subjects.SystemTenant+".") { // presence's own notes
				c.report(WellFormed, name, nil, "%v", err)
			}
			continue
		}
		if k.Agent != "" {
			var agent subjects.AgentRow
			if err := json.Unmarshal(row.Value, &agent); err != nil {
				c.report(WellFormed, name, nil, "%v", err)
				continue
			}
			agents[key{k.Tenant, k.Agent}] = true
			c.checkAgentRow(key{k.Tenant, k.Agent}, name, agent)
			continue
		}
		var instance subjects.InstanceRow
		if err := json.Unmarshal(row.Value, &instance); err != nil {
			c.report(WellFormed, name, nil, "%v", err)
			continue
		}
		instances[key{k.Tenant, k.Instance}] = true
		c.checkInstanceRow(key{k.Tenant, k.Instance}, name, instance)
	}
	for _, k := range sorted(c.agents) {
		if !agents[k] {
			c.checkNoAgentRow(k, c.agents[k])
		}
	}
	for _, k := range sorted(c.instances) {
		if !instances[k] && len(open(c.instances[k])) > 0 {
			c.report(RowIsReplay, "PRESENCE "+subjects.InstanceKey(k.tenant, k.id), nil, "no row, and connections %v are open", open(c.instances[k]))
		}
	}
}

// checkInstanceRow holds that a device's row shows the connections that are open.
// In which order those of different agents got there is nobody's promise.
func (c *checker) checkInstanceRow(k key, name string, row subjects.InstanceRow) {
	sound, links := true, []string{}
	for _, l := range row.Links {
		links = append(links, l.ConnectionID)
		sound = c.checkGhost(name, row.InstanceID, k.tenant, l.ConnectionID, l.GatewayID, l.Incarnation) && sound
	}
	if !sound {
		return
	}
	slices.Sort(links)
	want := open(c.instances[k])
	if !slices.Equal(links, want) || (row.ConnectionID == "") != (len(want) == 0) ||
		row.ConnectionID != "" && !slices.Contains(want, row.ConnectionID) {
		c.report(RowIsReplay, name, nil, "shows %q of the connections %v; open are %v", row.ConnectionID, links, want)
	}
}

// open lists connections that are.
func open(connections []*connection) []string {
	out := []string{}
	for _, known := range connections {
		if known.open() {
			out = append(out, known.id)
		}
	}
	slices.Sort(out)
	return out
}

// checkInstances holds that a device's row was announced when a connection of it
// opened, and only for what happened to it.
func (c *checker) checkInstances() {
	present := map[key]bool{}
	for _, e := range c.events {
		if e.subject.Class != subjects.ClassAgentConnection && e.subject.Class != subjects.ClassInstanceConnection {
			continue
		}
		var about struct {
			InstanceID   string `json:"instance_id"`
			ConnectionID string `json:"connection_id"`
		}
		if err := json.Unmarshal(e.envelope.Payload, &about); err != nil || about.InstanceID == "" {
			continue // reported as malformed
		}
		subject := subjects.InstancePresence(e.subject.Tenant, about.InstanceID, "upserted").String()
		said, announced := c.announced[subject][e.Seq]
		if announced && derivedID(said) {
			c.explained[said.Seq] = true
		}
		k := key{e.subject.Tenant, about.ConnectionID}
		switch e.subject.Name {
		case "opened":
			known := c.connections[k]
			if !announced && !present[k] && known != nil && !c.refusable(e, known.owner) {
				c.report(NoneLost, subject, []uint64{e.Seq}, "connection %s opened, and nothing says so", about.ConnectionID)
			}
			present[k] = true
		case "closed":
			delete(present, k)
		}
	}
}

// sorted lists the keys of a map in order.
func sorted[V any](m map[key]V) []key {
	return slices.SortedFunc(maps.Keys(m), func(a, b key) int { return strings.Compare(a.tenant+"."+a.id, b.tenant+"."+b.id) })
}
