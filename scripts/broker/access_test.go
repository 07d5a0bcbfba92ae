package broker_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

const (
	leaseID      = "01a204db-c520-7648-a223-a01dec12d6b0"
	incarnation  = "01a204db-c520-7648-a223-a01dec12d6b1"
	connectionID = "01a204db-c520-7648-a223-a01dec12d6b2"
)

// written is a subject and who may write it. It is what the documents say, by
// hand, and not derived from the table it checks.
type written struct {
	subject string
	by      []access.Role
}

func by(roles ...access.Role) []access.Role { return roles }

// whoWritesWhat covers every class of subject and every bucket. The producer
// and the tail are of tenant acme.
func whoWritesWhat() []written {
	all := []written{
		{subjects.AgentConnection("acme", "a1", "opened").String(), by(access.Gateway)},
		{subjects.AgentConnection("acme", "a1", "beacon").String(), by(access.Gateway)},
		{subjects.AgentConnection("acme", "a1", "closed").String(), by(access.Gateway, access.Presence)},
		{subjects.AgentConnection("acme", "a1", "invented").String(), nil},
		{subjects.InstanceConnection("acme", other, "opened").String(), by(access.Gateway)},
		{subjects.InstanceConnection("acme", other, "beacon").String(), by(access.Gateway)},
		{subjects.InstanceConnection("acme", other, "closed").String(), by(access.Gateway, access.Presence)},
		{subjects.InstanceConnection(subjects.SystemTenant, own, "opened").String(), by(access.Gateway)},
		{subjects.AgentPresence("acme", "a1").String(), by(access.Presence)},
		{subjects.InstancePresence("acme", other, "upserted").String(), by(access.Presence)},
		{subjects.InstancePresence("acme", other, "pruned").String(), by(access.Presence)},
		{subjects.Audit("acme", "a1", "lease_claim_deadline").String(), by(access.Presence, access.Lease)},
		{subjects.EventAudit("acme", "rejected").String(), by(access.Gateway)},
		{subjects.ProducerEvent("acme", "run.started").String(), by(access.Gateway, access.Producer)},
		{subjects.ProducerEvent("globex", "run.started").String(), by(access.Gateway)},
		{subjects.Edge("acme", incarnation, connectionID).String(), by(access.Gateway, access.Lease)},
		{subjects.LeaseCommand("acme", leaseID, subjects.CommandTimer).String(), nil},
		{subjects.LeaseCommand("acme", leaseID, subjects.TimerSchedule).String(), by(access.Lease)},
		{"$KV.PRESENCE." + subjects.AgentKey("acme", "a1"), by(access.Presence)},
		{"$KV.PRESENCE." + subjects.InstanceKey("acme", other), by(access.Presence)},
		{"$KV.PRESENCE." + subjects.PresenceReaderKey, by(access.Presence)},
		{"$KV.LEASES." + subjects.LeaseKey("acme", "a1", leaseID), by(access.Lease)},
		{"$KV.LEASES." + subjects.ClosedKey("acme", connectionID), by(access.Lease)},
		{"$KV.GATEWAYS." + subjects.GatewayKey(own), by(access.Gateway)},
		{"$KV.GATEWAYS." + subjects.GatewayKey(other), nil},
		{"$KV.SETTINGS." + subjects.SettingsKey("acme", "lease"), nil},
		{"$KV.SETTINGS." + subjects.SettingsKey("acme", "presence"), nil},
		{"$KV.SETTINGS." + subjects.SettingsAccount, nil},
		{"$KV.PRESENCE_REPLAY." + subjects.AgentKey("acme", "a1"), by(access.Replay)},
		{subjects.DeliverPresence, nil},
		{subjects.DeliverLease, nil},
		{"tenant.acme.unheard.of", nil},
		{"elsewhere", nil},
		{"$SYS.REQ.CLAIMS.UPDATE", nil},
		{"$SYS.REQ.SERVER.PING", nil},
	}
	for _, transition := range []string{
		"requested", "granted", "denied", "held", "claimed", "rolled_back", "renewed", "consumed", "expired", "abandoned",
	} {
		all = append(all, written{subjects.AgentLease("acme", "a1", transition).String(), by(access.Lease)})
	}
	for _, command := range subjects.LeaseCommands() {
		if command != subjects.CommandTimer {
			all = append(all, written{subjects.LeaseCommand("acme", leaseID, command).String(), by(access.Gateway)})
		}
	}
	return all
}

