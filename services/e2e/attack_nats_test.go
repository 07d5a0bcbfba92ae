package e2e

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/bus"
	"rollcall/shared/client"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// intruder is a connection to NATS that tries what it may not.
type intruder struct {
	ear
	*nats.Conn

	name, user string
}

// intrude connects with a file of credentials.
func (s *stack) intrude(t *testing.T, name, url, file string) *intruder {
	t.Helper()
	user, err := bus.UserOf(file)
	require.NoError(t, err)
	i := &intruder{name: name, user: user}
	i.Conn, err = nats.Connect(url, nats.UserCredentials(file), nats.CustomInboxPrefix(access.InboxPrefix(user)), nats.NoReconnect(),
		nats.ErrorHandler(func(*nats.Conn, *nats.Subscription, error) {}))
	require.NoError(t, err, name)
	t.Cleanup(i.Close)
	return i
}

// says publishes, and reports whether the server let it.
func (i *intruder) says(t *testing.T, m *nats.Msg) bool {
	t.Helper()
	require.NoError(t, i.PublishMsg(m))
	require.NoError(t, i.FlushTimeout(patience), "%s on %s", i.name, m.Subject)
	err := i.LastError()
	return err == nil || !strings.Contains(err.Error(), fmt.Sprintf("Publish to %q", m.Subject))
}

// hears subscribes, and reports whether the server let it.
func (i *intruder) hears(t *testing.T, subject, queue string) bool {
	t.Helper()
	sub, err := i.QueueSubscribe(subject, queue, func(m *nats.Msg) { i.note(m.Subject + " " + m.Reply + " " + string(m.Data)) })
	require.NoError(t, err)
	require.NoError(t, i.FlushTimeout(patience))
	last := i.LastError()
	if last == nil || !strings.Contains(last.Error(), fmt.Sprintf("Subscription to %q", subject)) {
		return true
	}
	_ = sub.Unsubscribe() // the server knows none
	return false
}

// creds makes credentials with bin/token and returns their file.
func (s *stack) creds(t *testing.T, args ...string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "user.creds")
	s.tool(t, "creds", append(args, "--out", file)...)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	text, err := jwt.ParseDecoratedJWT(data)
	require.NoError(t, err)
	s.secret("JWT of credentials", text)
	pair, err := jwt.ParseDecoratedNKey(data)
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	s.secret("seed of credentials", string(seed))
	return file
}

