package presence

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/services/presence/internal/machine"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

const (
	offline = subjects.StatusOffline
	online  = subjects.StatusOnline
	working = subjects.StatusWorking
)

func TestStoryOfOneAgent(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start(func(c *Config) { c.Retention = time.Second })
		ada := s.gateway("g1").open("ada", "laptop")

		s.eventually(func() bool { return len(s.changes("ada")) == 1 }, "no change announced")
		row := s.agent("ada")
		require.Equal(t, online, row.Status)
		require.Equal(t, ada.id, row.Connections[0].ConnectionID)
		changed := s.events(subjects.TypePresenceChanged)[0]
		require.Equal(t, changed.event.EventID, changed.msgID, "event_id is the message id")
		entry, err := s.rows.Get(t.Context(), subjects.AgentKey("acme", "ada"))
		require.NoError(t, err)
		require.Equal(t, strconv.FormatUint(entry.Revision, 10), changed.rowRev)
		require.Equal(t, s.mode == perAgent, s.hasConsumer("ada"))
		s.eventually(func() bool { _, exists := s.instance("laptop"); return exists }, "no instance row")

		ada.beacon("2.0")
		s.eventually(func() bool { i, _ := s.instance("laptop"); return i.Version == "2.0" }, "beacon not applied")
		lease := subjects.NewID()
		ada.lease("granted", lease)
		ada.lease("claimed", lease)
		ada.lease("consumed", lease)
		ada.close()
		s.eventually(func() bool { return len(s.changes("ada")) == 4 }, "not all changes announced")
		s.requireChanges("ada", online, working, online, offline)

		s.eventually(func() bool { return len(s.events(subjects.TypePresencePruned)) == 1 }, "lapse not announced")
		_, exists := s.instance("laptop")
		require.False(t, exists)
		s.eventually(func() bool { return !s.hasConsumer("ada") }, "consumer of a lapsed agent stays")
		require.Equal(t, offline, s.agent("ada").Status)
	})
}

func TestTwoProcessesAnnounceEachChangeOnce(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start()
		s.start()
		g := s.gateway("g1")
		const agents, rounds = 20, 6
		want := map[string][]subjects.Status{}
		for round := range rounds {
			peers := map[string]*peer{}
			for i := range agents {
				name := fmt.Sprintf("agent-%d", i)
				peers[name] = g.open(name, name)
				want[name] = append(want[name], online)
				if round%2 == 1 {
					peers[name].publish("opened", subjects.NewID(), peers[name].opened())
					lease := subjects.NewID()
					peers[name].lease("granted", lease)
					want[name] = append(want[name], working)
				}
			}
			for name, p := range peers {
				p.close()
				want[name] = append(want[name], offline)
			}
		}
		for name, statuses := range want {
			s.eventually(func() bool { return len(s.changes(name)) >= len(statuses) }, "changes of "+name+" missing")
		}
		for name, statuses := range want {
			s.requireChanges(name, statuses...)
		}
		for _, e := range s.events(subjects.TypePresenceChanged) {
			require.Equal(t, e.event.EventID, e.msgID)
		}
	})
}

func TestLostGatewayClosesItsConnectionsOnly(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start()
		s.start()
		lost, alive := s.gateway("g1"), s.gateway("g2")
		const agents = 20
		for i := range agents {
			lost.open(fmt.Sprintf("lost-%d", i), fmt.Sprintf("d%d", i))
			alive.open(fmt.Sprintf("alive-%d", i), fmt.Sprintf("e%d", i))
		}
		screen := lost.open("", "screen")
		s.eventually(func() bool { return len(s.events(subjects.TypePresenceChanged)) == 2*agents }, "not all online")
		s.eventually(func() bool { i, _ := s.instance("screen"); return i.ConnectionID == screen.id }, "screen not there")

		lost.beat(time.Second) // and never again
		for i := range agents {
			name := fmt.Sprintf("lost-%d", i)
			s.eventually(func() bool { return len(s.changes(name)) >= 2 }, name+" is not offline")
		}
		s.eventually(func() bool { i, _ := s.instance("screen"); return i.ConnectionID == "" }, "screen not closed")
		for i := range agents {
			s.requireChanges(fmt.Sprintf("lost-%d", i), online, offline)
			s.requireChanges(fmt.Sprintf("alive-%d", i), online)
		}
		s.eventually(func() bool { return len(s.events(subjects.TypeConnectionClosed)) > agents }, "closes missing")
		closes := s.events(subjects.TypeConnectionClosed)
		require.Len(t, closes, agents+1, "every close is stored once, whoever stores it")
		for _, e := range closes {
			p, err := subjects.DecodePayload[subjects.ConnectionClosed](e.event)
			require.NoError(t, err)
			require.Equal(t, subjects.ClosedGatewayLost, p.Reason)
		}
	})
}

