package subjects

import (
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// SystemTenant is the tenant of rollcall itself: the gateways' own rows and
// events. No token is ever minted for it.
const SystemTenant = "system"

// maxName is the longest tenant_id or agent_id in bytes.
const maxName = 64

// instancePrefix starts every instance_id.
const instancePrefix = "dev_"

// instanceLength is len("dev_") plus 32 bytes in unpadded base32.
const instanceLength = len(instancePrefix) + 52

// instanceEncoding writes instance ids: lower-case base32 without padding.
func instanceEncoding() *base32.Encoding {
	return base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)
}

// nameRule is the rule for tenant and agent ids, as refusals state it. Upper
// case is out because NATS lower-cases the tags of a user JWT.
const nameRule = "must match [a-z0-9][a-z0-9_-]{0,63}"

func validName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case c >= 'a' && c <= 'z', c >= '0' && c <= '9':
		case (c == '_' || c == '-') && i > 0:
		default:
			return false
		}
	}
	return true
}

// CheckTenant refuses what cannot be the tenant of a peer: a name outside
// [a-z0-9][a-z0-9_-]{0,63}, and the reserved "system".
func CheckTenant(field, s string) error {
	if !validName(s) {
		return Invalid(field, nameRule)
	}
	if s == SystemTenant {
		return Invalid(field, `must not be the reserved "system"`)
	}
	return nil
}

// CheckAgent refuses an agent id outside [a-z0-9][a-z0-9_-]{0,63}.
func CheckAgent(field, s string) error {
	if !validName(s) {
		return Invalid(field, nameRule)
	}
	return nil
}

// CheckInstance refuses what is not "dev_" and 52 characters of lower-case
// base32.
func CheckInstance(field, s string) error {
	if !validInstance(s) {
		return Invalid(field, "must be dev_ and 52 characters of lower-case base32")
	}
	return nil
}

func validInstance(s string) bool {
	if len(s) != instanceLength || !strings.HasPrefix(s, instancePrefix) {
		return false
	}
	// Decoding also refuses the last character's unused bits being set, so that
	// each key has exactly one id.
	raw, err := instanceEncoding().DecodeString(s[len(instancePrefix):])
	return err == nil && instancePrefix+instanceEncoding().EncodeToString(raw) == s
}

// CheckUUID refuses what is not a UUID in its canonical lower-case form.
// Connection, lease, incarnation and event ids are such.
func CheckUUID(field, s string) error {
	if !validUUID(s) {
		return Invalid(field, "must be a lower-case UUID")
	}
	return nil
}

// CheckChosenID refuses what cannot be the event_id that a peer chooses: what is
// no UUID, and those that look like one of [DeriveID]. Whoever could use these would
// learn from the answer which events of other tenants are there.
func CheckChosenID(field, s string) error {
	if err := CheckUUID(field, s); err != nil {
		return err
	}
	if id, err := uuid.Parse(s); err == nil && [4]byte(id[4:8]) == derivedMark() {
		return Invalid(field, "must not be one of the ids of derived events, which read ________-726f-5c6c-____-____________")
	}
	return nil
}

func validUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	id, err := uuid.Parse(s)
	return err == nil && id.String() == s
}

// NewID returns a fresh id (UUIDv7, so ids sort by the time of their making).
func NewID() string { return uuid.Must(uuid.NewV7()).String() }

// DeriveID returns the id of an event that is caused by another one: the same
// cause gives the same id, in whatever process and however often, so that a
// repeated publish is recognised as a duplicate. Cause is the causing stream
// sequence, or the id of the thing that ended where no single message caused
// it (a connection of a lost gateway).
//
// It is the UUIDv5 of these parts in rollcall's namespace, with a mark in the place of
// 28 of its bits that says whose it is. So the ids that others derive, of version 5 as
// a rule, stay free, but for one in 268 million.
func DeriveID(tenant, subject, cause, eventType string) string {
	// The separator cannot occur in any of the parts.
	name := strings.Join([]string{tenant, subject, cause, eventType}, "\x00")
	id := uuid.NewSHA1(eventNamespace(), []byte(name))
	mark := derivedMark()
	copy(id[4:8], mark[:])
	return id.String()
}

// derivedMark is what bytes 4 to 7 of every derived id are: the letters ro and l
// around the version. No id of another version can have it.
func derivedMark() [4]byte { return [4]byte{'r', 'o', 0x5c, 'l'} }

// Cause formats a stream sequence as the cause of [DeriveID].
func Cause(seq uint64) string { return strconv.FormatUint(seq, 10) }

// eventNamespace is rollcall's own UUID namespace for derived event ids. It
// must never change: consumers dedupe across releases by it.
func eventNamespace() uuid.UUID {
	return uuid.MustParse("8b0ee0ce-6f1d-5d0c-9a5e-3a1f62a0c7d4")
}

// InstanceID returns the instance_id of a device's public key: "dev_" and the
// base32 of SHA-256 over its DER SubjectPublicKeyInfo. It refuses a key of the
// wrong length, which crypto/x509 would encode without a word.
func InstanceID(key ed25519.PublicKey) (string, error) {
	if len(key) != ed25519.PublicKeySize {
		return "", fmt.Errorf("public key of %d bytes, not %d", len(key), ed25519.PublicKeySize)
	}
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("encode public key: %w", err)
	}
	return InstanceIDOfSPKI(der), nil
}

// InstanceIDOfSPKI is [InstanceID] for a key that is already DER encoded.
func InstanceIDOfSPKI(der []byte) string {
	sum := sha256.Sum256(der)
	return instancePrefix + instanceEncoding().EncodeToString(sum[:])
}
