package client

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/coder/websocket"
)

var (
	// ErrClosed is the end of a connection by this side's [Conn.Close] or
	// [Conn.Abort].
	ErrClosed = errors.New("connection closed by this side")
	// ErrSilent is the end of a connection on which not even a ping came for
	// three ping intervals: the peer is gone, or the network is.
	ErrSilent = errors.New("nothing heard from the gateway for three ping intervals")
)

// Codes of [Error] that programs most often act on.
const (
	CodeInvalidRequest     = "invalid_request"
	CodeUnauthorized       = "unauthorized"
	CodeForbidden          = "forbidden"
	CodeRateLimited        = "rate_limited"
	CodeUnavailable        = "unavailable"
	CodeUnsupportedRequest = "unsupported_request"
	CodeLeaseInvalid       = "lease_invalid"
	CodePeerUnavailable    = "peer_unavailable"
	CodeTimeout            = "timeout"
)

// Error is the gateway's refusal of one request. The connection lives on.
type Error struct {
	Code    string         `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details,omitempty"`
}

// Error returns "code: message".
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// RetryAfter returns how long the gateway asks to wait before the request is
// sent again, 0 where it says nothing.
func (e *Error) RetryAfter() time.Duration {
	ms, _ := e.Details["retry_after_ms"].(float64)
	return time.Duration(ms * float64(time.Millisecond))
}

// CloseError is the end of a connection by the gateway's close frame. [Dial]
// returns it too: a refused token is code 4001.
type CloseError struct {
	Code   int
	Reason string
}

// Error names code and reason.
func (e *CloseError) Error() string {
	return fmt.Sprintf("closed by the gateway with code %d (%s)", e.Code, e.Reason)
}

// unsentError is the failure of a request of which the gateway has not seen a
// byte: the connection had ended before.
type unsentError struct{ err error }

func (e *unsentError) Error() string { return e.err.Error() }
func (e *unsentError) Unwrap() error { return e.err }

// ended turns the error of a read or write into this package's: the library's
// close errors become a [CloseError].
func ended(err error) error {
	if closed, ok := errors.AsType[websocket.CloseError](err); ok {
		return &CloseError{Code: int(closed.Code), Reason: closed.Reason}
	}
	return err
}

// decode reads a result into v, unless there is nothing to read it into.
func decode(what string, raw json.RawMessage, v any) error {
	if v == nil || len(raw) == 0 {
		return nil
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("decode result of %s: %w", what, err)
	}
	return nil
}