// otherSubjects is what nobody of a tenant may write: all of another tenant's, and
// all of the server's own.
func (s *stack) otherSubjects(p *prey, users ...string) []string {
	instance, connection := p.conn.Welcome().DeviceID, p.conn.Welcome().ClientID
	out := []string{
		subjects.ProducerEvent(acme, "run.started").String(), subjects.EventAudit(acme, "rejected").String(),
		subjects.AgentPresence(acme, preyAgent).String(), subjects.InstancePresence(acme, instance, "pruned").String(),
		subjects.AgentLease(acme, preyAgent, "granted").String(), subjects.Audit(acme, preyAgent, "x").String(),
		subjects.Edge(acme, p.conn.Welcome().Gateway.Incarnation, connection).String(), "tenant." + acme + ".anything", "tenant.system.anything",
		subjects.DeliverPresence, subjects.DeliverLease, subjects.LeaseCommand(acme, p.asked, subjects.CommandTimer).String(),
		"$KV.PRESENCE." + subjects.AgentKey(acme, preyAgent), "$KV.LEASES." + subjects.LeaseKey(acme, preyAgent, p.asked),
		"$KV.GATEWAYS." + subjects.GatewayKey(s.Gateways[0].InstanceID), "$KV.SETTINGS." + subjects.SettingsAccount, "$KV.SETTINGS." + subjects.SettingsKey(acme, "lease"),
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.LIST", "$JS.API.ACCOUNT.PURGE." + s.ring.Account(), "$JS.API.SERVER.REMOVE",
		"$SYS.REQ.SERVER.PING", "$SYS.REQ.SERVER.PING.CONNZ", "$SYS.REQ.ACCOUNT." + s.ring.Account() + ".CONNZ", "$SYS.REQ.CLAIMS.UPDATE", "$SYS.REQ.CLAIMS.DELETE",
		"$SYS.ACCOUNT." + s.ring.Account() + ".CONNECT", "$SRV.PING", "_INBOX.anybody", "_R_.anything", "$GR.anything", "$MQTT.sub.x", "elsewhere",
	}
	for _, name := range []string{"opened", "closed", "beacon"} {
		out = append(out, subjects.AgentConnection(acme, preyAgent, name).String(), subjects.InstanceConnection(acme, instance, name).String(),
			subjects.InstanceConnection(subjects.SystemTenant, s.Gateways[0].InstanceID, name).String())
	}
	for _, command := range subjects.LeaseCommands() {
		out = append(out, subjects.LeaseCommand(acme, p.asked, command).String())
	}
	for _, user := range users {
		out = append(out, access.InboxPrefix(user)+".1")
	}
	for _, stream := range []string{"EVENTS", "COMMANDS", "EDGE", "KV_PRESENCE", "KV_LEASES", "KV_GATEWAYS", "KV_SETTINGS"} {
		for _, verb := range []string{
			"STREAM.INFO", "STREAM.CREATE", "STREAM.UPDATE", "STREAM.DELETE", "STREAM.PURGE", "STREAM.SNAPSHOT", "STREAM.RESTORE", "STREAM.MSG.GET", "STREAM.MSG.DELETE",
			"DIRECT.GET", "CONSUMER.NAMES", "CONSUMER.LIST", "CONSUMER.CREATE",
		} {
			out = append(out, "$JS.API."+verb+"."+stream)
		}
		for _, verb := range []string{"CONSUMER.CREATE", "CONSUMER.DURABLE.CREATE", "CONSUMER.INFO", "CONSUMER.DELETE", "CONSUMER.MSG.NEXT", "CONSUMER.PAUSE"} {
			out = append(out, "$JS.API."+verb+"."+stream+".x")
		}
		out = append(out, "$JS.API.CONSUMER.CREATE."+stream+".x.tenant."+globex+".>", "$JS.ACK."+stream+".x.1.1.1.1.0", "$JS.FC."+stream+".x.y",
			"$JS.ACK."+stream+"."+subjects.ConsumerCommands+".1.1.1.1.0")
	}
	return out
}

// otherSubscriptions is what nobody of a tenant may hear.
func (s *stack) otherSubscriptions(users ...string) []string {
	out := []string{
		"tenant." + acme + ".>", "tenant." + acme + ".*.>", "tenant." + acme + ".event.*.*", "tenant.*.event.>", "tenant.*.>", "tenant.>", "*.>", ">", "*",
		"tenant.system.>", subjects.DeliverPresence, subjects.DeliverLease, "$KV.>", "$KV.PRESENCE.>", "$JS.>", "$JS.API.>", "$JS.ACK.>", "$JS.EVENT.>", "$SYS.>",
		"_INBOX.>", "_INBOX.*", "*.*", "_R_.>", "$SRV.>",
	}
	for _, user := range users {
		out = append(out, access.InboxPrefix(user)+".>", access.InboxPrefix(user)+".*")
	}
	return out
}

