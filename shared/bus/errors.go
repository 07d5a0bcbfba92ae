package bus

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var (
	// ErrConflict says that a row is no longer at the revision given.
	ErrConflict = errors.New("revision conflict")
	// ErrUnavailable says that JetStream did not answer in time. Whether the
	// request took effect is unknown.
	ErrUnavailable = errors.New("jetstream unavailable")
	// ErrTaken says that a message was not stored because its id is that of
	// another one.
	ErrTaken = errors.New("message id is taken")
	// ErrExists says that a bucket that was to be made is there already.
	ErrExists = errors.New("bucket exists")
	// ErrDeferred is returned by a handler that settles its delivery later.
	ErrDeferred = errors.New("settled later")

	// errUnfit says that a stream exists which no update can make fit.
	errUnfit = errors.New("unfit stream exists")
)

// Server error codes that nats.go has no sentinel for.
const (
	codeNoPeers                   jetstream.ErrorCode = 10005
	codeNotLeader                 jetstream.ErrorCode = 10009
	codeStreamOffline             jetstream.ErrorCode = 10118
	codeStreamNotCreated          jetstream.ErrorCode = 10049
	codeWrongLastSequence         jetstream.ErrorCode = 10071
	codeDuplicateInProcess        jetstream.ErrorCode = 10158
	codeWrongLastSequenceReplicas jetstream.ErrorCode = 10164
)

// PermanentError marks a delivery that no retry can help.
type PermanentError struct{ cause error }

// Permanent wraps err so that [Conn.Work] terminates the delivery. It returns
// nil for a nil err.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &PermanentError{cause: err}
}

// Error is the text of the cause.
func (e *PermanentError) Error() string { return e.cause.Error() }

// Unwrap returns the cause.
func (e *PermanentError) Unwrap() error { return e.cause }

// class sorts failures by what a caller can do about them.
type class int

const (
	classTransient class = iota // the same request may work later
	classConflict               // the row moved on
	classPermanent              // the server said no, or will never be asked
)

// classify sorts the error of one request.
func classify(err error) class {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return classifyCode(api)
	}
	for _, permanent := range []error{
		nats.ErrMaxPayload, nats.ErrBadSubject, nats.ErrInvalidMsg, nats.ErrHeadersNotSupported,
		ErrTaken, ErrExists, ErrTooMany, errUnfit, jetstream.ErrInvalidBucketName, jetstream.ErrInvalidStreamName, jetstream.ErrStreamNameRequired,
		jetstream.ErrLimitMarkerTTLNotSupported, nats.ErrInvalidArg, nats.ErrBadHeaderMsg, jetstream.ErrInvalidOption, nats.ErrConnectionClosed,
	} {
		if errors.Is(err, permanent) {
			return classPermanent
		}
	}
	return classTransient
}

// classifyCode reads a server's answer. Of a conflict there are two codes:
// replicated streams answer racing writers with one of their own. A stream that
// could not be created is worth another try: several clients that are the first
// ones of an account get in each other's way in the server. So is what a cluster
// answers whose servers do not know each other yet, or have no leader.
func classifyCode(api *jetstream.APIError) class {
	switch {
	case api.ErrorCode == codeWrongLastSequence, api.ErrorCode == codeWrongLastSequenceReplicas:
		return classConflict
	case api.ErrorCode == codeDuplicateInProcess, api.ErrorCode == codeStreamNotCreated,
		api.ErrorCode == codeNoPeers, api.ErrorCode == codeNotLeader, api.ErrorCode == codeStreamOffline,
		api.Code == http.StatusServiceUnavailable, api.Code == http.StatusTooManyRequests:
		return classTransient
	default:
		return classPermanent
	}
}

// sorted wraps err with what was attempted and with the sentinel of its class.
func sorted(err error, format string, args ...any) error {
	what := fmt.Sprintf(format, args...)
	if errors.Is(err, nats.ErrConnectionClosed) {
		return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
	}
	switch classify(err) {
	case classConflict:
		return fmt.Errorf("%s: %w: %w", what, ErrConflict, err)
	case classPermanent:
		return fmt.Errorf("%s: %w", what, err)
	case classTransient:
	}
	if errors.Is(err, ErrUnavailable) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return fmt.Errorf("%s: %w: %w", what, ErrUnavailable, err)
}

// passing reports whether an error is that of a server that does not answer for now.
// Unlike [classify] it takes no error that it does not know for one.
func passing(err error) bool {
	if api, ok := errors.AsType[*jetstream.APIError](err); ok {
		return classifyCode(api) == classTransient
	}
	for _, silence := range []error{
		ErrUnavailable, context.DeadlineExceeded, nats.ErrTimeout, nats.ErrNoResponders, nats.ErrDisconnected, jetstream.ErrNoStreamResponse,
	} {
		if errors.Is(err, silence) {
			return true
		}
	}
	return false
}
