package subjects_test

import (
	"crypto/ed25519"
	"encoding/hex"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"rollcall/subjects"
)

// Valid ids that the tables share. deviceID is the id of the first public key
// of RFC 8032, section 7.1.
const (
	deviceID      = "dev_a3r73d62fg5wbk2zkv66mhw3blwnwiyrgs7dbz23ivpy4g3zf6uq"
	gatewayID     = "dev_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
	connectionID  = "019a2b3c-4d5e-7f60-8123-456789abcdef"
	incarnationID = "019a2b3c-0000-7000-8000-000000000001"
	leaseID       = "019a2b3c-0000-7000-8000-00000000000a"
	eventID       = "4b4b6c6b-f714-52bf-8fdd-3bfbcd72362b"
)

// at is the moment at which everything in the tables happens.
func at() time.Time { return time.Date(2026, 3, 14, 9, 26, 53, 589_793_000, time.UTC) }

// fixedKey is the first public key of RFC 8032, section 7.1.
func fixedKey(tb testing.TB) ed25519.PublicKey {
	tb.Helper()
	key, err := hex.DecodeString("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a")
	require.NoError(tb, err)
	return key
}

// requireInvalid asserts that err is a refusal that names field.
func requireInvalid(tb testing.TB, err error, field string) {
	tb.Helper()
	problem := requireProblem(tb, err)
	require.Equal(tb, field, problem.Details["field"], problem.Message)
}

func requireProblem(tb testing.TB, err error) *subjects.Problem {
	tb.Helper()
	var problem *subjects.Problem
	require.ErrorAs(tb, err, &problem)
	require.Equal(tb, subjects.CodeInvalidRequest, problem.Code)
	require.NotEmpty(tb, problem.Details["rule"])
	return problem
}

// requireField asserts that a payload's Validate accepts it (want is "") or
// names want as the faulty field.
func requireField(tb testing.TB, err error, want string) {
	tb.Helper()
	if want == "" {
		require.NoError(tb, err)
		return
	}
	requireInvalid(tb, err, want)
}

func genName() *rapid.Generator[string] { return rapid.StringMatching(`[a-z0-9][a-z0-9_-]{0,63}`) }

func genWord() *rapid.Generator[string] { return rapid.StringMatching(`[a-z][a-z0-9_]{0,63}`) }

func genInstance() *rapid.Generator[string] {
	return rapid.Map(rapid.SliceOf(rapid.Byte()), subjects.InstanceIDOfSPKI)
}

func genUUID() *rapid.Generator[string] {
	return rapid.Map(rapid.SliceOfN(rapid.Byte(), 16, 16), func(raw []byte) string {
		return uuid.UUID(raw).String()
	})
}