// TestAttackNATS tries NATS itself, with every kind of credentials that leave the
// operator's hands, over both of its doors.
func TestAttackNATS(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "1", "--lease", "1", "--tenant", acme, "--tenant", globex}})
	g := s.Gateways[0]
	p := s.newPrey(t, g)
	tail, producer := s.creds(t, "--role", "tail", "--tenant", globex), s.creds(t, "--role", "producer", "--tenant", globex)
	given, _ := s.given(t, ask(t, http.MethodPost, g.URL+"/auth/nats", "", bearer(s.Tenants[globex].OperatorToken)))
	victim, err := bus.UserOf(s.creds(t, "--role", "tail", "--tenant", acme))
	require.NoError(t, err)
	gatewayUser, err := bus.UserOf(s.ring.CredsFile("gateway-0"))
	require.NoError(t, err)
	s.quiet(t, acme)
	durables := s.durables(t)
	before := s.owned(t, acme)

	var intruders []*intruder
	s.untouched(t, "NATS with credentials of another tenant", func() {
		for _, i := range []*intruder{
			s.intrude(t, "tail", s.NATSURL, tail), s.intrude(t, "tail over WebSocket", s.NATSWSURL, tail),
			s.intrude(t, "tail from a gateway", s.NATSURL, given),
			s.intrude(t, "producer", s.NATSURL, producer), s.intrude(t, "producer over WebSocket", s.NATSWSURL, producer),
		} {
			intruders = append(intruders, i)
			for _, subject := range s.otherSubjects(p, victim, gatewayUser) {
				require.False(t, i.says(t, &nats.Msg{Subject: subject, Reply: access.InboxPrefix(i.user) + ".a", Data: []byte(`{"from":"globex"}`)}), "%s on %s", i.name, subject)
			}
			for _, subject := range s.otherSubscriptions(victim, gatewayUser) {
				for _, queue := range []string{"", "presence", "lease", "q"} {
					require.False(t, i.hears(t, subject, queue), "%s hears %s in %q", i.name, subject, queue)
				}
			}
			require.Equal(t, strings.HasPrefix(i.name, "tail"), i.hears(t, "tenant."+globex+".>", ""), i.name)
			require.True(t, i.hears(t, access.InboxPrefix(i.user)+".>", ""), i.name)
			if strings.HasPrefix(i.name, "tail") {
				require.False(t, i.says(t, &nats.Msg{Subject: subjects.ProducerEvent(globex, "run.started").String()}), i.name)
			}
		}
	})
	require.Equal(t, durables, s.durables(t))

	s.attackHeaders(t, s.intrude(t, "producer", s.NATSURL, producer), p, victim)
	s.quiet(t, globex)
	require.Equal(t, before, s.owned(t, acme), "where a producer wants its answers, and what it says in headers, moves nothing of acme's")
	s.attackAsGateway(t, p)

	// What acme does now is heard by none of them; what globex does is.
	s.worker(t, g, "late")
	s.connect(t, g, token.Grant{Tenant: globex, Agent: "own"}, client.Options{})
	for _, i := range intruders {
		if strings.HasPrefix(i.name, "tail") {
			i.awaitHeard(t, "presence.agent.own.changed")
		}
		require.NotContains(t, i.all(), "tenant."+acme, i.name)
		require.NotContains(t, i.all(), canary, i.name)
	}
	s.intact(t, "NATS")
}

// attackHeaders has a producer store what it may, with what JetStream reads of a
// message besides: where answers go, and headers that remove, delay and redirect.
func (s *stack) attackHeaders(t *testing.T, i *intruder, p *prey, victim string) {
	t.Helper()
	own := subjects.ProducerEvent(globex, "loud.note").String()
	for _, reply := range []string{
		subjects.ProducerEvent(acme, "run.started").String(), "$KV.LEASES." + subjects.LeaseKey(acme, preyAgent, p.asked), "$KV.PRESENCE." + subjects.AgentKey(acme, preyAgent),
		subjects.LeaseCommand(acme, p.asked, "resolve").String(), subjects.DeliverLease, subjects.DeliverPresence, access.InboxPrefix(victim) + ".1",
		subjects.AgentConnection(acme, preyAgent, "closed").String(), "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.DELETE.EVENTS", "$SYS.REQ.CLAIMS.UPDATE",
	} {
		i.says(t, &nats.Msg{Subject: own, Reply: reply, Data: []byte(`{}`)})
	}
	target := subjects.AgentConnection(acme, preyAgent, "closed").String()
	at := time.Now().UTC().Format(time.RFC3339Nano)
	for name, header := range map[string]nats.Header{
		"rollup of all":        {"Nats-Rollup": {"all"}},
		"rollup of a subject":  {"Nats-Rollup": {"sub"}},
		"schedule elsewhere":   {"Nats-Schedule": {"@at " + at}, "Nats-Schedule-Target": {target}},
		"schedule every":       {"Nats-Schedule": {"@every 1s"}, "Nats-Schedule-Target": {target}},
		"schedule from":        {"Nats-Schedule": {"@at " + at}, "Nats-Schedule-Target": {own + ".x"}, "Nats-Schedule-Source": {target}},
		"purge a schedule":     {"Nats-Schedule-Next": {"purge"}, "Nats-Scheduler": {target}},
		"a marker":             {"Nats-Marker-Reason": {"MaxAge"}},
		"a row's deletion":     {"KV-Operation": {"PURGE"}, "Nats-Rollup": {"sub"}},
		"a lifetime":           {"Nats-TTL": {"1s"}},
		"another stream":       {"Nats-Expected-Stream": {"COMMANDS"}},
		"from another stream":  {"Nats-Stream-Source": {"KV_LEASES 1 > > " + target}},
		"a row's revision":     {subjects.HeaderRowRevision: {"18446744073709551615"}, subjects.HeaderCause: {"1"}},
		"a batch":              {"Nats-Batch-Id": {"b"}, "Nats-Batch-Sequence": {"1"}, "Nats-Batch-Commit": {"1"}},
		"a counter":            {"Nats-Incr": {"1"}},
		"a message id of acme": {nats.MsgIdHdr: {p.noted}},
	} {
		reply := i.NewInbox()
		sub, err := i.SubscribeSync(reply)
		require.NoError(t, err)
		i.says(t, &nats.Msg{Subject: own, Reply: reply, Header: header, Data: []byte(`{}`)})
		answer, err := sub.NextMsg(patience)
		require.NoError(t, err, name)
		var ack struct {
			Error *struct {
				Description string `json:"description"`
			} `json:"error"`
		}
		require.NoError(t, json.Unmarshal(answer.Data, &ack))
		// What is left is stored, or not, as any other event of globex's.
		harmless := name == "a marker" || name == "a row's revision" || name == "a message id of acme"
		require.Equal(t, !harmless, ack.Error != nil, "%s: %s", name, answer.Data)
	}
}