func TestGatewayThatReturnsInTimeLosesNothing(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		p := s.start(func(c *Config) { c.Grace = time.Minute })
		g := s.gateway("g1")
		g.open("ada", "laptop")
		s.eventually(func() bool { return s.agent("ada").Status == online }, "not online")
		g.beat(time.Second)
		s.eventually(func() bool { return len(p.gateways.snapshot()) == 0 }, "the row does not lapse")
		g.beat(0)
		s.eventually(func() bool { return len(p.gateways.snapshot()) == 1 }, "the row does not return")
		s.requireChanges("ada", online)

		// As another incarnation it has lost its connections, and no grace helps.
		g.live()
		s.eventually(func() bool { return s.agent("ada").Status == offline }, "connections of the old incarnation stay")
		require.Equal(t, subjects.ReasonGatewayLost, s.agent("ada").Reason)
	})
}

// A gateway that is taken for lost and was not announces its connections again. When it
// is lost for real soon after that, they are closed again: that is another close than
// the one before, which the stream still remembers.
func TestGatewayThatIsLostTwice(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start()
		g := s.gateway("g1")
		ada := g.open("ada", "laptop")
		s.eventually(func() bool { return s.agent("ada").Status == online }, "not online")
		g.beat(time.Second)
		s.eventually(func() bool { return s.agent("ada").Status == offline }, "not lost")
		g.beat(0)
		ada.publish("opened", subjects.NewID(), ada.opened())
		s.eventually(func() bool { return s.agent("ada").Status == online }, "not online again")
		g.beat(time.Second)
		s.eventually(func() bool { return s.agent("ada").Status == offline }, "not lost again")
		s.requireChanges("ada", online, offline, online, offline)
	})
}

func TestOwnerlessRowsAreFoundAtTheStart(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		first := s.start()
		g := s.gateway("g1")
		g.open("ada", "laptop")
		s.eventually(func() bool { return s.agent("ada").Status == online }, "not online")
		first.stop()
		entry, err := s.gateways.Get(t.Context(), subjects.GatewayKey(g.id))
		require.NoError(t, err)
		require.NoError(t, s.gateways.Purge(t.Context(), entry.Key, entry.Revision, nil))
		s.start()
		s.eventually(func() bool { return s.agent("ada").Status == offline }, "the ghost stays")
	})
}

func TestEventsWaitWhilePresenceIsDown(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		g := s.gateway("g1")
		g.open("bob", "tablet") // before presence was ever there
		p := s.start()
		ada := g.open("ada", "laptop")
		s.eventually(func() bool { return len(s.events(subjects.TypePresenceChanged)) == 2 }, "not online")
		p.stop()
		ada.close()
		again := g.open("ada", "laptop")
		again.close()
		s.start()
		s.eventually(func() bool { return len(s.changes("ada")) == 4 }, "changes missing")
		s.requireChanges("ada", online, offline, online, offline)
		s.requireChanges("bob", online)
	})
}

func TestMalformedEventsAreTerminated(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start()
		g := s.gateway("g1")
		ada := g.open("ada", "laptop")
		s.eventually(func() bool { return s.agent("ada").Status == online }, "not online")
		for _, data := range []string{`not json`, `{}`, `{"event_id":"x"}`} {
			_, err := s.conn.Publish(t.Context(), bus.Message{Subject: subjects.AgentConnection("acme", "ada", "opened").String(), Data: []byte(data)})
			require.NoError(t, err)
		}
		ada.publish("closed", subjects.NewID(), map[string]any{"connection_id": "*"})
		s.publish(subjects.InstanceConnection("acme", ada.instance, "opened"), subjects.NewID(), map[string]any{"instance_id": 7})
		ada.close()
		s.eventually(func() bool { return s.agent("ada").Status == offline }, "a malformed event holds the others up")
		s.requireChanges("ada", online, offline)
	})
}

