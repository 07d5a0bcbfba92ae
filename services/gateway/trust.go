package gateway

import (
	"errors"
	"time"

	"rollcall/services/gateway/internal/machine"
	"rollcall/services/gateway/internal/token"
	"rollcall/shared/bus"
	"rollcall/subjects"
)

// errNoAccount keeps the gateway from being ready while nobody is trusted.
var errNoAccount = errors.New("nothing says whose tokens count yet: no account in SETTINGS")

// newTrust is fixed where issuers are listed, and follows the operator's word
// otherwise.
func newTrust(cfg Config) *token.Trust {
	if len(cfg.OperatorKeys) == 0 {
		return token.NewTrust(cfg.TrustedIssuers)
	}
	return token.Pin(cfg.OperatorKeys, cfg.AccountKey)
}

// awaitTrust states that nobody is trusted yet, if so.
func (g *Gateway) awaitTrust() {
	if g.trust.Known() {
		g.trusted.done()
		return
	}
	g.health.Set("trust", errNoAccount)
}

// applyAccount takes the row that says whose tokens count. Sockets whose token
// does not any more are closed. A row that is refused, or taken away, leaves the
// last good one in force.
func (g *Gateway) applyAccount(u bus.Update) {
	if len(g.cfg.OperatorKeys) == 0 {
		return
	}
	err := errors.New("row removed")
	if u.Op == bus.Put {
		err = g.trust.Update(string(u.Value), time.Now())
	}
	if err != nil {
		g.log.Error().Err(err).Str("key", u.Key).Uint64("revision", u.Revision).Msg("account refused; the last good one stays")
		return
	}
	g.log.Info().Uint64("revision", u.Revision).Msg("account taken")
	g.health.Set("trust", nil)
	g.trusted.done()
	for _, s := range g.roster.list() {
		s.checkStanding()
	}
	g.streams.check(g.trust.Standing)
}

// checkStanding closes the socket if its token has stopped counting since it was
// verified. It runs when that changes, and once more when the socket has become
// one that a change finds.
func (s *socket) checkStanding() {
	if err := s.gateway.trust.Standing(s.token); err != nil {
		s.stop(ending{code: machine.CodeUnauthorized, text: "token revoked", reason: subjects.ClosedTokenRevoked})
	}
}