// attackAsGateway tries with the credentials of the process that strangers talk to.
func (s *stack) attackAsGateway(t *testing.T, p *prey) {
	t.Helper()
	i := s.intrude(t, "gateway", s.NATSURL, s.ring.CredsFile("gateway-0"))
	victim, err := bus.UserOf(s.ring.CredsFile("lease-0"))
	require.NoError(t, err)
	for _, subject := range []string{
		"$KV.PRESENCE." + subjects.AgentKey(acme, preyAgent), "$KV.LEASES." + subjects.LeaseKey(acme, preyAgent, p.asked), "$KV.SETTINGS." + subjects.SettingsAccount,
		"$KV.SETTINGS." + subjects.SettingsKey(acme, "lease"), "$KV.GATEWAYS.system.dev_" + strings.Repeat("a", 52), subjects.AgentLease(acme, preyAgent, "granted").String(),
		subjects.AgentPresence(acme, preyAgent).String(), subjects.LeaseCommand(acme, p.asked, subjects.CommandTimer).String(), subjects.DeliverLease, subjects.DeliverPresence,
		"$JS.API.STREAM.DELETE.EVENTS", "$JS.API.STREAM.PURGE.EVENTS", "$JS.API.STREAM.PURGE.COMMANDS", "$JS.API.STREAM.UPDATE.EVENTS", "$JS.API.STREAM.MSG.DELETE.EVENTS",
		"$JS.API.STREAM.MSG.GET.KV_LEASES", "$JS.API.DIRECT.GET.KV_LEASES.x", "$JS.API.DIRECT.GET.EVENTS", "$JS.API.CONSUMER.CREATE.KV_LEASES.x", "$JS.API.CONSUMER.CREATE.COMMANDS.x",
		"$JS.API.CONSUMER.DELETE.COMMANDS." + subjects.ConsumerCommands, "$JS.ACK.COMMANDS." + subjects.ConsumerCommands + ".1.1.1.1.0", "$SYS.REQ.CLAIMS.UPDATE",
		access.InboxPrefix(victim) + ".1", "_INBOX.1",
	} {
		require.False(t, i.says(t, &nats.Msg{Subject: subject, Data: []byte("{}")}), subject)
	}
	for _, subject := range []string{">", "tenant.>", "tenant." + acme + ".>", subjects.DeliverLease, subjects.DeliverPresence, "$KV.>", "$JS.API.>", "$SYS.>", access.InboxPrefix(victim) + ".>", "_INBOX.>"} {
		require.False(t, i.hears(t, subject, ""), subject)
	}
}

