package rollcall

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"rollcall/subjects"
)

const (
	exitFailure     = 1
	exitUsage       = 2
	exitRefused     = 3
	exitUnreachable = 4
	exitNothing     = 5
)

// exitError ends the command with a code.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

// ExitCode makes it a [daemon.Coded].
func (e *exitError) ExitCode() int { return e.code }

func failure(code int, format string, args ...any) error {
	return &exitError{code: code, err: fmt.Errorf("rollcall: "+format, args...)}
}

// refusal is a gateway's answer other than 2xx.
type refusal struct {
	path   string
	Status int            `json:"status"`
	Title  string         `json:"title"`
	Detail string         `json:"detail"`
	Code   string         `json:"code"`
	More   map[string]any `json:"details"`
}

// Error names the title, what is wrong, and details such as field, rule and scope.
func (r *refusal) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "rollcall: GET %s: %d %s", r.path, r.Status, clean(cmp.Or(r.Title, http.StatusText(r.Status))))
	if r.Detail != "" {
		fmt.Fprintf(&b, ": %s", clean(r.Detail))
	}
	var more []string
	for key, value := range r.More {
		more = append(more, clean(fmt.Sprintf("%s: %v", key, value)))
	}
	slices.Sort(more)
	if len(more) > 0 {
		fmt.Fprintf(&b, " (%s)", strings.Join(more, "; "))
	}
	return b.String()
}

// ExitCode makes it a [daemon.Coded].
func (r *refusal) ExitCode() int {
	switch {
	case r.Status == http.StatusUnauthorized || r.Status == http.StatusForbidden:
		return exitRefused
	case r.passes():
		return exitUnreachable
	case r.Code == subjects.CodeInvalidRequest:
		return exitUsage
	case r.Code == subjects.CodeNotFound || r.Code == subjects.CodeLeaseNotFound:
		return exitNothing
	default:
		return exitFailure
	}
}

// passes says whether the same may be answered otherwise later, or elsewhere.
func (r *refusal) passes() bool {
	return r.Status == http.StatusServiceUnavailable || r.Status == http.StatusTooManyRequests ||
		r.Status == http.StatusBadGateway || r.Status == http.StatusGatewayTimeout
}

// unreachable is a gateway that gave no answer.
type unreachable struct{ err error }

func (u *unreachable) Error() string { return "rollcall: no gateway answers: " + u.err.Error() }
func (u *unreachable) Unwrap() error { return u.err }

// ExitCode makes it a [daemon.Coded].
func (*unreachable) ExitCode() int { return exitUnreachable }

// passing says whether an error may be gone when the same is tried again.
func passing(err error) bool {
	if _, ok := errors.AsType[*unreachable](err); ok {
		return true
	}
	r, ok := errors.AsType[*refusal](err)
	return ok && r.passes()
}
