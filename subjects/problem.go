package subjects

import "fmt"

// Codes of a [Problem], as they appear in error responses.
const (
	CodeInvalidRequest     = "invalid_request"
	CodeUnauthorized       = "unauthorized"
	CodeForbidden          = "forbidden"
	CodeNotFound           = "not_found"
	CodeLeaseInvalid       = "lease_invalid"
	CodeLeaseNotFound      = "lease_not_found"
	CodeRateLimited        = "rate_limited"
	CodePayloadTooLarge    = "payload_too_large"
	CodeTenantFull         = "tenant_full"
	CodeUnavailable        = "unavailable"
	CodePeerUnavailable    = "peer_unavailable"
	CodeTimeout            = "timeout"
	CodeUnsupportedRequest = "unsupported_request"
	CodeInternalError      = "internal_error"
)

// Problem is the one error type that crosses processes: a code that programs
// switch on, a message for people, and details whose keys depend on the code
// (invalid_request: field and rule; rate_limited and unavailable:
// retry_after_ms; forbidden: scope). Details never hold secrets.
type Problem struct {
	Code    string         `json:"code"`
	Message string         `json:"message"`
	Details map[string]any `json:"details,omitempty"`
}

// Error returns "code: message".
func (p *Problem) Error() string { return p.Code + ": " + p.Message }

// Invalid reports that the named field breaks a rule. Field is a dotted path
// ("device.mode"), empty for the document itself; rule is a phrase that reads
// after the field's name ("must be at least 1").
func Invalid(field, rule string) *Problem {
	message := rule
	if field != "" {
		message = fmt.Sprintf("%s %s", field, rule)
	}
	return &Problem{
		Code:    CodeInvalidRequest,
		Message: message,
		Details: map[string]any{"field": field, "rule": rule},
	}
}