// heard is a subscription and who may have it.
func whoHearsWhat(users map[access.Role]guest) []written {
	all := []written{
		{subjects.DeliverPresence, by(access.Presence)},
		{subjects.DeliverLease, by(access.Lease)},
		{"tenant.system.deliver.>", nil},
		{"tenant.acme.>", by(access.Tail)},
		{"tenant.acme.presence.agent.a1.changed", by(access.Tail)},
		{"tenant.globex.>", nil},
		{"tenant.*.>", nil},
		{"tenant.system.>", nil},
		{"tenant.>", nil},
		{">", nil},
		{"$KV.PRESENCE.>", nil},
		{"$KV.LEASES.>", nil},
		{"$KV.PRESENCE_REPLAY.>", nil},
		{"$JS.>", nil},
		{"$JS.API.>", nil},
		{"$SYS.>", nil},
		{"_INBOX.>", nil},
		{"_R_.>", nil},
		{"*.>", nil},
	}
	for role, g := range users {
		if role != access.Admin {
			all = append(all, written{access.InboxPrefix(g.user) + ".>", by(role)})
		}
	}
	return all
}

// apis are the requests that JetStream answers about a stream, with x for the
// name of a consumer.
func apis(stream string) []string {
	var out []string
	for _, verb := range []string{
		"STREAM.CREATE.", "STREAM.UPDATE.", "STREAM.DELETE.", "STREAM.PURGE.", "STREAM.INFO.", "STREAM.MSG.GET.", "STREAM.MSG.DELETE.",
		"STREAM.SNAPSHOT.", "STREAM.RESTORE.", "STREAM.PEER.REMOVE.", "STREAM.LEADER.STEPDOWN.", "DIRECT.GET.",
		"CONSUMER.CREATE.", "CONSUMER.NAMES.", "CONSUMER.LIST.",
	} {
		out = append(out, "$JS.API."+verb+stream)
	}
	for _, verb := range []string{
		"CONSUMER.CREATE.", "CONSUMER.DURABLE.CREATE.", "CONSUMER.DELETE.", "CONSUMER.INFO.", "CONSUMER.MSG.NEXT.",
		"CONSUMER.PAUSE.", "CONSUMER.LEADER.STEPDOWN.", "CONSUMER.UNPIN.", "CONSUMER.RESET.", "DIRECT.GET.",
	} {
		for _, consumer := range []string{
			"x", subjects.ConsumerRegistrar, subjects.ConsumerInstances, subjects.ConsumerCommands, subjects.ConsumerCloses, "presence=acme=a1",
		} {
			out = append(out, "$JS.API."+verb+stream+"."+consumer)
		}
	}
	return append(out,
		"$JS.API.CONSUMER.CREATE."+stream+".x.tenant.acme.agent.a1.>",
		"$JS.ACK."+stream+".x.1.1.1.1.0", "$JS.ACK."+stream+"."+subjects.ConsumerCloses+".1.1.1.1.0", "$JS.FC."+stream+".x.y")
}

func streams() []string {
	out := []string{"OTHER"}
	for _, s := range subjects.Streams(0) {
		out = append(out, s.Name)
	}
	for _, b := range subjects.Buckets() {
		out = append(out, access.BucketStream(b.Name))
	}
	return append(out, access.BucketStream(subjects.BucketReplay))
}

// users are one of each role.
func (h *house) users(t *testing.T) map[access.Role]guest {
	t.Helper()
	out := map[access.Role]guest{}
	for _, u := range []keys.User{
		{Role: access.Gateway, Name: own},
		{Role: access.Presence},
		{Role: access.Lease},
		{Role: access.Producer, Tenant: "acme"},
		{Role: access.Tail, Tenant: "acme"},
		{Role: access.Replay},
		{Role: access.Admin},
	} {
		out[u.Role] = h.connect(t, u)
	}
	return out
}

// allowed is what the table says to a user.
func allowed(p access.Permissions, g guest, subject string) bool {
	fill := strings.NewReplacer("{{subject()}}", g.user, "{{name()}}", own, "{{tag(tenant)}}", "acme")
	covers := func(pattern string) bool { return matches(fill.Replace(pattern), subject) }
	return slices.ContainsFunc(p.Publish, covers) && !slices.ContainsFunc(p.DenyPublish, covers)
}

func matches(pattern, subject string) bool {
	p, s := strings.Split(pattern, "."), strings.Split(subject, ".")
	for i, token := range p {
		if token == ">" {
			return len(s) > i
		}
		if i >= len(s) || token != "*" && token != s[i] {
			return false
		}
	}
	return len(p) == len(s)
}

// TestWhoWritesWhat tries every class of subject as everybody.
func TestWhoWritesWhat(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for role, g := range h.users(t) {
		for _, w := range whoWritesWhat() {
			want := slices.Contains(w.by, role) || role == access.Admin
			require.Equal(t, want, allowed(access.Of(role), g, w.subject), "the table on %s writing %s", role, w.subject)
			require.Equal(t, want, g.mayPublish(t, w.subject), "the server on %s writing %s", role, w.subject)
		}
	}
}

