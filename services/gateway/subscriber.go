package gateway

import (
	"context"
	"sync"
	"time"

	"rollcall/subjects"
)

// subscriber is a socket's place in its tenant's feed, or that of a stream over
// HTTP. It reads the order of events like everybody else, at its own pace:
//
//	read         everything up to here was delivered, or was not for it
//	live         read is the feed's own place; events are offered as they come
//	held         nothing is delivered: a response must be queued first
//	catching up  a goroutine delivers what is behind read, from the feed's ring
//	             or from JetStream, as fast as the peer takes it
//
// So what a peer gets is in order, whatever it subscribes to and wherever it
// begins, and the cursor of the last event it got is where it may resume.
//
// The feed's lock guards it, but for what never changes.
type subscriber struct {
	// Who it is, as far as events concern somebody.
	agent, device, connection string
	// sees says that the peer may see what concerns others.
	sees   bool
	frames encoding
	out    *queue
	// slow closes the socket; it must not block.
	slow func()
	// resync queues the event of that name, at a cursor; it must not block.
	resync func(e resyncEvent, cursor string)
	// delivered is told the cursor of each event put into the queue.
	delivered func(cursor string)
	// life ends with the socket, and running are the goroutines that work for it.
	life    context.Context //nolint:containedctx // of what catches up, which no call waits for
	running sync.WaitGroup

	read     position
	held     bool
	catching bool
	left     bool

	// Which agents' changes it gets, and what its snapshots held already.
	all    bool
	agents map[string]struct{}
	floor  floor
	// deltasFrom is the place up to which changes were delivered when the
	// subscriber was set back to an older one.
	deltasFrom position

	listens map[string]listening // by subscription_id

	// echo is told of events about the peer's own device, while somebody listens.
	echo chan<- *entry
}

// listening is one subscription to events.
type listening struct {
	filter subjects.EventFilter
	// from is the place behind which it begins.
	from position
}

// hears reports whether an event may be told to the peer.
func (s *subscriber) hears(scope subjects.Scope) bool {
	switch scope.Kind {
	case subjects.ScopeGlobal:
		return true
	case subjects.ScopeAgent:
		return s.sees || scope.ID == s.agent
	case subjects.ScopeDevice:
		return s.sees || scope.ID == s.device
	case subjects.ScopeSession:
		return s.sees || scope.ID == s.connection
	default:
		return false
	}
}

// wants reports whether an event is for this peer: as a change of an agent it
// watches, or by one of its subscriptions to events.
func (s *subscriber) wants(e *entry) bool {
	if e.agent != "" && e.at.after(s.deltasFrom) && s.watches(e.agent) && !s.floor.holds(e, time.Now()) {
		return true
	}
	for _, l := range s.listens {
		if e.at.after(l.from) && l.filter.Match(e.kind) {
			return e.open() == nil && s.hears(e.event.Scope)
		}
	}
	return false
}

func (s *subscriber) watches(agent string) bool {
	_, listed := s.agents[agent]
	return s.all || listed
}

// idle says that the subscriber asked for nothing.
func (s *subscriber) idle() bool { return !s.all && len(s.agents) == 0 && len(s.listens) == 0 }
