package client

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Close codes that a session acts on.
const (
	closeTryLater      = 1013
	closeUnauthorized  = 4001
	closeBadFrame      = 4003
	closeWrongRevision = 4005
	closeWrongDevice   = 4006
	closeWrongProof    = 4007
	closeOtherDevice   = 4008
)

// maxHint bounds how long a gateway can make a session wait.
const maxHint = 5 * time.Minute

// PermanentError is the end of a session that nobody asked for: what the gateway
// refused, it would refuse again. It wraps a [*CloseError] where the connection
// was refused, and an [*Error] where a request was that the session makes on
// each connection.
type PermanentError struct{ Err error }

// Error says what was refused.
func (e *PermanentError) Error() string { return "session ended for good: " + e.Err.Error() }

// Unwrap returns what was refused.
func (e *PermanentError) Unwrap() error { return e.Err }

// pacer says how long to wait before the next attempt to connect.
type pacer struct{ backoff Backoff }

// proved begins again, after a proof that the gateway took.
func (p *pacer) proved() { p.backoff.Reset() }

// after returns the wait after an attempt or a connection that ended with err:
// jittered, and never shorter than the gateway asks for, by a hint or with err.
// Code 1013 asks for a moment without saying how long it is; it is the backoff's
// base.
func (p *pacer) after(err error, hint time.Duration) time.Duration {
	least := max(hint, retryAfter(err))
	if closed, is := errors.AsType[*CloseError](err); is && closed.Code == closeTryLater {
		least = max(least, p.backoff.Base)
	}
	return max(p.backoff.Next(), min(least, maxHint))
}

// retryAfter is the hint that comes with a refusal, 0 for any other error.
func retryAfter(err error) time.Duration {
	if refusal, is := errors.AsType[*Error](err); is {
		return refusal.RetryAfter()
	}
	return 0
}

// refusedForGood reports whether a handshake that ended with err would always,
// whatever the token is.
func refusedForGood(err error) bool {
	closed, is := errors.AsType[*CloseError](err)
	if !is {
		return false
	}
	switch closed.Code {
	case closeBadFrame, closeWrongRevision, closeWrongDevice, closeWrongProof, closeOtherDevice:
		return true
	default:
		return false
	}
}

// passing reports whether a refused request may be granted a little later.
func passing(err error) bool {
	refusal, is := errors.AsType[*Error](err)
	return is && (refusal.Code == CodeUnavailable || refusal.Code == CodeRateLimited)
}

// deniedForGood reports whether a request was refused because of what it says or
// who says it.
func deniedForGood(err error) bool {
	refusal, is := errors.AsType[*Error](err)
	if !is {
		return false
	}
	switch refusal.Code {
	case CodeInvalidRequest, CodeForbidden, CodeUnauthorized, CodeUnsupportedRequest:
		return true
	default:
		return false
	}
}

// requestBase and requestMax pace the repetition of requests.
const (
	requestBase = 100 * time.Millisecond
	requestMax  = 5 * time.Second
)

// retrying repeats attempt until it succeeds, fails for good or ctx ends. Again
// says of an error whether another attempt may follow.
func retrying(ctx context.Context, attempt func() error, again func(error) bool) error {
	backoff := Backoff{Base: requestBase, Max: requestMax}
	for {
		err := attempt()
		if err == nil || !again(err) {
			return err
		}
		if !pause(ctx, max(backoff.Next(), min(retryAfter(err), maxHint))) {
			return fmt.Errorf("%w; the last attempt: %w", ctx.Err(), err)
		}
	}
}

// pause waits for d; it is false when ctx has ended.
func pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}
