package subjects

import "time"

// Types of the events about pairing a device with a tenant.
const (
	TypePairingRequested = "pairing.requested"
	TypePairingApproved  = "pairing.approved"
	TypePairingDenied    = "pairing.denied"
	TypePairingRevoked   = "pairing.revoked"
)

// PairingRequested is the payload of pairing.requested: a device asks to be
// let in. The code that people compare is a secret and not part of it.
type PairingRequested struct {
	PairingID string `json:"pairing_id" schema:"ref"`
	// InstanceID is the device that asks.
	InstanceID string    `json:"instance_id,omitempty" schema:"instance"`
	Label      string    `json:"label,omitempty" schema:"text"`
	Platform   string    `json:"platform,omitempty" schema:"text"`
	ExpiresAt  time.Time `json:"expires_at,omitzero"`
}

// Validate refuses a request that nobody could answer.
func (p PairingRequested) Validate() error {
	return first(
		checkRef("pairing_id", p.PairingID),
		checkOptionalInstance("instance_id", p.InstanceID),
		CheckText("label", p.Label),
		CheckText("platform", p.Platform),
	)
}

// PairingApproved is the payload of pairing.approved.
type PairingApproved struct {
	PairingID  string `json:"pairing_id" schema:"ref"`
	InstanceID string `json:"instance_id,omitempty" schema:"instance"`
	// By is who decided.
	By string `json:"by,omitempty" schema:"text"`
	// Capabilities are what the device may be asked for.
	Capabilities []string `json:"capabilities,omitempty" schema:"ref,most=64"`
}

// Validate refuses an approval of nothing.
func (p PairingApproved) Validate() error {
	return first(
		checkRef("pairing_id", p.PairingID),
		checkOptionalInstance("instance_id", p.InstanceID),
		CheckText("by", p.By),
		checkRefs("capabilities", p.Capabilities, 0),
	)
}

// PairingEnded is the payload of pairing.denied and pairing.revoked: the device
// is not let in, or not any more.
type PairingEnded struct {
	PairingID  string `json:"pairing_id" schema:"ref"`
	InstanceID string `json:"instance_id,omitempty" schema:"instance"`
	By         string `json:"by,omitempty" schema:"text"`
	Reason     string `json:"reason,omitempty" schema:"prose"`
}

// Validate refuses an end of nothing.
func (p PairingEnded) Validate() error {
	return first(
		checkRef("pairing_id", p.PairingID),
		checkOptionalInstance("instance_id", p.InstanceID),
		CheckText("by", p.By),
		checkProse("reason", p.Reason),
	)
}

func checkOptionalInstance(field, instance string) error {
	if instance == "" {
		return nil
	}
	return CheckInstance(field, instance)
}
