package client

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"time"
)

// Bounds of what a peer serves.
const (
	// maxServing bounds the requests of the gateway that run at once. One more
	// is answered with unavailable.
	maxServing = 64
	// answerTimeout bounds the sending of an answer.
	answerTimeout = 5 * time.Second
)

// ServerRequest is something the gateway asks of this peer.
type ServerRequest struct {
	Type    string
	Payload json.RawMessage
}

// Verdicts of a moderator.
const (
	VerdictGrant = "grant"
	VerdictDeny  = "deny"
	VerdictHold  = "hold"
)

// Authorization is the answer to a request of type lease.authorize, whose
// payload is {"lease": a [Lease]}.
type Authorization struct {
	Verdict   string `json:"verdict"`
	TimeoutMS int64  `json:"timeout_ms,omitempty"`
	HoldMS    int64  `json:"hold_ms,omitempty"`
	Reason    string `json:"reason,omitempty"`
}

// serving runs OnRequest for the gateway's requests.
type serving struct {
	handle  func(context.Context, ServerRequest) (any, error)
	places  chan struct{}
	running sync.WaitGroup
}

// answerFrame is the response to a request of the gateway.
type answerFrame struct {
	RequestID string          `json:"request_id"`
	Type      string          `json:"type"`
	OK        bool            `json:"ok"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     *Error          `json:"error,omitempty"`
}

// serve answers a request of the gateway: with what OnRequest says, or, without
// one, that this peer does not know it. Life ends with the connection.
func (c *Conn) serve(life context.Context, f frame) {
	if c.serving.handle == nil {
		c.answer(life, f, nil, &Error{Code: CodeUnsupportedRequest, Message: "this peer does not serve " + f.Type})
		return
	}
	select {
	case c.serving.places <- struct{}{}:
	default:
		c.answer(life, f, nil, &Error{Code: CodeUnavailable, Message: "this peer serves too many requests at once"})
		return
	}
	c.serving.running.Go(func() {
		defer func() { <-c.serving.places }()
		result, err := c.serving.handle(life, ServerRequest{Type: f.Type, Payload: f.Payload})
		c.answer(life, f, result, err)
	})
}

// answer sends an answer. If it cannot be sent the connection is at its end,
// and whoever asked learns of that.
func (c *Conn) answer(ctx context.Context, f frame, result any, err error) {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	out := answerFrame{RequestID: f.RequestID, Type: f.Type}
	if err == nil {
		// What cannot be said must not leave whoever asked to its deadline.
		out.Result, err = json.Marshal(result)
	}
	if err != nil {
		var refusal *Error
		if !errors.As(err, &refusal) {
			refusal = &Error{Code: "internal_error", Message: "the peer could not serve the request"}
		}
		out.Result, out.Error = nil, refusal
	} else if out.OK = true; result == nil {
		out.Result = json.RawMessage(`{}`)
	}
	_ = c.write(ctx, out)
}
