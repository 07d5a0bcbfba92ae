package gateway

import (
	"context"
	"encoding/json"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/subjects"
)

// attendant plays the part of the presence service that concerns devices: it keeps
// their rows and announces them, as events about their connections are stored. It
// shows a device by its last connection only.
type attendant struct {
	t        *testing.T
	presence *presence
	mu       sync.Mutex
	rows     map[string]subjects.InstanceRow
	causes   uint64 // of announcements that no event is the cause of
}

// attend starts one. The gateways must have been started.
func (w *world) attend(t *testing.T) *attendant {
	t.Helper()
	a := &attendant{t: t, presence: w.presence(t), rows: map[string]subjects.InstanceRow{}}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	from := w.lastSeq(t) + 1
	running.Go(func() {
		filters := []string{"tenant.*.agent.*.connection.>", "tenant.*.instance.*.connection.>"}
		_ = w.bus.Read(ctx, subjects.StreamEvents, filters, from, func(d *bus.Delivery) { a.take(ctx, d) })
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return a
}

// take applies an event. What fails once the test is over is nobody's affair.
func (a *attendant) take(ctx context.Context, d *bus.Delivery) {
	subject, err := subjects.Parse(d.Subject)
	if err != nil || subject.Tenant == subjects.SystemTenant {
		return
	}
	event, err := subjects.DecodeEvent(d.Data)
	if err != nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	row, changed := a.step(event, d.Time.UTC())
	if !changed {
		return
	}
	a.rows[row.InstanceID] = row
	revision, err := a.presence.write(ctx, subjects.InstanceKey(subject.Tenant, row.InstanceID), row)
	if err != nil {
		return
	}
	a.announce(ctx, subject.Tenant, row, d.Seq, revision)
}

func (a *attendant) step(event subjects.Event, at time.Time) (subjects.InstanceRow, bool) {
	switch event.Type {
	case subjects.TypeConnectionOpened:
		p, _ := subjects.DecodePayload[subjects.ConnectionOpened](event)
		row := a.rows[p.InstanceID]
		row.InstanceID, row.Role, row.Host, row.IP, row.Version, row.Mode = p.InstanceID, p.Role, p.Host, p.IP, p.Version, p.Mode
		row.ConnectionID, row.ConnectedAt, row.LastSeenAt, row.Reason = p.ConnectionID, at, at, subjects.InstanceConnected
		if p.Role == subjects.RoleNode {
			row.Reason = subjects.InstanceNodeConnected
		}
		row.Links = []subjects.Link{{ConnectionID: p.ConnectionID, GatewayID: p.GatewayID, Incarnation: p.Incarnation, ConnectedAt: at}}
		return row, true
	case subjects.TypeConnectionBeacon:
		p, _ := subjects.DecodePayload[subjects.ConnectionBeacon](event)
		return a.rows[p.InstanceID].WithBeacon(p, at), true
	case subjects.TypeConnectionClosed:
		p, _ := subjects.DecodePayload[subjects.ConnectionClosed](event)
		row := a.rows[p.InstanceID]
		changed := row.ConnectionID == p.ConnectionID
		row.ConnectionID, row.Reason, row.Links = "", subjects.InstanceDisconnected, nil
		return row, changed
	default:
		return subjects.InstanceRow{}, false
	}
}

func (a *attendant) announce(ctx context.Context, tenant string, row subjects.InstanceRow, cause, revision uint64) {
	header := nats.Header{
		subjects.HeaderCause:       {subjects.Cause(cause)},
		subjects.HeaderRowRevision: {strconv.FormatUint(revision, 10)},
	}
	// What fails once the test is over is nobody's affair.
	_ = a.publish(ctx, subjects.InstancePresence(tenant, row.InstanceID, "upserted"), cause, subjects.PresenceUpserted{Entry: row.Public()}, header)
}

// prune announces that a device's row is gone.
func (a *attendant) prune(tenant, instance string) {
	a.t.Helper()
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.rows, instance)
	err := a.publish(a.t.Context(), subjects.InstancePresence(tenant, instance, "pruned"), a.presence.rows[subjects.InstanceKey(tenant, instance)],
		subjects.PresencePruned{InstanceID: instance, Reason: subjects.PrunedTTL}, nil)
	require.NoError(a.t, err)
}

func (a *attendant) publish(ctx context.Context, subject subjects.Subject, cause uint64, payload any, header nats.Header) error {
	id := subjects.DeriveID(subject.Tenant, subject.String(), subjects.Cause(cause), subject.Type())
	scope := subjects.Scope{Kind: subjects.ScopeDevice, ID: subject.Instance}
	event, err := subjects.NewEvent(id, subject.Type(), time.Now(), scope, payload)
	if err != nil {
		return err
	}
	data, err := json.Marshal(event)
	if err != nil {
		return err
	}
	_, err = a.presence.bus.Publish(ctx, bus.Message{Subject: subject.String(), ID: id, Data: data, Header: header})
	return err
}
