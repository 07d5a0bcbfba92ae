package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"rollcall/services/gateway/internal/machine"
	"rollcall/subjects"
)

// maxSafe is the largest number that is the same one in that client's language.
const maxSafe = 1<<53 - 1

// tyrumEntry is an instance row as that client reads it.
type tyrumEntry struct {
	InstanceID       string          `json:"instance_id"`
	Role             string          `json:"role"`
	Host             string          `json:"host,omitempty"`
	IP               string          `json:"ip,omitempty"`
	Version          string          `json:"version,omitempty"`
	Mode             string          `json:"mode,omitempty"`
	LastSeenAt       time.Time       `json:"last_seen_at"`
	LastInputSeconds *int64          `json:"last_input_seconds,omitempty"`
	Reason           string          `json:"reason"`
	Metadata         json.RawMessage `json:"metadata,omitempty"`
}

// entryOfTyrum maps a row. What the client's closed reader would not take is left
// out: one row that it refuses may cost it all it was told.
func entryOfTyrum(row subjects.InstanceRow) tyrumEntry {
	e := tyrumEntry{
		InstanceID: row.InstanceID, Role: row.Role, Host: machine.Trim(row.Host), IP: machine.Trim(row.IP),
		Version: machine.Trim(row.Version), Mode: row.Mode, LastSeenAt: row.LastSeenAt.UTC(),
		LastInputSeconds: row.LastInputSeconds, Reason: reasonOfTyrum(row.Reason),
		Metadata: withConnected(row.Metadata, row.ConnectionID != ""),
	}
	if row.Reported != nil {
		// A name is a peer's own word in any case; an address is not.
		if host := machine.Trim(row.Reported.Host); host != "" {
			e.Host = host
		}
	}
	if !slices.Contains(subjects.Modes(), e.Mode) {
		e.Mode = ""
	}
	if e.LastInputSeconds != nil && *e.LastInputSeconds > maxSafe {
		e.LastInputSeconds = nil
	}
	return e
}

// reasonOfTyrum is the nearest of the reasons that the client's own gateway gives.
// It has none for a device that is gone: metadata says so.
func reasonOfTyrum(reason string) string {
	switch reason {
	case subjects.InstanceSelf, subjects.InstanceConnected:
		return reason
	case subjects.InstanceNodeConnected:
		return subjects.InstanceConnected
	default:
		return subjects.InstancePeriodic
	}
}

// withConnected adds to a device's metadata that it is gone. While it is there
// nothing is added, and what the device itself says under that name does not stand.
func withConnected(metadata json.RawMessage, connected bool) json.RawMessage {
	if connected && !bytes.Contains(metadata, []byte(`connected`)) {
		return metadata
	}
	members := map[string]json.RawMessage{}
	if len(metadata) > 0 && json.Unmarshal(metadata, &members) != nil || members == nil {
		members = map[string]json.RawMessage{}
	}
	if _, said := members["connected"]; said || !connected {
		members["connected"] = encodeFrame(connected)
	}
	return encodeFrame(members)
}

type tyrumUpserted struct {
	Entry tyrumEntry `json:"entry"`
}

type tyrumPruned struct {
	InstanceID string `json:"instance_id"`
}

// encodeTyrum makes an event's frame. Where and whom it concerns stays out of it:
// the client knows other kinds of scopes, and one that it does not know would make
// the whole frame an error to it.
func encodeTyrum(event subjects.Event) ([]byte, error) {
	frame := tyrumEvent{EventID: event.EventID, Type: event.Type, OccurredAt: event.OccurredAt.UTC(), Payload: event.Payload}
	switch event.Type {
	case subjects.TypePresenceUpserted:
		p, err := subjects.DecodePayload[subjects.PresenceUpserted](event)
		if err != nil {
			return nil, err
		}
		frame.Payload = encodeFrame(tyrumUpserted{entryOfTyrum(p.Entry)})
	case subjects.TypePresencePruned:
		p, err := subjects.DecodePayload[subjects.PresencePruned](event)
		if err != nil {
			return nil, err
		}
		frame.Payload = encodeFrame(tyrumPruned{p.InstanceID})
	}
	data, err := json.Marshal(frame)
	if err != nil {
		return nil, fmt.Errorf("encode event frame: %w", err)
	}
	return data, nil
}

// tyrumBeacon is the payload of presence.beacon.
type tyrumBeacon struct {
	Host             *string         `json:"host"`
	IP               *string         `json:"ip"`
	Version          *string         `json:"version"`
	Mode             *string         `json:"mode"`
	LastInputSeconds *int64          `json:"last_input_seconds"`
	Metadata         json.RawMessage `json:"metadata"`
}

func decodeTyrumBeacon(raw json.RawMessage) (beaconPayload, error) {
	p, err := subjects.Decode[tyrumBeacon](raw)
	if err != nil {
		return beaconPayload{}, err
	}
	out := beaconPayload{LastInputSeconds: p.LastInputSeconds, Metadata: p.Metadata}
	for _, text := range []struct {
		field string
		given *string
		into  *string
	}{
		{"host", p.Host, &out.Host},
		{"ip", p.IP, &out.IP},
		{"version", p.Version, &out.Version},
		{"mode", p.Mode, &out.Mode},
	} {
		if text.given == nil {
			continue
		}
		if *text.into = machine.Trim(*text.given); *text.into == "" {
			return beaconPayload{}, subjects.Invalid(text.field, "must not be empty")
		}
	}
	if len(out.Metadata) == 0 || string(out.Metadata) == "null" {
		out.Metadata = json.RawMessage(`{}`) // a beacon replaces the metadata, in this dialect
	}
	return out, nil
}

// beaconTyrum stores a beacon, and answers it when the event that comes of it is in
// the peer's queue, as that client is used to. Where the event does not come in time
// it is answered all the same: it is stored, and what it says will be told.
func (s *socket) beaconTyrum(ctx context.Context, raw json.RawMessage) (any, error) {
	payload, err := decodeTyrumBeacon(raw)
	if err != nil {
		return nil, err
	}
	echo, done := s.listenForEcho()
	defer done()
	seq, err := s.report(ctx, payload)
	if err != nil {
		return nil, err
	}
	row, heard := s.awaitEcho(ctx, echo, seq)
	if !heard {
		row = s.peer.entry
	}
	return tyrumUpserted{entryOfTyrum(row)}, nil
}
