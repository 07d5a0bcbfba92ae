package subjects_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

func TestCheckNames(t *testing.T) {
	t.Parallel()
	good := []string{"a", "0", "ada", "a-b", "a_b", "a-", "a_", "0-_", "systems", strings.Repeat("a", 64), "agent", "tenant"}
	bad := []string{
		"", "*", ">", "a.b", ".", "-a", "_a", "A", "aB", "a b", " a", "a\n", "a\x00", "é", "a\u200b", "а", "a/b", "a*", "a>", "a\xff",
		strings.Repeat("a", 65), strings.Repeat("a", 1<<20),
	}
	for _, s := range good {
		require.NoError(t, subjects.CheckTenant("tenant_id", s), s)
		require.NoError(t, subjects.CheckAgent("agent_id", s), s)
	}
	for _, s := range bad {
		requireInvalid(t, subjects.CheckTenant("tenant_id", s), "tenant_id")
		requireInvalid(t, subjects.CheckAgent("agent_id", s), "agent_id")
	}
}

func TestCheckChosenID(t *testing.T) {
	t.Parallel()
	require.NoError(t, subjects.CheckChosenID("event_id", subjects.NewID()))
	require.NoError(t, subjects.CheckChosenID("event_id", uuid.NewString()))
	require.NoError(t, subjects.CheckChosenID("event_id", uuid.NewSHA1(uuid.NameSpaceURL, []byte("build/7")).String()), "producers derive ids too")
	require.NoError(t, subjects.CheckChosenID("event_id", "2489e9ad-2ee2-8e00-8ec9-32d5f69181c0"), "version 8, of somebody else's making")
	require.NoError(t, subjects.CheckChosenID("event_id", "00000000-0000-0000-0000-000000000000"))
	requireInvalid(t, subjects.CheckChosenID("event_id", "x"), "event_id")
	for cause := range uint64(100) {
		requireInvalid(t, subjects.CheckChosenID("event_id", subjects.DeriveID("acme", "s", subjects.Cause(cause), "a.b")), "event_id")
	}
}

// TestCheckNamesByByte compares the check with the rule as written, for every
// byte in first and in second place.
func TestCheckNamesByByte(t *testing.T) {
	t.Parallel()
	const head = "abcdefghijklmnopqrstuvwxyz0123456789"
	for b := range 256 {
		c := string([]byte{byte(b)})
		require.Equal(t, strings.Contains(head, c), subjects.CheckAgent("a", c) == nil, "first %q", c)
		require.Equal(t, strings.Contains(head+"_-", c), subjects.CheckAgent("a", "x"+c) == nil, "second %q", c)
	}
}

func TestSystemIsReserved(t *testing.T) {
	t.Parallel()
	requireInvalid(t, subjects.CheckTenant("tenant_id", subjects.SystemTenant), "tenant_id")
	require.NoError(t, subjects.CheckAgent("agent_id", "system"))
}

func TestCheckInstance(t *testing.T) {
	t.Parallel()
	require.NoError(t, subjects.CheckInstance("instance_id", deviceID))
	require.NoError(t, subjects.CheckInstance("instance_id", gatewayID))
	for _, s := range []string{
		"", "dev_", "*", ">", "a.b", "ada", strings.ToUpper(deviceID), "DEV_" + deviceID[4:], deviceID[:55], deviceID + "a", deviceID + "=",
		" " + deviceID[1:], deviceID[:55] + ".", deviceID[:55] + "1", deviceID[:55] + "\n", "div_" + deviceID[4:], deviceID[4:] + "dev_",
		// 32 bytes leave four bits of the last character unused: set, they would
		// give one key a second id.
		deviceID[:55] + "r", deviceID[:54] + "é",
	} {
		requireInvalid(t, subjects.CheckInstance("instance_id", s), "instance_id")
	}
}

