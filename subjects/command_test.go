package subjects_test

import (
	"encoding/json"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func sampleCommand() subjects.Command {
	return subjects.Command{
		CommandID: eventID, IssuedAt: at(), Deadline: at().Add(5 * time.Second),
		Peer:    subjects.Peer{ConnectionID: connectionID, InstanceID: deviceID, AgentID: "ada", Incarnation: incarnationID},
		Grants:  subjects.Grants{OperatorRead: true, OperatorWrite: true, Moderate: true},
		Payload: json.RawMessage(`{"lease_id":"` + leaseID + `"}`), Resource: "repo/acme/site",
	}
}

// sampleRequests holds the payload of every command that a peer can send.
func sampleRequests() map[string]interface{ Validate() error } {
	return map[string]interface{ Validate() error }{
		subjects.CommandRequest: subjects.LeaseRequest{
			Resource: "repo/acme/site", TimeoutMS: new(int64(60_000)), Metadata: json.RawMessage(`{"ticket":7}`),
		},
		subjects.CommandRetry: subjects.LeaseRetry{LeaseID: leaseID},
		subjects.CommandResolve: subjects.LeaseResolve{
			LeaseID: leaseID, AgentID: "ada", Verdict: subjects.VerdictHold, TimeoutMS: new(int64(1)), HoldMS: new(int64(2)), Reason: "busy",
		},
		subjects.CommandClaim:    subjects.LeaseClaim{LeaseID: leaseID},
		subjects.CommandFinalize: subjects.LeaseFinalize{LeaseID: leaseID, Fence: 3, MessageID: "m-1"},
		subjects.CommandRollback: subjects.LeaseRollback{LeaseID: leaseID, Fence: 3, Reason: "flaky"},
		subjects.CommandRenew:    subjects.LeaseRenew{LeaseID: leaseID, TimeoutMS: new(int64(60_000))},
		subjects.CommandGet:      subjects.LeaseGet{LeaseID: leaseID, AgentID: "ada"},
		subjects.CommandList:     subjects.LeaseList{AgentID: "ada", State: subjects.LeaseGranted, Limit: new(50), After: "ada." + leaseID},
		subjects.CommandModerate: subjects.LeaseModerate{Resources: []string{"repo/", "shell"}},
	}
}

func sampleEdge(tb testing.TB) map[string]subjects.EdgeMessage {
	tb.Helper()
	notice, err := subjects.NewEvent(eventID, subjects.TypeLeaseGranted, at(),
		subjects.Scope{Kind: subjects.ScopeAgent, ID: "ada"}, subjects.LeaseTransition{Lease: sampleLeaseRow()})
	require.NoError(tb, err)
	lease, err := json.Marshal(subjects.LeaseResult{Lease: sampleLeaseRow()})
	require.NoError(tb, err)
	outcome, err := json.Marshal(subjects.LeaseOutcome{
		LeaseID: leaseID, State: subjects.LeaseClaimed, Fence: 3, ExpiresAt: at(), ClaimExpiresAt: at().Add(15 * time.Minute),
	})
	require.NoError(tb, err)
	return map[string]subjects.EdgeMessage{
		"reply": subjects.EdgeReply{CommandID: eventID, OK: true, Result: outcome},
		"refusal": subjects.EdgeReply{CommandID: eventID, Error: &subjects.Problem{
			Code: subjects.CodeLeaseInvalid, Message: "the lease is CONSUMED",
			Details: map[string]any{
				"lease_id": leaseID, "operation": "finalize", "state": subjects.LeaseConsumed,
				"expected": []any{subjects.LeaseClaimed}, "fence": "stale",
			},
		}},
		"event": subjects.EdgeEvent{Event: notice},
		"request": subjects.EdgeRequest{
			RequestID: eventID, Type: "task.execute", Payload: lease, TimeoutMS: 10_000,
			ReplyTo: &subjects.EdgeAddress{Incarnation: eventID, ConnectionID: leaseID},
		},
	}
}

func sampleLeaseSettings() subjects.LeaseSettings {
	return subjects.LeaseSettings{Policies: []subjects.LeasePolicy{{
		Prefix: "repo/", Policy: subjects.PolicyHook, LeaseTimeoutMS: new(int64(60_000)), ClaimTimeoutMS: new(int64(900_000)),
		HookTimeoutMS: new(int64(10_000)), Reason: "changes to repositories are reviewed",
	}}}
}

// goldenLease compares a value with testdata/lease/<name>.json, and what
// reading the file strictly gives with the value.
func goldenLease[T any](t *testing.T, name string, value T) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		requireFull(t, reflect.ValueOf(value), name)
		file := golden(t, filepath.Join("lease", name+".json"), encode(t, value))
		read, err := subjects.Decode[T](file)
		require.NoError(t, err)
		require.JSONEq(t, encode(t, value), encode(t, read))
	})
}

