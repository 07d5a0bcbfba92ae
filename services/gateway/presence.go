package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
)

const (
	// snapshotWait bounds how long a subscription waits for the view.
	snapshotWait = 2 * time.Second
	// maxAgentIDs bounds the agents of one request, maxListed those that one
	// socket may list one by one over its life.
	maxAgentIDs = 1000
	maxListed   = 10_000
)

// beaconPayload is the payload of presence.beacon.
type beaconPayload struct {
	Host             string          `json:"host"`
	IP               string          `json:"ip"`
	Version          string          `json:"version"`
	Mode             string          `json:"mode"`
	LastInputSeconds *int64          `json:"last_input_seconds"`
	Metadata         json.RawMessage `json:"metadata"`
}

type beaconResult struct {
	Entry subjects.InstanceRow `json:"entry"`
}

// beacon stores what the peer says of itself, and answers once it is stored.
func (s *socket) beacon(ctx context.Context, raw json.RawMessage) (any, error) {
	payload, err := subjects.Decode[beaconPayload](raw)
	if err != nil {
		return nil, err
	}
	if _, err := s.report(ctx, payload); err != nil {
		return nil, err
	}
	return beaconResult{Entry: s.peer.entry.Public()}, nil
}

// report stores a beacon and returns its place in the stream.
func (s *socket) report(ctx context.Context, payload beaconPayload) (uint64, error) {
	b := subjects.ConnectionBeacon{
		ConnectionID: s.peer.connectionID, InstanceID: s.peer.init.Device.DeviceID,
		Reported:         subjects.Reported{Host: payload.Host, IP: payload.IP, Version: payload.Version, Mode: payload.Mode},
		LastInputSeconds: payload.LastInputSeconds, Metadata: payload.Metadata,
	}
	// Validate would name the peer's keys as the event has them.
	if err := subjects.CheckReported(b.Reported); err != nil {
		return 0, err // names field and rule
	}
	if err := b.Validate(); err != nil {
		return 0, err
	}
	if err := limit(s.beacons); err != nil {
		s.gateway.hit(limitBeacons)
		return 0, err
	}
	now := time.Now().UTC()
	r, err := newRecord(s.token.Tenant, s.token.Agent, b.InstanceID, "beacon", now, b)
	if err != nil {
		return 0, err
	}
	ack, err := s.gateway.publisher.store(ctx, r)
	if err != nil {
		return 0, err
	}
	s.peer.entry = s.entry().WithBeacon(b, now)
	return ack.Seq, nil
}

// entry is the peer's instance row: the stored one, unless it lags behind what
// this connection itself has said.
func (s *socket) entry() subjects.InstanceRow {
	row, ok := s.gateway.view.instance(s.token.Tenant, s.peer.init.Device.DeviceID)
	if !ok || row.ConnectionID == "" || row.LastSeenAt.Before(s.peer.entry.LastSeenAt) {
		return s.peer.entry
	}
	return row
}

// listPayload is the payload of presence.list.
type listPayload struct {
	Kind   string `json:"kind"`
	Status string `json:"status"`
	Role   string `json:"role"`
	Prefix string `json:"prefix"`
	Limit  *int   `json:"limit"`
	After  string `json:"after"`
}

func (s *socket) list(ctx context.Context, raw json.RawMessage) (any, error) {
	payload, err := subjects.Decode[listPayload](raw)
	if err != nil {
		return nil, err
	}
	q, err := newListQuery(payload)
	if err != nil {
		return nil, err
	}
	if !s.presenceReader() {
		if s.token.Agent == "" {
			return nil, forbidden(token.ScopePresenceRead)
		}
		q.onlyAgent, q.onlyInstance = s.token.Agent, s.peer.init.Device.DeviceID
	}
	return s.gateway.list(ctx, s.token.Tenant, q)
}

// selectPayload is the payload of presence.subscribe and presence.unsubscribe.
type selectPayload struct {
	AgentIDs *[]string `json:"agent_ids"`
	All      *bool     `json:"all"`
}

// selectAgents reads a selection: a list of agents, or all of them.
func (s *socket) selectAgents(raw json.RawMessage) (selection, error) {
	p, err := subjects.Decode[selectPayload](raw)
	if err != nil {
		return selection{}, err
	}
	want := selection{tenant: s.token.Tenant}
	switch {
	case p.All != nil && !*p.All:
		return want, subjects.Invalid("all", "must be true")
	case p.All != nil && p.AgentIDs != nil:
		return want, subjects.Invalid("agent_ids", "must be left out when all is true")
	case p.All != nil:
		want.all = true
		return want, nil
	case p.AgentIDs == nil || len(*p.AgentIDs) == 0:
		return want, subjects.Invalid("agent_ids", "must name at least one agent, unless all is true")
	case len(*p.AgentIDs) > maxAgentIDs:
		return want, subjects.Invalid("agent_ids", "must name at most 1000 agents")
	}
	want.agents = *p.AgentIDs
	for i, agent := range want.agents {
		if err := subjects.CheckAgent(fmt.Sprintf("agent_ids[%d]", i), agent); err != nil {
			return want, err // names field and rule
		}
	}
	return want, nil
}

type subscribeResult struct {
	Statuses []agentItem `json:"statuses"`
	Cursor   string      `json:"cursor"`
}

// subscribe answers with the statuses now, and from then on every change
// follows: see audience.go for how the two meet.
func (s *socket) subscribe(ctx context.Context, r machine.Request) {
	want, err := s.selectAgents(r.Payload)
	if err != nil {
		s.answer(r, nil, err)
		return
	}
	f, err := s.subscribable(ctx, want)
	if err != nil {
		s.answer(r, nil, err)
		return
	}
	begun := f.begin(s.sub, want)
	waiting, cancel := context.WithTimeout(ctx, snapshotWait)
	defer cancel()
	if err := s.gateway.view.await(waiting, want.tenant, begun.need); err != nil {
		f.abandon(s.sub, begun)
		s.answer(r, nil, fmt.Errorf("wait for announced rows: %w", err))
		return
	}
	snapshot := s.gateway.view.cut(want, s.gateway.doubt())
	s.answer(r, subscribeResult{Statuses: snapshot.shown, Cursor: begun.at.String()}, nil)
	f.release(s.sub, begun, snapshot)
}

// subscribable is the feed to subscribe to, if the peer may have what it wants.
func (s *socket) subscribable(ctx context.Context, want selection) (*feed, error) {
	if err := s.maySee(want); err != nil {
		return nil, err
	}
	f, err := s.feed(ctx)
	if err != nil {
		return nil, err
	}
	if f.watched(s.sub)+len(want.agents) > maxListed {
		return nil, subjects.Invalid("agent_ids", "would make more than 10000 agents on one connection; subscribe to all")
	}
	return f, nil
}

func (s *socket) maySee(want selection) error {
	if !s.presenceReader() {
		for _, agent := range want.agents {
			if agent != s.token.Agent {
				return forbidden(token.ScopePresenceRead)
			}
		}
		if want.all {
			return forbidden(token.ScopePresenceRead)
		}
	}
	return nil
}

func (s *socket) unsubscribe(ctx context.Context, raw json.RawMessage) (any, error) {
	want, err := s.selectAgents(raw)
	if err != nil {
		return nil, err
	}
	f, err := s.feed(ctx)
	if err != nil {
		return nil, err
	}
	f.unwatch(s.sub, want)
	return empty{}, nil
}
