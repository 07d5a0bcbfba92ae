package machine

import (
	"encoding/json"
	"errors"
	"strings"
	"unicode/utf8"

	"rollcall/subjects"
)

// Close codes of the handshake and of the life after it.
const (
	CodeGoingAway    = 1001
	CodeSlow         = 1008
	CodeTooBig       = 1009
	CodeUnavailable  = 1013
	CodeUnauthorized = 4001
	CodeTimeout      = 4002
	CodeBadFrame     = 4003
	CodeRevision     = 4005
	CodeDevice       = 4006
	CodeProof        = 4007
	CodeBinding      = 4008
	CodeTenantFull   = 4009
)

// expected is the reason for every frame that is no step of the handshake.
const expected = "expected connect.init/connect.proof"

// maxReason is what fits into a close frame.
const maxReason = 123

// maxRequestID bounds a request_id in characters.
const maxRequestID = 128

// Request is the frame of a request.
type Request struct {
	RequestID string          `json:"request_id"`
	Type      string          `json:"type"`
	Payload   json.RawMessage `json:"payload"`
}

// DecodeRequest reads a request frame strictly. The payload stays as it is.
func DecodeRequest(data []byte) (Request, error) {
	r, err := subjects.Decode[Request](data)
	if err != nil {
		return Request{}, err
	}
	switch n := utf8.RuneCountInString(r.RequestID); {
	case n == 0 || n > maxRequestID:
		return Request{}, subjects.Invalid("request_id", "must have 1 to 128 characters")
	case r.Type == "":
		return Request{}, subjects.Invalid("type", "is required")
	case len(r.Payload) == 0:
		return Request{}, subjects.Invalid("payload", "is required")
	default:
		return r, nil
	}
}

// Init is the payload of connect.init.
type Init struct {
	ProtocolRev  *int                  `json:"protocol_rev"`
	Role         string                `json:"role"`
	Device       Device                `json:"device"`
	Capabilities []subjects.Capability `json:"capabilities"`
}

// Device is what a peer says of its device.
type Device struct {
	DeviceID string `json:"device_id"`
	Pubkey   string `json:"pubkey"`
	Label    string `json:"label"`
	Platform string `json:"platform"`
	Version  string `json:"version"`
	Mode     string `json:"mode"`

	DeviceType     string `json:"device_type"`
	DevicePlatform string `json:"device_platform"`
	DeviceModel    string `json:"device_model"`
}

// proofPayload is the payload of connect.proof.
type proofPayload struct {
	ConnectionID string `json:"connection_id"`
	Proof        string `json:"proof"`
}

// valueError is a payload of the right shape with a value that cannot be.
type valueError struct{ problem *subjects.Problem }

// Error is the problem's text.
func (e *valueError) Error() string { return e.problem.Error() }

func decodeInit(payload json.RawMessage) (Init, error) {
	init, err := subjects.Decode[Init](payload)
	if err != nil {
		return Init{}, err
	}
	if init.ProtocolRev == nil || init.Device.DeviceID == "" || init.Device.Pubkey == "" {
		return Init{}, subjects.Invalid("payload", "misses a required key")
	}
	if problem := checkInit(init); problem != nil {
		return Init{}, &valueError{problem: problem}
	}
	return init, nil
}

func checkInit(init Init) *subjects.Problem {
	if init.Role != subjects.RoleClient && init.Role != subjects.RoleNode {
		return subjects.Invalid("role", "must be client or node")
	}
	d := init.Device
	errs := []error{
		subjects.CheckMode("device.mode", d.Mode),
		subjects.CheckCapabilities("capabilities", init.Capabilities),
	}
	for _, text := range []struct{ field, value string }{
		{"device.label", d.Label},
		{"device.platform", d.Platform},
		{"device.version", d.Version},
		{"device.device_type", d.DeviceType},
		{"device.device_platform", d.DevicePlatform},
		{"device.device_model", d.DeviceModel},
	} {
		errs = append(errs, subjects.CheckText(text.field, text.value))
	}
	for _, err := range errs {
		if problem := problemOf(err); problem != nil {
			return problem
		}
	}
	return nil
}

func problemOf(err error) *subjects.Problem {
	if err == nil {
		return nil
	}
	if problem, ok := errors.AsType[*subjects.Problem](err); ok {
		return problem
	}
	return subjects.Invalid("", err.Error())
}

func decodeProof(payload json.RawMessage) (proofPayload, error) {
	proof, err := subjects.Decode[proofPayload](payload)
	if err != nil {
		return proofPayload{}, err
	}
	if proof.ConnectionID == "" || proof.Proof == "" {
		return proofPayload{}, subjects.Invalid("payload", "misses a required key")
	}
	return proof, nil
}

// cut shortens a reason to what a close frame holds, at a character's border.
func cut(reason string) string {
	if len(reason) <= maxReason {
		return reason
	}
	return strings.ToValidUTF8(reason[:maxReason], "")
}
