package subjects_test

import (
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// change is a payload with one field changed, and the field that Validate then
// names (none when it is accepted).
type change[T any] struct {
	name   string
	edit   func(*T)
	fields string
}

func testValidate[T interface{ Validate() error }](t *testing.T, sample func() T, changes []change[T]) {
	t.Helper()
	require.NoError(t, sample().Validate())
	for _, c := range changes {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			p := sample()
			c.edit(&p)
			requireField(t, p.Validate(), c.fields)
		})
	}
}

func TestConnectionOpenedValidate(t *testing.T) {
	t.Parallel()
	type p = subjects.ConnectionOpened
	testValidate(t, sampleOpened, []change[p]{
		{"no connection", func(p *p) { p.ConnectionID = "" }, "connection_id"},
		{"no instance", func(p *p) { p.InstanceID = "" }, "instance_id"},
		{"instance wildcard", func(p *p) { p.InstanceID = "*" }, "instance_id"},
		{"no gateway", func(p *p) { p.GatewayID = "" }, "gateway_id"},
		{"no incarnation", func(p *p) { p.Incarnation = "" }, "incarnation"},
		{"no role", func(p *p) { p.Role = "" }, "role"},
		{"unknown role", func(p *p) { p.Role = "operator" }, "role"},
		{"gateway", func(p *p) { p.Role = subjects.RoleGateway }, ""},
		{"node", func(p *p) { p.Role = subjects.RoleNode }, ""},
		{"no address", func(p *p) { p.IP = "" }, "ip"},
		{"host name for address", func(p *p) { p.IP = "localhost" }, "ip"},
		{"address with port", func(p *p) { p.IP = "127.0.0.1:80" }, "ip"},
		{"IPv6", func(p *p) { p.IP = "2001:db8::1" }, ""},
		{"link-local", func(p *p) { p.IP = "fe80::1%eth0" }, ""},
		{"long zone", func(p *p) { p.IP = "fe80::1%" + strings.Repeat("x", 9000) }, "ip"},
		{"control character in zone", func(p *p) { p.IP = "fe80::1%\x1b[31m" }, "ip"},
		{"bare", func(p *p) { p.Host, p.Version, p.Mode, p.Capabilities = "", "", "", nil }, ""},
		{"long host", func(p *p) { p.Host = strings.Repeat("h", 257) }, "host"},
		{"line break in version", func(p *p) { p.Version = "1\n2" }, "version"},
		{"unknown mode", func(p *p) { p.Mode = "robot" }, "mode"},
		{"64 capabilities", func(p *p) { p.Capabilities = capabilities(64) }, ""},
		{"65 capabilities", func(p *p) { p.Capabilities = capabilities(65) }, "capabilities"},
		{"capability without id", func(p *p) { p.Capabilities[1].ID = "" }, "capabilities[1].id"},
		{"capability without version", func(p *p) { p.Capabilities[1].Version = "" }, ""},
		{"long capability", func(p *p) { p.Capabilities[1].ID = strings.Repeat("c", 257) }, "capabilities[1].id"},
		{"long capability version", func(p *p) { p.Capabilities[1].Version = strings.Repeat("1", 257) }, "capabilities[1].version"},
	})
}

func capabilities(n int) []subjects.Capability {
	all := make([]subjects.Capability, n)
	for i := range all {
		all[i].ID = "c"
	}
	return all
}

func TestConnectionClosedValidate(t *testing.T) {
	t.Parallel()
	type p = subjects.ConnectionClosed
	testValidate(t, sampleClosed, []change[p]{
		{"no connection", func(p *p) { p.ConnectionID = "" }, "connection_id"},
		{"no instance", func(p *p) { p.InstanceID = "" }, "instance_id"},
		{"no reason", func(p *p) { p.Reason = "" }, "reason"},
		{"unknown reason", func(p *p) { p.Reason = "bored" }, "reason"},
		{"no code", func(p *p) { p.Code = 0 }, ""},
	})
	for _, reason := range []string{
		"client_closed", "heartbeat_timeout", "gateway_draining", "gateway_lost", "slow_consumer", "token_expired", "token_revoked", "protocol_error",
	} {
		p := sampleClosed()
		p.Reason = reason
		require.NoError(t, p.Validate(), reason)
	}
}

func TestConnectionBeaconValidate(t *testing.T) {
	t.Parallel()
	type p = subjects.ConnectionBeacon
	testValidate(t, sampleBeacon, []change[p]{
		{"no connection", func(p *p) { p.ConnectionID = "" }, "connection_id"},
		{"no instance", func(p *p) { p.InstanceID = "" }, "instance_id"},
		{"says nothing", func(p *p) { p.Reported, p.LastInputSeconds, p.Metadata = subjects.Reported{}, nil, nil }, ""},
		{"long host", func(p *p) { p.Reported.Host = strings.Repeat("h", 257) }, "reported.host"},
		{"no such address", func(p *p) { p.Reported.IP = "300.1.1.1" }, "reported.ip"},
		{"long zone", func(p *p) { p.Reported.IP = "fe80::1%" + strings.Repeat("x", 9000) }, "reported.ip"},
		{"tab in version", func(p *p) { p.Reported.Version = "\t" }, "reported.version"},
		{"unknown mode", func(p *p) { p.Reported.Mode = "CLI" }, "reported.mode"},
		{"input just now", func(p *p) { p.LastInputSeconds = new(int64(0)) }, ""},
		{"input to come", func(p *p) { p.LastInputSeconds = new(int64(-1)) }, "last_input_seconds"},
		{"metadata array", func(p *p) { p.Metadata = json.RawMessage(`[]`) }, "metadata"},
		{"metadata null", func(p *p) { p.Metadata = json.RawMessage(`null`) }, "metadata"},
		{"metadata of 8 KiB", func(p *p) { p.Metadata = metadata(8 << 10) }, ""},
		{"metadata over 8 KiB", func(p *p) { p.Metadata = metadata(8<<10 + 1) }, "metadata"},
	})
}