// TestAttackNATSDoor offers NATS what are no credentials.
func TestAttackNATSDoor(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--gateways", "1", "--presence", "1", "--lease", "1", "--tenant", acme, "--tenant", globex}})
	file := s.creds(t, "--role", "tail", "--tenant", globex)
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	good, err := jwt.ParseDecoratedJWT(data)
	require.NoError(t, err)
	pair, err := jwt.ParseDecoratedNKey(data)
	require.NoError(t, err)
	stranger, err := nkeys.CreateUser()
	require.NoError(t, err)
	account, err := nkeys.CreateAccount()
	require.NoError(t, err)
	agent, err := s.mint(token.Grant{Agent: preyAgent})
	require.NoError(t, err)
	device := newKey(t)
	bound, err := s.mint(token.Grant{Agent: preyAgent, Device: public(device)})
	require.NoError(t, err)
	deviceKey, err := nkeys.FromRawSeed(nkeys.PrefixByteUser, device.Seed())
	require.NoError(t, err)
	tailUser, err := pair.PublicKey()
	require.NoError(t, err)
	claims := claimsOf(t, good)
	p := partsOf(t, good)
	retagged, err := json.Marshal(tagged(claims, "tenant:"+acme))
	require.NoError(t, err)
	allowed := natsOf(claims)
	allowed["pub"] = map[string]any{"allow": []string{">"}}
	tailKey := s.keyPair(t, "signing/tail.nk")
	revoked := s.creds(t, "--role", "tail", "--tenant", globex, "--name", "gone")
	gone, err := bus.UserOf(revoked)
	require.NoError(t, err)
	s.tool(t, "revoke", "--subject", gone)
	brief := s.creds(t, "--role", "tail", "--tenant", globex, "--ttl", "1s")
	time.Sleep(4 * time.Second) // a lifetime is rounded up to a whole second, and the server counts that one in

	signing := func(key nkeys.KeyPair) nats.SignatureHandler { return key.Sign }
	offered := map[string]nats.Option{
		"nothing":             func(*nats.Options) error { return nil },
		"a password":          nats.UserInfo("admin", "admin"),
		"an access token":     nats.Token(agent),
		"no signature":        nats.UserJWT(func() (string, error) { return good, nil }, func([]byte) ([]byte, error) { return nil, nil }),
		"another's signature": nats.UserJWT(func() (string, error) { return good, nil }, signing(stranger)),
		"a nkey alone":        nats.Nkey(tailUser, signing(pair)),
		"retagged":            nats.UserJWT(func() (string, error) { return p.with(1, retagged), nil }, signing(pair)),
		"signed by a stranger": nats.UserJWT(func() (string, error) {
			return signRaw(t, goodHeader, by(t, tagged(claims, "tenant:"+acme), account), account), nil
		}, signing(pair)),
		"permissions of its own": nats.UserJWT(func() (string, error) {
			return signRaw(t, goodHeader, by(t, withNATS(claims, allowed), tailKey), tailKey), nil
		}, signing(pair)),
		"a bearer's access token":    nats.UserJWT(func() (string, error) { return agent, nil }, func([]byte) ([]byte, error) { return nil, nil }),
		"an operator's access token": nats.UserJWT(func() (string, error) { return s.Tenants[globex].OperatorToken, nil }, func([]byte) ([]byte, error) { return nil, nil }),
		"a device's access token":    nats.UserJWT(func() (string, error) { return bound, nil }, signing(deviceKey)),
		"revoked":                    nats.UserCredentials(revoked),
		"expired":                    nats.UserCredentials(brief),
	}
	s.untouched(t, "the door of NATS", func() {
		for what, option := range offered {
			for _, url := range []string{s.NATSURL, s.NATSWSURL} {
				nc, err := nats.Connect(url, option, nats.NoReconnect(), nats.Timeout(patience))
				if err == nil {
					nc.Close()
				}
				// Over a WebSocket the end may come before the reason.
				require.Error(t, err, "%s at %s", what, url)
				require.NotErrorIs(t, err, nats.ErrTimeout, "%s at %s", what, url)
			}
		}
	})
	for _, url := range []string{s.NATSURL, s.NATSWSURL} {
		nc, err := nats.Connect(url, nats.UserCredentials(file))
		require.NoError(t, err, "the credentials themselves are good")
		nc.Close()
	}
}