func TestConsumerRemovedByAnOperatorComesBack(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	s.start()
	ada := s.gateway("g1").open("ada", "laptop")
	s.eventually(func() bool { return s.agent("ada").Status == online && s.hasConsumer("ada") }, "not online")
	name := agentConsumer(subjects.PresenceKey{Tenant: "acme", Agent: "ada"})
	require.NoError(t, s.conn.JS().DeleteConsumer(t.Context(), subjects.StreamEvents, name))
	ada.lease("granted", subjects.NewID())
	ada.close()
	s.eventually(func() bool { return len(s.changes("ada")) == 3 }, "events lost with the consumer")
	s.requireChanges("ada", online, working, offline)
}

func TestCapPrunesTheLongestGone(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.publishSettings(`{"max_instances": 3}`)
		s.start()
		s.start()
		g := s.gateway("g1")
		live := g.open("live", "live")
		for i := range 4 {
			g.open("", fmt.Sprintf("gone-%d", i)).close()
			s.eventually(func() bool {
				row, exists := s.instance(fmt.Sprintf("gone-%d", i))
				return exists && row.ConnectionID == ""
			}, "not gone")
		}
		s.eventually(func() bool { return len(s.events(subjects.TypePresencePruned)) == 2 }, "cap not enforced")
		var pruned []subjects.PresencePruned
		for _, e := range s.events(subjects.TypePresencePruned) {
			p, err := subjects.DecodePayload[subjects.PresencePruned](e.event)
			require.NoError(t, err)
			pruned = append(pruned, p)
		}
		require.ElementsMatch(t, []subjects.PresencePruned{
			{InstanceID: subjects.InstanceIDOfSPKI([]byte("gone-0")), Reason: subjects.PrunedCap},
			{InstanceID: subjects.InstanceIDOfSPKI([]byte("gone-1")), Reason: subjects.PrunedCap},
		}, pruned)
		row, exists := s.instance("live")
		require.True(t, exists)
		require.Equal(t, live.id, row.ConnectionID)
	})
}

// publishSettings stores the tenant's presence settings as an operator would.
func (s *stage) publishSettings(value string) {
	s.t.Helper()
	kv, err := s.conn.JS().KeyValue(s.t.Context(), subjects.BucketSettings)
	require.NoError(s.t, err)
	_, err = kv.PutString(s.t.Context(), subjects.SettingsKey("acme", "presence"), value)
	require.NoError(s.t, err)
}

func TestSettingsAreTakenLiveAndBadOnesRefused(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		p := s.start()
		require.Equal(t, time.Minute, p.settings.retention("acme"))
		s.publishSettings(`{"retention_ms": 2000}`)
		s.eventually(func() bool { return p.settings.retention("acme") == 2*time.Second }, "setting not taken")
		for _, bad := range []string{`{"retention_ms": 5}`, `{"retention": 1}`, `nonsense`, `{"max_instances": -1}`} {
			s.publishSettings(bad)
		}
		s.publishSettings(`{"retention_ms": 2000, "max_instances": 7}`)
		s.eventually(func() bool { return p.settings.maxInstances("acme") == 7 }, "setting not taken")
		require.Equal(t, 2*time.Second, p.settings.retention("acme"))
		require.Equal(t, time.Minute, p.settings.retention("globex"))
	})
}

func TestLapsesAreAnnouncedOnceOverRestarts(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		short := func(c *Config) { c.Retention = time.Second }
		p := s.start(short)
		g := s.gateway("g1")
		for i := range 5 {
			g.open("", fmt.Sprintf("d%d", i)).close()
		}
		s.eventually(func() bool { return len(s.events(subjects.TypePresencePruned)) == 5 }, "lapses not announced")
		p.stop()
		// From here on the stream recognises no repeated id by itself.
		s.forgetMessageIDs()
		again := s.start(short)
		g.open("", "d9").close()
		s.eventually(func() bool { return len(s.events(subjects.TypePresencePruned)) >= 6 }, "lapse not announced")
		s.eventually(func() bool { return len(again.lapses) == 0 }, "markers not worked off")
		require.Len(t, s.events(subjects.TypePresencePruned), 6)

		// A device that returns finds its lapse announced before its return.
		g.open("", "d0")
		s.eventually(func() bool { _, exists := s.instance("d0"); return exists }, "not back")
		require.Len(t, s.events(subjects.TypePresencePruned), 6)
	})
}