func TestGoldenLease(t *testing.T) {
	t.Parallel()
	goldenLease(t, "command", sampleCommand())
	goldenLease(t, "timer", subjects.LeaseTimer{AgentID: "ada", Epoch: 4})
	goldenLease(t, "settings", sampleLeaseSettings())
	goldenLease(t, "moderator", subjects.ModeratorRow{
		ConnectionID: connectionID, InstanceID: deviceID, Incarnation: incarnationID, Resources: []string{"repo/"}, Since: at(),
	})
	goldenLease(t, "closed", subjects.ClosedRow{Reason: subjects.ClosedByClient, ClosedAt: at()})
	goldenLease(t, "authorized", subjects.LeaseAuthorized{
		Verdict: subjects.VerdictGrant, TimeoutMS: new(int64(1)), HoldMS: new(int64(2)), Reason: "fine",
	})
	goldenLease(t, "result", subjects.LeaseResult{Lease: sampleLeaseRow()})
	goldenLease(t, "page", subjects.LeasePage{Items: []subjects.LeaseRow{sampleLeaseRow()}, Total: 3, Next: "ada." + leaseID})
	for command, payload := range sampleRequests() {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			requireFull(t, reflect.ValueOf(payload), command)
			file := golden(t, filepath.Join("lease", command+".json"), encode(t, payload))
			require.Nil(t, subjects.CheckLeaseRequest(command, file))
		})
	}
}

func TestGoldenEdge(t *testing.T) {
	t.Parallel()
	for name, message := range sampleEdge(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			data, err := subjects.EncodeEdge(message)
			require.NoError(t, err)
			file := golden(t, filepath.Join("lease", "edge_"+name+".json"), encode(t, json.RawMessage(data)))
			read, err := subjects.DecodeEdge(file)
			require.NoError(t, err)
			again, err := subjects.EncodeEdge(read)
			require.NoError(t, err)
			require.JSONEq(t, string(file), string(again))
		})
	}
}

func TestGoldenLeaseFilesAreAllRead(t *testing.T) {
	t.Parallel()
	paths, err := filepath.Glob("testdata/lease/*.json")
	require.NoError(t, err)
	var names []string
	for _, path := range paths {
		names = append(names, strings.TrimSuffix(filepath.Base(path), ".json"))
	}
	require.Equal(t, []string{
		"authorized", "claim", "closed", "command", "edge_event", "edge_refusal", "edge_reply", "edge_request", "finalize", "get",
		"list", "moderate", "moderator", "page", "renew", "request", "resolve", "result", "retry", "rollback", "settings", "timer",
	}, names)
}

func TestEveryCommandHasASubjectAndAPayload(t *testing.T) {
	t.Parallel()
	requests := sampleRequests()
	for _, command := range subjects.LeaseCommands() {
		subject := subjects.LeaseCommand("acme", leaseID, command)
		parsed, err := subjects.Parse(subject.String())
		require.NoError(t, err)
		require.Equal(t, subject, parsed)
		require.True(t, matches(subjects.AllLeaseCommands, subject.String()))
		require.Equal(t, subjects.StreamCommands, streamOf(subject.Class))
		if command == subjects.CommandTimer {
			continue
		}
		payload, err := json.Marshal(requests[command])
		require.NoError(t, err)
		require.Nil(t, subjects.CheckLeaseRequest(command, payload), command)
		problem := subjects.CheckLeaseRequest(command, json.RawMessage(`{"surely_not_a_key":1}`))
		require.NotNil(t, problem, command)
		require.Equal(t, "surely_not_a_key", problem.Details["field"])
		delete(requests, command)
	}
	require.Empty(t, requests)
	for _, command := range []string{subjects.CommandTimer, subjects.TimerSchedule, ""} {
		require.Equal(t, subjects.CodeUnsupportedRequest, subjects.CheckLeaseRequest(command, json.RawMessage(`{}`)).Code)
	}
	schedule := subjects.LeaseCommand("acme", leaseID, subjects.TimerSchedule).String()
	require.False(t, matches(subjects.AllLeaseCommands, schedule), "a waiting timer is no command")
	closed := subjects.AgentConnection("acme", "ada", "closed").String()
	require.True(t, matches(subjects.AllAgentConnectionsClosed, closed))
	require.True(t, matches(subjects.AllInstanceConnectionsClosed, subjects.InstanceConnection("acme", deviceID, "closed").String()))
	require.False(t, matches(subjects.AllAgentConnectionsClosed, subjects.AgentConnection("acme", "ada", "opened").String()))
}