func TestCheckUUID(t *testing.T) {
	t.Parallel()
	for _, s := range []string{connectionID, uuid.Nil.String(), uuid.Max.String(), subjects.NewID()} {
		require.NoError(t, subjects.CheckUUID("id", s), s)
	}
	for _, s := range []string{
		"", "*", ">", "a.b", strings.ToUpper(connectionID), "{" + connectionID + "}", "urn:uuid:" + connectionID, strings.ReplaceAll(connectionID, "-", ""),
		connectionID[:35], connectionID + "0", connectionID[:35] + "g", connectionID[:8] + "0" + connectionID[9:], " " + connectionID[1:],
		strings.Repeat("-", 36), strings.Repeat("a", 64), connectionID[:34] + "é",
	} {
		requireInvalid(t, subjects.CheckUUID("id", s), "id")
	}
}

// TestInstanceID compares with what openssl says of the same key:
//
//	openssl dgst -sha256 -binary key.der | base32 -w0 | tr A-Z a-z | tr -d =
func TestInstanceID(t *testing.T) {
	t.Parallel()
	id, err := subjects.InstanceID(fixedKey(t))
	require.NoError(t, err)
	require.Equal(t, deviceID, id)

	der, err := x509.MarshalPKIXPublicKey(fixedKey(t))
	require.NoError(t, err)
	require.Equal(t, deviceID, subjects.InstanceIDOfSPKI(der))

	public, _, err := ed25519.GenerateKey(nil)
	require.NoError(t, err)
	other, err := subjects.InstanceID(public)
	require.NoError(t, err)
	require.NotEqual(t, id, other)
	require.NoError(t, subjects.CheckInstance("instance_id", other))
}

func TestInstanceIDRefusesWhatIsNoKey(t *testing.T) {
	t.Parallel()
	for _, key := range []ed25519.PublicKey{nil, {}, fixedKey(t)[:31], append(fixedKey(t), 0)} {
		id, err := subjects.InstanceID(key)
		require.Error(t, err, "%d bytes", len(key))
		require.Empty(t, id)
	}
}

// TestDeriveIDNeverChanges holds a value computed from another language's
// UUIDv5: consumers dedupe across releases by it.
func TestDeriveIDNeverChanges(t *testing.T) {
	t.Parallel()
	subject := subjects.AgentPresence("acme", "ada").String()
	id := subjects.DeriveID("acme", subject, subjects.Cause(42), subjects.TypePresenceChanged)
	require.Equal(t, "4b4b6c6b-726f-5c6c-8fdd-3bfbcd72362b", id)
	require.NoError(t, subjects.CheckUUID("event_id", id))
	require.Equal(t, uuid.Version(5), uuid.MustParse(id).Version())
	require.Equal(t, uuid.RFC4122, uuid.MustParse(id).Variant())
}

func TestDeriveIDDependsOnEveryPart(t *testing.T) {
	t.Parallel()
	ids := []string{
		subjects.DeriveID("t", "s", "1", "e"),
		subjects.DeriveID("u", "s", "1", "e"),
		subjects.DeriveID("t", "u", "1", "e"),
		subjects.DeriveID("t", "s", "2", "e"),
		subjects.DeriveID("t", "s", "1", "f"),
		// The same text, cut elsewhere.
		subjects.DeriveID("ts", "", "1", "e"),
		subjects.DeriveID("t", "s1", "", "e"),
		subjects.DeriveID("t", "s", "", "1e"),
	}
	require.Equal(t, ids[0], subjects.DeriveID("t", "s", "1", "e"))
	slices.Sort(ids)
	require.Len(t, slices.Compact(ids), 8)
}

func TestCause(t *testing.T) {
	t.Parallel()
	require.Equal(t, "0", subjects.Cause(0))
	require.Equal(t, "18446744073709551615", subjects.Cause(1<<64-1))
}

func TestNewIDsSortByTheirMaking(t *testing.T) {
	t.Parallel()
	ids := make([]string, 5000)
	for i := range ids {
		ids[i] = subjects.NewID()
	}
	require.True(t, slices.IsSorted(ids))
	require.Len(t, slices.Compact(slices.Clone(ids)), len(ids))
	require.Equal(t, uuid.Version(7), uuid.MustParse(ids[0]).Version())
	require.NoError(t, subjects.CheckUUID("id", ids[0]))
}
