package bench

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"rollcall/shared/client"
	"rollcall/subjects"
)

const (
	// tenant is the fleet's.
	tenant = "bench"
	// atOnce is how many agents of the fleet connect at the same time.
	atOnce = 32
	// crowded is how many of them are busy at the same time.
	crowded = 64
	// firstBeacon is the number of the fleet's first beacon.
	firstBeacon int64 = 1
)

// fleet is the agents, on the second gateway, and who watches them: an operator
// on the first gateway, and a subscription on NATS for what no socket gets.
type fleet struct {
	url      string
	agents   []*agent
	operator *client.Conn
	nc       *nats.Conn
	js       jetstream.JetStream
	seen     *sightings
	next     int
}

// agent is one of them: always the same device. While it is connected, conn is.
type agent struct {
	id     string
	device string
	key    ed25519.PrivateKey
	token  string
	conn   *client.Conn
}

// muster makes the fleet, and has each agent connect once: from then on all of
// them are known.
func muster(ctx context.Context, c Config, s *stack) (*fleet, error) {
	f := &fleet{url: s.Gateways[1].WSURL, seen: newSightings()}
	for n := range c.Agents {
		key, err := client.GenerateKey()
		if err != nil {
			return nil, err
		}
		a := &agent{id: fmt.Sprintf("agent-%04d", n), key: key, device: client.DeviceID(publicKey(key))}
		if a.token, err = s.mint(tenant, a.id, "lease.use"); err != nil {
			return nil, err
		}
		f.agents = append(f.agents, a)
	}
	if err := f.watch(ctx, s); err != nil {
		f.disband()
		return nil, err
	}
	if err := f.rehearse(ctx); err != nil {
		f.disband()
		return nil, err
	}
	return f, nil
}

func publicKey(key ed25519.PrivateKey) ed25519.PublicKey {
	return ed25519.PublicKey(key[ed25519.PrivateKeySize-ed25519.PublicKeySize:])
}

// watch lets the observers in.
func (f *fleet) watch(ctx context.Context, s *stack) error {
	text, err := s.mint(tenant, "", "presence.read")
	if err != nil {
		return err
	}
	if f.operator, err = dial(ctx, client.Options{URL: s.Gateways[0].WSURL, Token: text, OnEvent: f.event}); err != nil {
		return err
	}
	if _, err := f.operator.Subscribe(ctx, client.Selection{All: true}); err != nil {
		return fmt.Errorf("subscribe to all: %w", err)
	}
	if f.nc, err = s.nats().connect("rollcall bench"); err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	if f.js, err = jetstream.New(f.nc); err != nil {
		return fmt.Errorf("connect to NATS: %w", err)
	}
	subject := subjects.InstancePresence(tenant, "*", "upserted").String()
	if _, err := f.nc.Subscribe(subject, f.upserted); err != nil {
		return fmt.Errorf("subscribe to %s: %w", subject, err)
	}
	return f.nc.Flush()
}

func dial(ctx context.Context, o client.Options) (*client.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	o.Device = client.Device{Label: "bench", Platform: "linux", Version: "bench", Mode: "test"}
	return client.Dial(ctx, o)
}

// event is what the operator hears.
func (f *fleet) event(e client.Event) {
	if e.Type != subjects.TypePresenceChanged {
		return
	}
	var changed struct {
		AgentID string `json:"agent_id"`
		Status  string `json:"status"`
	}
	if json.Unmarshal(e.Payload, &changed) == nil {
		f.seen.saw(changed.AgentID + " " + changed.Status)
	}
}

// upserted is what NATS says of instances. The beacons of the fleet count in
// last_input_seconds, so that each is known when it comes back.
func (f *fleet) upserted(m *nats.Msg) {
	var event struct {
		Payload struct {
			Entry struct {
				InstanceID       string `json:"instance_id"`
				LastInputSeconds int64  `json:"last_input_seconds"`
			} `json:"entry"`
		} `json:"payload"`
	}
	if json.Unmarshal(m.Data, &event) == nil {
		f.seen.saw(beaconName(event.Payload.Entry.InstanceID, event.Payload.Entry.LastInputSeconds))
	}
}

func beaconName(device string, n int64) string { return fmt.Sprintf("%s beacon %d", device, n) }

// join connects an agent and returns after what time its proof was answered,
// and after what time the operator saw it.
func (f *fleet) join(ctx context.Context, a *agent) (proof, seen time.Duration, err error) {
	what := a.id + " online"
	online := f.seen.expect(what)
	began := time.Now()
	if a.conn, err = dial(ctx, client.Options{URL: f.url, Token: a.token, Key: a.key}); err != nil {
		return 0, 0, err
	}
	proof = time.Since(began)
	at, err := wait(ctx, what, online)
	return proof, at.Sub(began), err
}

// part disconnects an agent and waits until the operator saw that.
func (f *fleet) part(ctx context.Context, a *agent) error {
	what := a.id + " offline"
	offline := f.seen.expect(what)
	closing, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if err := a.conn.Close(closing); err != nil {
		return fmt.Errorf("close %s: %w", a.id, err)
	}
	a.conn = nil
	_, err := wait(ctx, what, offline)
	return err
}

// joinAll connects the first n agents and returns how long each took to be seen.
func (f *fleet) joinAll(ctx context.Context, n int) ([]time.Duration, error) {
	return forAll(ctx, n, atOnce, func(ctx context.Context, i int) (time.Duration, error) {
		_, seen, err := f.join(ctx, f.agents[i])
		return seen, err
	})
}

func (f *fleet) partAll(ctx context.Context, n int) error {
	_, err := forAll(ctx, n, atOnce, func(ctx context.Context, i int) (time.Duration, error) {
		return 0, f.part(ctx, f.agents[i])
	})
	return err
}

// rehearse makes everybody known, and one of everything that the twin repeats.
func (f *fleet) rehearse(ctx context.Context) error {
	if _, err := f.joinAll(ctx, len(f.agents)); err != nil {
		return err
	}
	if err := f.beacon(ctx, f.agents[0], firstBeacon); err != nil {
		return err
	}
	return f.partAll(ctx, len(f.agents))
}

// beacon sends the n-th beacon of an agent and waits for its answer and until
// it is seen.
func (f *fleet) beacon(ctx context.Context, a *agent, n int64) error {
	what := beaconName(a.device, n)
	seen := f.seen.expect(what)
	if _, err := a.conn.Beacon(ctx, client.Report{LastInputSeconds: &n}); err != nil {
		return fmt.Errorf("beacon of %s: %w", a.id, err)
	}
	_, err := wait(ctx, what, seen)
	return err
}

// disband drops every connection.
func (f *fleet) disband() {
	conns := []*client.Conn{f.operator}
	for _, a := range f.agents {
		conns = append(conns, a.conn)
	}
	drop(conns)
	if f.nc != nil {
		f.nc.Close()
	}
}

func drop(conns []*client.Conn) {
	for _, conn := range conns {
		if conn != nil {
			conn.Abort()
			<-conn.Done()
		}
	}
}

// stored reads the last message on a subject of a stream: what rollcall itself
// writes is what the twin writes.
func (f *fleet) stored(ctx context.Context, stream, subject string) ([]byte, error) {
	s, err := f.js.Stream(ctx, stream)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", stream, err)
	}
	msg, err := s.GetLastMsgForSubject(ctx, subject)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", strings.Join([]string{stream, subject}, " "), err)
	}
	return msg.Data, nil
}