// forgetMessageIDs shortens the window in which EVENTS recognises repeated
// message ids to next to nothing.
func (s *stage) forgetMessageIDs() {
	s.t.Helper()
	stream, err := s.conn.JS().Stream(s.t.Context(), subjects.StreamEvents)
	require.NoError(s.t, err)
	config := stream.CachedInfo().Config
	config.Duplicates = 100 * time.Millisecond
	_, err = s.conn.JS().UpdateStream(s.t.Context(), config)
	require.NoError(s.t, err)
	// The window slides with time; nothing observable marks its end.
	time.Sleep(300 * time.Millisecond)
}

// TestLateRepetitionIsNotStoredTwice delivers an event again long after the
// stream has forgotten the ids of what was announced for it.
func TestLateRepetitionIsNotStoredTwice(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		p := s.start()
		ada := s.gateway("g1").open("ada", "laptop")
		s.eventually(func() bool { return len(s.events(subjects.TypePresenceUpserted)) == 1 }, "not announced")
		opened := s.events(subjects.TypeConnectionOpened)[0]
		s.forgetMessageIDs()
		d := &bus.Delivery{Seq: opened.seq, Attempt: 2, Time: time.Now()}
		require.NoError(t, p.apply(t.Context(), d, opened.subject, opened.event))
		ada.close()
		s.eventually(func() bool { return len(s.changes("ada")) == 2 }, "close not announced")
		s.requireChanges("ada", online, offline)
		s.eventually(func() bool { return len(s.events(subjects.TypePresenceUpserted)) == 2 }, "close of the instance not announced")
	})
}

// TestRandomChurnEndsInTheTruth opens and closes at random, with two processes
// that are stopped and started meanwhile, and compares rows and announcements
// with what was published.
func TestRandomChurnEndsInTheTruth(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		g := s.gateway("g1")
		running := []*process{s.start(), s.start()}
		random := rand.New(rand.NewPCG(1, 2))
		live := map[string][]*peer{}
		for step := range 400 {
			name := fmt.Sprintf("agent-%d", random.IntN(10))
			if peers := live[name]; len(peers) > 0 && random.IntN(2) == 0 {
				peers[0].close()
				live[name] = peers[1:]
			} else {
				live[name] = append(peers, g.open(name, fmt.Sprintf("device-%d", random.IntN(5))))
			}
			if step%100 == 50 {
				i := random.IntN(len(running))
				running[i].stop()
				running[i] = s.start()
			}
		}
		for name, peers := range live {
			s.eventually(func() bool { return len(s.agent(name).Connections) == len(peers) }, "connections of "+name)
			last := offline
			s.eventually(func() bool {
				statuses := s.changes(name)
				return len(statuses) > 0 && (statuses[len(statuses)-1] == online) == (len(peers) > 0)
			}, "last change of "+name)
			for i, status := range s.changes(name) {
				require.NotEqual(t, last, status, "change %d of %s changes nothing", i, name)
				last = status
			}
		}
	})
}

// TestOpeningThatDiedWithItsProcess delivers an agent's second opened event
// while the first is still with a process that will never handle it.
func TestOpeningThatDiedWithItsProcess(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	// The process is there to make the registrar, and then gone.
	s.start().stop()
	taken := make(chan struct{}, 2)
	sub, err := s.conn.NC().QueueSubscribe(deliverSubject, deliverGroup, func(*nats.Msg) { taken <- struct{}{} })
	require.NoError(t, err)
	g := s.gateway("g1")
	first := g.open("ada", "laptop")
	<-taken // and never answered
	require.NoError(t, sub.Unsubscribe())
	require.NoError(t, s.conn.NC().Flush())
	second := g.open("ada", "tablet")
	s.start()
	s.eventually(func() bool { return len(s.agent("ada").Connections) == 2 }, "an opening is lost")
	second.close()
	s.eventually(func() bool { return len(s.agent("ada").Connections) == 1 }, "not closed")
	require.Equal(t, first.id, s.agent("ada").Connections[0].ConnectionID)
	s.requireChanges("ada", online)
}

// TestRefusedOpeningSpokeForOthers has an agent's consumer lost while its first opened
// event, which held the place of all, is not acknowledged; it is refused when it comes
// again.
func TestRefusedOpeningSpokeForOthers(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	s.start().stop()
	taken := make(chan *nats.Msg, 2)
	sub, err := s.conn.NC().QueueSubscribe(deliverSubject, deliverGroup, func(m *nats.Msg) { taken <- m })
	require.NoError(t, err)
	dead, lives := s.gateway("g1"), s.gateway("g2")
	dead.open("ada", "laptop")
	<-taken // and never answered
	second := lives.open("ada", "tablet")
	require.NoError(t, (<-taken).Ack())
	require.NoError(t, sub.Unsubscribe())
	require.NoError(t, s.conn.NC().Flush())
	dead.live()
	s.start()
	s.eventually(func() bool { return len(s.agent("ada").Connections) == 1 }, "an opening is lost")
	require.Equal(t, second.id, s.agent("ada").Connections[0].ConnectionID)
	s.requireChanges("ada", online)
}