func TestDecodeCommandRefuses(t *testing.T) {
	t.Parallel()
	for field, change := range map[string]func(*subjects.Command){
		"command_id":         func(c *subjects.Command) { c.CommandID = "x" },
		"peer.connection_id": func(c *subjects.Command) { c.Peer.ConnectionID = "" },
		"peer.instance_id":   func(c *subjects.Command) { c.Peer.InstanceID = "dev_1" },
		"peer.incarnation":   func(c *subjects.Command) { c.Peer.Incarnation = "*" },
		"peer.agent_id":      func(c *subjects.Command) { c.Peer.AgentID = "a.b" },
		"issued_at":          func(c *subjects.Command) { c.IssuedAt = time.Time{} },
		"deadline":           func(c *subjects.Command) { c.Deadline = time.Time{} },
		"payload":            func(c *subjects.Command) { c.Payload = json.RawMessage(`[]`) },
	} {
		c := sampleCommand()
		change(&c)
		data, err := json.Marshal(c)
		require.NoError(t, err)
		_, err = subjects.DecodeCommand(data)
		requireInvalid(t, err, field)
	}
	_, err := subjects.DecodeCommand([]byte(`{"grants":{"admin":true}}`))
	requireInvalid(t, err, "grants.admin")
	c := sampleCommand()
	c.Peer.AgentID, c.Grants = "", subjects.Grants{}
	data, err := json.Marshal(c)
	require.NoError(t, err)
	read, err := subjects.DecodeCommand(data)
	require.NoError(t, err)
	require.Equal(t, c, read)
}

func TestLeaseRequestsRefuse(t *testing.T) {
	t.Parallel()
	id := `"lease_id":"` + leaseID + `"`
	big := `{"a":"` + strings.Repeat("x", 8<<10) + `"}`
	for _, c := range []struct{ command, payload, field string }{
		{"request", `{}`, "resource"},
		{"request", `{"resource":""}`, "resource"},
		{"request", `{"resource":"` + strings.Repeat("x", 257) + `"}`, "resource"},
		{"request", `{"resource":"a\u0007"}`, "resource"},
		{"request", `{"resource":"a","timeout_ms":0}`, "timeout_ms"},
		{"request", `{"resource":"a","timeout_ms":86400001}`, "timeout_ms"},
		{"request", `{"resource":"a","timeout_ms":null}`, "timeout_ms"},
		{"request", `{"resource":"a","metadata":[]}`, "metadata"},
		{"request", `{"resource":"a","metadata":` + big + `}`, "metadata"},
		{"retry", `{"lease_id":"1"}`, "lease_id"},
		{"resolve", `{` + id + `,"agent_id":"ada","verdict":"allow"}`, "verdict"},
		{"resolve", `{` + id + `,"agent_id":"","verdict":"deny"}`, "agent_id"},
		{"resolve", `{` + id + `,"agent_id":"ada","verdict":"hold","hold_ms":-1}`, "hold_ms"},
		{"resolve", `{` + id + `,"agent_id":"ada","verdict":"deny","reason":"` + strings.Repeat("x", 257) + `"}`, "reason"},
		{"claim", `{` + id + `,"fence":1}`, "fence"},
		{"finalize", `{` + id + `}`, "fence"},
		{"finalize", `{` + id + `,"fence":-1}`, "fence"},
		{"finalize", `{` + id + `,"fence":1,"message_id":"\n"}`, "message_id"},
		{"rollback", `{` + id + `,"fence":0}`, "fence"},
		{"renew", `{` + id + `,"timeout_ms":-5}`, "timeout_ms"},
		{"get", `{` + id + `,"agent_id":"A"}`, "agent_id"},
		{"list", `{"state":"granted"}`, "state"},
		{"list", `{"limit":0}`, "limit"},
		{"list", `{"limit":1001}`, "limit"},
		{"moderate", `{}`, "resources"},
		{"moderate", `{"resources":[]}`, "resources"},
		{"moderate", `{"resources":["a\n"]}`, "resources"},
	} {
		problem := subjects.CheckLeaseRequest(c.command, json.RawMessage(c.payload))
		require.NotNil(t, problem, c.payload)
		require.Equal(t, subjects.CodeInvalidRequest, problem.Code)
		require.Equal(t, c.field, problem.Details["field"], problem.Message)
	}
	require.Nil(t, subjects.CheckLeaseRequest("request", json.RawMessage(`{"resource":"`+strings.Repeat("é", 256)+`"}`)))
	require.Nil(t, subjects.CheckLeaseRequest("list", json.RawMessage(`{}`)))
	require.Nil(t, subjects.CheckLeaseRequest("moderate", json.RawMessage(`{"resources":[""]}`)))
}

