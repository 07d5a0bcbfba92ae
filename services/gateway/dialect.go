package gateway

import (
	"context"
	"slices"
	"strings"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
)

// dialect is one way to speak with this gateway. What two of them differ in is here,
// in their machine's rules and in their encoding of events; whatever else a socket
// does is the same for all.
type dialect struct {
	// name is its subprotocol, and tokenEntry what an access token among the offered
	// subprotocols begins with.
	name, tokenEntry string
	handshake        machine.Dialect
	frames           encoding

	// kindOf tells a peer's frames apart; request and response read two of the kinds.
	kindOf   func(data []byte) frameKind
	request  func(data []byte) (machine.Request, error)
	response func(data []byte) (peerResponse, error)

	// welcome is the result of connect.proof, and begin is what follows it.
	welcome func(s *socket, cursor string) any
	begin   func(ctx context.Context, s *socket, seq uint64)
	// serve answers a request.
	serve func(ctx context.Context, s *socket, r machine.Request)
	// told is a refusal in words that the peer knows.
	told func(p *subjects.Problem) *subjects.Problem

	// sees reports whether a peer with these scopes hears what concerns others.
	sees func(scopes token.Scopes) bool
	// omits names the events of our own that would tell the peer nothing.
	omits []string
	// maxBadFrames in a row close the socket; any number is borne when it is 0.
	maxBadFrames int
	// ending is how the peer is told that its socket closes.
	ending func(e ending) ending
}

// dialects are those a peer may offer, the preferred one first.
func dialects() []*dialect { return []*dialect{nativeDialect(), tyrumDialect()} }

// choose is the dialect to speak with a peer; nil if it offers none.
func choose(known []*dialect, offered []string) *dialect {
	for _, d := range known {
		if slices.Contains(offered, d.name) {
			return d
		}
	}
	return nil
}

// names lists the dialects for whoever offers none of them.
func names(known []*dialect) string {
	all := make([]string, len(known))
	for i, d := range known {
		all[i] = d.name
	}
	return strings.Join(all, " or ")
}

// nativeDialect is rollcall.v1.
func nativeDialect() *dialect {
	return &dialect{
		name: subprotocol, tokenEntry: tokenEntry, handshake: machine.Native, frames: nativeFrames,
		kindOf: kindOf, request: machine.DecodeRequest, response: subjects.Decode[peerResponse],
		welcome: welcome, begin: func(context.Context, *socket, uint64) {},
		serve:        func(ctx context.Context, s *socket, r machine.Request) { s.dispatch(ctx, r) },
		told:         func(p *subjects.Problem) *subjects.Problem { return p },
		sees:         func(scopes token.Scopes) bool { return scopes.Has(token.ScopeOperatorRead) },
		maxBadFrames: maxBadFrames,
		ending:       func(e ending) ending { return e },
	}
}