// TestConsumersComeBackWithTheServer restarts NATS, which forgets the agents'
// consumers.
func TestConsumersComeBackWithTheServer(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start(func(c *Config) { c.Sweep = time.Hour })
		ada := s.gateway("g1").open("ada", "laptop")
		s.eventually(func() bool { return len(s.changes("ada")) == 1 }, "not online")
		s.server.Restart(t)
		ada.lease("granted", subjects.NewID())
		ada.close()
		s.eventually(func() bool { return len(s.changes("ada")) == 3 }, "events lost with the server's memory")
		s.requireChanges("ada", online, working, offline)
	})
}

// TestEarlierLifeIsNotCountedAgain lets an agent lapse and return, while the
// registrar has not acknowledged anything since its first life.
func TestEarlierLifeIsNotCountedAgain(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start(func(c *Config) { c.Retention = time.Second })
		g := s.gateway("g1")
		ada := g.open("ada", "laptop")
		for range 3 {
			lease := subjects.NewID()
			ada.lease("granted", lease)
			ada.lease("consumed", lease)
		}
		ada.close()
		s.eventually(func() bool { return len(s.changes("ada")) == 8 }, "not gone")
		s.eventually(func() bool { return !s.read(subjects.AgentKey("acme", "ada"), &subjects.AgentRow{}) }, "does not lapse")
		s.eventually(func() bool { return !s.hasConsumer("ada") }, "consumer of a lapsed agent stays")
		g.open("ada", "laptop")
		s.eventually(func() bool { return len(s.changes("ada")) == 9 }, "not back")
		for _, audit := range []string{subjects.AuditBeginAfterDisconnect, subjects.AuditEndAfterDisconnect} {
			require.Empty(t, s.events("audit."+audit))
		}
	})
}

func TestCommonConsumersComeBack(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	s.start()
	g := s.gateway("g1")
	g.open("ada", "laptop")
	g.open("", "screen")
	s.eventually(func() bool { _, there := s.instance("screen"); return there && len(s.changes("ada")) == 1 }, "not there")
	for _, name := range []string{registrarName, instancesName} {
		require.NoError(t, s.conn.JS().DeleteConsumer(t.Context(), subjects.StreamEvents, name))
	}
	g.open("bob", "tablet")
	g.open("", "tool")
	s.eventually(func() bool { _, there := s.instance("tool"); return there && len(s.changes("bob")) == 1 }, "nobody new is seen")
	s.requireChanges("ada", online)
}

// TestConnectionLeftInAnInstanceRow is the state a crash between an agent's row
// and its instance's leaves, once the agent's has lapsed.
func TestConnectionLeftInAnInstanceRow(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		g := s.gateway("g1")
		ghost := &peer{gateway: g, tenant: "acme", agent: "ada", id: subjects.NewID(), instance: subjects.InstanceIDOfSPKI([]byte("laptop"))}
		seq := s.publish(subjects.Audit("acme", "ada", "before"), subjects.NewID(), subjects.AuditRecord{AgentID: "ada"})
		row, effects := machine.StepInstance(subjects.InstanceRow{}, "ada", machine.Input{
			Seq: seq, At: time.Now(), Fact: machine.Opened{ConnectionOpened: ghost.opened()},
		}, time.Minute)
		require.True(t, machine.Saves(effects))
		value, err := json.Marshal(row)
		require.NoError(t, err)
		_, err = s.rows.Save(t.Context(), subjects.InstanceKey("acme", ghost.instance), value, 0, 0)
		require.NoError(t, err)
		g.live() // as another incarnation
		s.start()
		s.eventually(func() bool { row, there := s.instance("laptop"); return there && row.ConnectionID == "" }, "the ghost stays")
		s.eventually(func() bool { return len(s.events(subjects.TypeConnectionClosed)) > 0 }, "its close is missing")
		require.Len(t, s.events(subjects.TypeConnectionClosed), 1)
	})
}