func metadata(size int) json.RawMessage {
	return json.RawMessage(`{"a":"` + strings.Repeat("x", size-len(`{"a":""}`)) + `"}`)
}

func TestCheckText(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "a", " ", "ü", "日本", strings.Repeat("a", 256), "*", ">", "<b>"} {
		require.NoError(t, subjects.CheckText("host", s), s)
	}
	// U+009B starts a control sequence in a terminal, as escape and [ do.
	for _, s := range []string{strings.Repeat("a", 257), strings.Repeat("é", 129), "\n", "a\x00", "\x1f", "\x7f", "\x1b[2J", "\u009b2J", "\u0085"} {
		requireInvalid(t, subjects.CheckText("host", s), "host")
	}
}

func TestCheckMode(t *testing.T) {
	t.Parallel()
	require.Equal(t, []string{"ui", "web", "cli", "node", "backend", "probe", "test", "desktop", "browser-node"}, subjects.Modes())
	for _, mode := range append(subjects.Modes(), "") {
		require.NoError(t, subjects.CheckMode("mode", mode), mode)
	}
	for _, mode := range []string{"UI", "cli ", "robot", "ui,web"} {
		requireInvalid(t, subjects.CheckMode("mode", mode), "mode")
	}
}

func TestPresencePayloadsValidate(t *testing.T) {
	t.Parallel()
	testValidate(t, sampleChanged, []change[subjects.PresenceChanged]{
		{"no agent", func(p *subjects.PresenceChanged) { p.AgentID = "" }, "agent_id"},
		{"agent with a dot", func(p *subjects.PresenceChanged) { p.AgentID = "a.b" }, "agent_id"},
		{"no status", func(p *subjects.PresenceChanged) { p.Status = "" }, "status"},
		{"unknown status before", func(p *subjects.PresenceChanged) { p.Previous = "busy" }, "previous"},
	})
	testValidate(t, func() subjects.PresenceUpserted {
		return subjects.PresenceUpserted{Entry: sampleInstanceRow()}
	}, []change[subjects.PresenceUpserted]{
		{"no instance in entry", func(p *subjects.PresenceUpserted) { p.Entry.InstanceID = "" }, "entry.instance_id"},
		{"bare entry", func(p *subjects.PresenceUpserted) { p.Entry = subjects.InstanceRow{InstanceID: deviceID} }, ""},
	})
	testValidate(t, samplePruned, []change[subjects.PresencePruned]{
		{"no instance", func(p *subjects.PresencePruned) { p.InstanceID = "" }, "instance_id"},
		{"instance wildcard", func(p *subjects.PresencePruned) { p.InstanceID = ">" }, "instance_id"},
	})
	testValidate(t, sampleAudit, []change[subjects.AuditRecord]{
		{"audit without agent", func(p *subjects.AuditRecord) { p.AgentID = "" }, "agent_id"},
		{"audit of nothing else", func(p *subjects.AuditRecord) { *p = subjects.AuditRecord{AgentID: "ada"} }, ""},
	})
}

func TestLeaseTransitionValidate(t *testing.T) {
	t.Parallel()
	type p = subjects.LeaseTransition
	testValidate(t, func() p { return p{Lease: sampleLeaseRow()} }, []change[p]{
		{"no lease", func(p *p) { p.Lease.LeaseID = "" }, "lease.lease_id"},
		{"no agent", func(p *p) { p.Lease.AgentID = "" }, "lease.agent_id"},
		{"no connection", func(p *p) { p.Lease.ConnectionID = "" }, "lease.connection_id"},
		{"connection wildcard", func(p *p) { p.Lease.ConnectionID = "*" }, "lease.connection_id"},
	})
}

func TestPresenceSettingsValidate(t *testing.T) {
	t.Parallel()
	type s = subjects.PresenceSettings
	for _, c := range []struct {
		settings s
		field    string
	}{
		{s{}, ""},
		{s{RetentionMS: 1000, MaxInstances: 1, MaxConnections: 1}, ""},
		{s{RetentionMS: 999}, "retention_ms"},
		{s{RetentionMS: -1}, "retention_ms"},
		{s{MaxInstances: -1}, "max_instances"},
		{s{MaxConnections: -1}, "max_connections"},
		{s{RetentionMS: 3_153_600_000_000}, ""},
		{s{RetentionMS: 3_153_600_000_001}, "retention_ms"},
		// Beyond what a duration holds, a long retention would become a negative.
		{s{RetentionMS: 9_999_999_999_999}, "retention_ms"},
		{s{RetentionMS: math.MaxInt64}, "retention_ms"},
	} {
		requireField(t, c.settings.Validate(), c.field)
		if c.field == "" {
			require.GreaterOrEqual(t, time.Duration(c.settings.RetentionMS)*time.Millisecond, time.Duration(0))
		}
	}
}