// TestWhoHearsWhat does so for subscriptions, other users' inboxes among them.
func TestWhoHearsWhat(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	users := h.users(t)
	for role, g := range users {
		for _, w := range whoHearsWhat(users) {
			want := slices.Contains(w.by, role) || role == access.Admin
			require.Equal(t, want, g.maySubscribe(t, w.subject), "%s hearing %s", role, w.subject)
		}
	}
}

// TestWhoAsksJetStreamWhat tries every request about every stream as everybody
// but the operator.
func TestWhoAsksJetStreamWhat(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for role, g := range h.users(t) {
		if role == access.Admin {
			continue
		}
		asked := []string{"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.ACCOUNT.PURGE.x", "$JS.API.META.LEADER.STEPDOWN"}
		for _, stream := range streams() {
			asked = append(asked, apis(stream)...)
		}
		for _, subject := range asked {
			want := allowed(access.Of(role), g, subject)
			require.Equal(t, want, g.mayPublish(t, subject), "%s asking %s", role, subject)
			if want {
				requireNeeded(t, role, subject)
			}
		}
	}
}

// requireNeeded holds the table itself to what the documents say of requests.
func requireNeeded(t *testing.T, role access.Role, subject string) {
	t.Helper()
	request := strings.TrimPrefix(subject, "$JS.API.")
	if strings.Contains(subject, "PRESENCE_REPLAY") {
		require.Equal(t, access.Replay, role, subject)
		require.Contains(t, []string{"STREAM.CREATE.KV_PRESENCE_REPLAY", "STREAM.INFO.KV_PRESENCE_REPLAY", "STREAM.DELETE.KV_PRESENCE_REPLAY"}, request, role)
		return
	}
	for _, never := range []string{
		"STREAM.DELETE", "STREAM.MSG.DELETE", "STREAM.SNAPSHOT", "STREAM.RESTORE", "STREAM.PEER", "STREAM.LEADER", "STREAM.NAMES", "STREAM.LIST",
		"CONSUMER.DURABLE", "CONSUMER.PAUSE", "CONSUMER.LEADER", "CONSUMER.UNPIN", "CONSUMER.RESET", "ACCOUNT", "META",
	} {
		require.False(t, strings.HasPrefix(request, never), "%s may ask %s", role, subject)
	}
	require.NotContains(t, subject, "OTHER", role)
	require.True(t, slices.Contains(access.Services(), role) || role == access.Replay, "%s may ask %s", role, subject)
	if role == access.Replay { // it looks, and works for no consumer
		for _, never := range []string{"STREAM.CREATE", "STREAM.UPDATE", "STREAM.PURGE", "DIRECT.GET", "$JS.ACK"} {
			require.False(t, strings.HasPrefix(request, never), "%s may ask %s", role, subject)
		}
	}
	owners := map[string]access.Role{
		"STREAM.UPDATE.EVENTS": access.Presence, "STREAM.UPDATE.KV_PRESENCE": access.Presence, "STREAM.UPDATE.KV_GATEWAYS": access.Gateway,
		"STREAM.UPDATE.COMMANDS": access.Lease, "STREAM.UPDATE.EDGE": access.Lease, "STREAM.UPDATE.KV_LEASES": access.Lease,
		"STREAM.UPDATE.KV_SETTINGS": access.Lease, "STREAM.PURGE.COMMANDS": access.Lease,
	}
	switch {
	case strings.HasPrefix(request, "STREAM.UPDATE"), strings.HasPrefix(request, "STREAM.PURGE"):
		require.Equal(t, owners[request], role, subject)
	case strings.HasPrefix(request, "DIRECT.GET"):
		require.NotEqual(t, access.Gateway, role, subject)
	case strings.HasSuffix(request, "EVENTS."+subjects.ConsumerCloses):
		if !strings.HasPrefix(request, "CONSUMER.INFO") && !strings.HasPrefix(request, "CONSUMER.MSG.NEXT") {
			require.Equal(t, access.Lease, role, subject)
		}
	}
	if request == "STREAM.INFO.KV_LEASES" { // a gateway says how many copies there are
		require.Contains(t, []access.Role{access.Lease, access.Gateway}, role, subject)
		return
	}
	if strings.Contains(subject, "KV_LEASES") || strings.Contains(subject, "CONSUMER") && strings.Contains(subject, "COMMANDS.") {
		require.Equal(t, access.Lease, role, subject)
	}
	if strings.Contains(subject, "KV_PRESENCE") { // that of the replay is above
		require.NotEqual(t, access.Lease, role, subject)
	}
}