// TestRowsAheadOfTheLog starts presence on rows of a log that is gone.
func TestRowsAheadOfTheLog(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		p := s.start()
		g := s.gateway("g1")
		for range 5 {
			g.open("ada", "laptop").close()
		}
		last := g.open("ada", "laptop")
		s.eventually(func() bool { return len(s.changes("ada")) == 11 }, "not all applied")
		p.stop()
		require.NoError(t, s.conn.JS().DeleteStream(t.Context(), subjects.StreamEvents))
		for _, stream := range subjects.Streams(time.Hour) {
			require.NoError(t, s.server.Connect(t).EnsureStream(t.Context(), bus.Stream(stream), 1))
		}
		s.mu.Lock()
		s.seen = nil
		s.mu.Unlock()
		s.start()
		s.eventually(func() bool { return s.agent("ada").Status == offline && len(s.agent("ada").Connections) == 0 }, "the row stays")
		again := g.open("ada", "laptop")
		s.requireChanges("ada", online)
		require.Equal(t, again.id, s.agent("ada").Connections[0].ConnectionID)
		require.NotEqual(t, last.id, again.id)
	})
}

// TestRowsThatGetAheadOfTheLog has NATS come back with a row of events that it has lost,
// under a process that runs on.
func TestRowsThatGetAheadOfTheLog(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start()
		g := s.gateway("g1")
		ada := g.open("ada", "laptop")
		s.requireChanges("ada", online)
		row := s.agent("ada")
		row.AppliedSeq += 1000
		s.save(subjects.AgentKey("acme", "ada"), row)
		s.server.Restart(t)
		s.eventually(func() bool { return s.agent("ada").Status == offline }, "the row stays")
		ada.publish("opened", subjects.NewID(), ada.opened()) // as its gateway does when it finds it gone
		s.eventually(func() bool { return s.agent("ada").Status == online }, "not online again")
	})
}

// TestRowThatComesWhileTheLogIsAsked has another process apply an event between two
// looks of one that starts.
func TestRowThatComesWhileTheLogIsAsked(t *testing.T) {
	t.Parallel()
	s := newStage(t, perAgent)
	p := s.start()
	s.gateway("g1").open("ada", "laptop")
	s.requireChanges("ada", online)
	row := s.agent("ada")
	row.AppliedSeq += 1000
	key := subjects.AgentKey("acme", "ada")
	overtaken, err := p.dropAhead(t.Context(), func(context.Context) (uint64, error) {
		s.save(key, row)
		s.eventually(func() bool { return p.roster.places()[key].seq == row.AppliedSeq }, "not seen")
		return row.AppliedSeq - 1, nil
	})
	require.NoError(t, err)
	require.False(t, overtaken)
	require.Equal(t, online, s.agent("ada").Status)

	overtaken, err = p.dropAhead(t.Context(), func(context.Context) (uint64, error) {
		s.save(key, row)
		return 1, nil
	})
	require.NoError(t, err)
	require.True(t, overtaken, "it has to be looked at again")
	require.Equal(t, online, s.agent("ada").Status)
}

// TestStreamsRemovedUnderPresence removes the log, and then the bucket, while agents
// are connected.
func TestStreamsRemovedUnderPresence(t *testing.T) {
	t.Parallel()
	eachMode(t, func(t *testing.T, s *stage) {
		t.Helper()
		s.start()
		g := s.gateway("g1")
		ada := g.open("ada", "laptop")
		s.requireChanges("ada", online)
		require.NoError(t, s.conn.JS().DeleteStream(t.Context(), subjects.StreamEvents))
		s.eventually(func() bool {
			_, err := s.conn.JS().Stream(t.Context(), subjects.StreamEvents)
			return err == nil
		}, "the log is not made again")
		ada.close()
		s.requireChanges("ada", online, offline)
		bob := g.open("bob", "tablet")
		s.requireChanges("bob", online)

		require.NoError(t, s.conn.JS().DeleteStream(t.Context(), "KV_"+subjects.BucketPresence))
		s.eventually(func() bool {
			_, err := s.conn.JS().Stream(t.Context(), "KV_"+subjects.BucketPresence)
			return err == nil
		}, "the bucket is not made again")
		bob.publish("opened", subjects.NewID(), bob.opened()) // as its gateway does when it finds it gone
		s.eventually(func() bool { return s.agent("bob").Status == online }, "not online again")
		bob.close()
		s.eventually(func() bool { return s.agent("bob").Status == offline }, "not offline")
	})
}