func TestLeaseSettingsRefuse(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, field string }{
		{`{"policies":[{"prefix":"a","policy":"allow"}]}`, "policies[0].policy"},
		{`{"policies":[{"prefix":"a","policy":"grant"},{"prefix":"a","policy":"deny"}]}`, "policies[1].prefix"},
		{`{"policies":[{"prefix":"a\n","policy":"grant"}]}`, "policies[0].prefix"},
		{`{"policies":[{"prefix":"a","policy":"grant","lease_timeout_ms":0}]}`, "policies[0].lease_timeout_ms"},
		{`{"policies":[{"prefix":"a","policy":"grant","claim_timeout_ms":-1}]}`, "policies[0].claim_timeout_ms"},
		{`{"policies":[{"prefix":"a","policy":"hook","hook_timeout_ms":86400001}]}`, "policies[0].hook_timeout_ms"},
		{`{"policies":[{"prefix":"a","policy":"grant","ttl":1}]}`, "policies[0].ttl"},
		{`{"policy":[]}`, "policy"},
	} {
		settings, err := subjects.Decode[subjects.LeaseSettings]([]byte(c.text))
		if err == nil {
			err = settings.Validate()
		}
		requireInvalid(t, err, c.field)
	}
	forever, err := subjects.Decode[subjects.LeaseSettings]([]byte(`{"policies":[{"prefix":"","policy":"grant","claim_timeout_ms":0}]}`))
	require.NoError(t, err)
	require.NoError(t, forever.Validate())
	require.NoError(t, subjects.LeaseSettings{}.Validate())
	many := subjects.LeaseSettings{Policies: make([]subjects.LeasePolicy, 1001)}
	requireInvalid(t, many.Validate(), "policies")
}

func TestDecodeEdgeRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, field string }{
		{`{}`, "kind"},
		{`{"kind":"shout"}`, "kind"},
		{`{"kind":"reply","command_id":"` + eventID + `","ok":true}`, "result"},
		{`{"kind":"reply","command_id":"` + eventID + `","ok":true,"result":{},"error":{"code":"x","message":"y"}}`, "result"},
		{`{"kind":"reply","command_id":"` + eventID + `","ok":false}`, "error"},
		{`{"kind":"reply","command_id":"1","ok":true,"result":{}}`, "command_id"},
		{`{"kind":"event","event":{}}`, "event.event_id"},
		{`{"kind":"request","request_id":"` + eventID + `","type":"task.execute","payload":{},"timeout_ms":0}`, "timeout_ms"},
		{`{"kind":"request","request_id":"` + eventID + `","type":"Task","payload":{},"timeout_ms":1}`, "type"},
		{`{"kind":"request","request_id":"` + eventID + `","type":"task.execute","payload":1,"timeout_ms":1}`, "payload"},
	} {
		_, err := subjects.DecodeEdge([]byte(c.text))
		requireInvalid(t, err, c.field)
	}
	_, err := subjects.DecodeEdge([]byte(`nothing`))
	require.Equal(t, subjects.CodeInvalidRequest, requireProblem(t, err).Code)
	// Readers ignore keys they do not know.
	m, err := subjects.DecodeEdge([]byte(`{"kind":"reply","command_id":"` + eventID + `","ok":true,"result":{},"new":1}`))
	require.NoError(t, err)
	require.Equal(t, subjects.EdgeKindReply, m.Kind())
}

func TestLeaseStates(t *testing.T) {
	t.Parallel()
	ended := map[string]bool{}
	for _, state := range subjects.LeaseStates() {
		if subjects.LeaseEnded(state) {
			ended[state] = true
		}
	}
	require.Equal(t, map[string]bool{"CONSUMED": true, "EXPIRED": true, "DENIED": true, "ABANDONED": true}, ended)
	require.Len(t, subjects.LeaseStates(), 8)
	require.False(t, subjects.LeaseEnded(""))
}

func TestKeysOfBookkeepingAreNoLeases(t *testing.T) {
	t.Parallel()
	for _, key := range []string{subjects.ClosedKey("acme", connectionID), subjects.ModeratorKey("acme", connectionID)} {
		require.True(t, strings.HasSuffix(key, "."+connectionID))
		_, _, _, err := subjects.ParseLeaseKey(key)
		require.Error(t, err)
	}
	require.Equal(t, "acme._closed."+connectionID, subjects.ClosedKey("acme", connectionID))
	require.Equal(t, "acme._moderator."+connectionID, subjects.ModeratorKey("acme", connectionID))
}
