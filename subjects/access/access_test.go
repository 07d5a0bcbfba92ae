package access_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
	"rollcall/subjects/access"
)

// TestEveryAssetHasItsPeople holds that each stream and bucket is made by
// somebody who uses it, changed by exactly one, and written by its sole writer.
func TestEveryAssetHasItsPeople(t *testing.T) {
	t.Parallel()
	var names []string
	for _, s := range subjects.Streams(0) {
		names = append(names, s.Name)
	}
	for _, b := range subjects.Buckets() {
		names = append(names, access.BucketStream(b.Name))
	}
	for _, name := range names {
		raisers := 0
		for _, role := range access.Services() {
			duty := access.DutyOf(role)
			creates := slices.Contains(duty.Creates, name)
			if slices.Contains(duty.Raises, name) {
				raisers++
				require.True(t, creates, "%s is in charge of %s", role, name)
			}
			if slices.Contains(duty.Reads, name) {
				require.True(t, creates, "%s reads %s and starts first", role, name)
			}
		}
		require.Equal(t, 1, raisers, name)
	}
	writers := map[string]access.Role{
		subjects.BucketPresence: access.Presence, subjects.BucketLeases: access.Lease, subjects.BucketGateways: access.Gateway,
	}
	for _, b := range subjects.Buckets() {
		for _, role := range access.Services() {
			writes := slices.ContainsFunc(access.DutyOf(role).Stores, func(s string) bool { return strings.HasPrefix(s, "$KV."+b.Name+".") })
			require.Equal(t, writers[b.Name] == role, writes, "%s writing %s", role, b.Name)
		}
	}
}

func TestAssetsOfAService(t *testing.T) {
	t.Parallel()
	fixed := map[string]bool{}
	for _, s := range access.Streams(access.Lease, time.Hour) {
		fixed[s.Name] = s.Fixed
	}
	for _, b := range access.Buckets(access.Lease) {
		fixed[b.Name] = b.Fixed
	}
	require.Equal(t, map[string]bool{
		subjects.StreamEvents: true, subjects.StreamCommands: false, subjects.StreamEdge: false,
		subjects.BucketLeases: false, subjects.BucketSettings: false,
	}, fixed)
	require.Equal(t, time.Hour, access.Streams(access.Gateway, time.Hour)[0].MaxAge)
}

// TestNothingIsAllowedByMistake holds that no list of a role that connects is
// one that a server would take for everything, but the operator's.
func TestNothingIsAllowedByMistake(t *testing.T) {
	t.Parallel()
	for _, role := range access.Roles() {
		p := access.Of(role)
		require.Equal(t, role.Issues(), len(p.Connections) == 0, "%s connects", role)
		for _, subject := range slices.Concat(p.Publish, p.Subscribe) {
			first, _, _ := strings.Cut(subject, ".")
			wild := first == ">" || first == "*"
			require.Equal(t, role == access.Admin, wild, "%s on %s", role, subject)
			require.NotContains(t, subject, " ", "the server drops it from a list that has templates")
		}
		if role.OfTenant() {
			for _, subject := range slices.Concat(p.Publish, p.Subscribe) {
				require.True(t, strings.HasPrefix(subject, "tenant.{{tag(tenant)}}.") || strings.HasPrefix(subject, "_INBOX_{{subject()}}."), "%s on %s", role, subject)
			}
		}
	}
	require.Equal(t, access.Permissions{}, access.Of("unheard of"))
}

func TestRevokedTenantTag(t *testing.T) {
	t.Parallel()
	at := time.Unix(1_900_000_000, 0)
	tenant, until, found, ok := access.ParseRevokedTenant(access.RevokedTenant("acme", at))
	require.Equal(t, []any{"acme", at, true, true}, []any{tenant, until, found, ok})
	for tag, want := range map[string][2]bool{
		"":                        {false, true},
		"colour:blue":             {false, true},
		"revoked-tenant":          {false, true},
		"revoked-tenant:":         {true, false},
		"revoked-tenant:acme":     {true, false},
		"revoked-tenant:acme:x":   {true, false},
		"revoked-tenant::1":       {true, false},
		"revoked-tenant:acme:1:2": {true, false},
	} {
		_, _, found, ok := access.ParseRevokedTenant(tag)
		require.Equal(t, want, [2]bool{found, ok}, tag)
	}
}

// TestVersions holds that the later of two changes wins, within a second too.
func TestVersions(t *testing.T) {
	t.Parallel()
	tags := access.NextGeneration([]string{"colour:blue"})
	require.Equal(t, []string{"colour:blue", "generation:1"}, tags)
	tags = access.NextGeneration(tags)
	require.Equal(t, []string{"colour:blue", "generation:2"}, tags)
	require.Equal(t, access.Version{IssuedAt: 7, Generation: 2}, access.VersionOf(7, tags))
	require.Equal(t, access.Version{IssuedAt: 7}, access.VersionOf(7, []string{"generation:x", "generation:-1", "generation"}))
	for _, order := range [][2]access.Version{{{1, 9}, {2, 1}}, {{2, 1}, {2, 2}}, {{2, 0}, {2, 1}}} {
		require.True(t, order[0].Before(order[1]))
		require.False(t, order[1].Before(order[0]))
	}
	require.False(t, access.Version{2, 1}.Before(access.Version{2, 1}))
}

func TestWhoMayGrantWhat(t *testing.T) {
	t.Parallel()
	for _, role := range access.Roles() {
		require.Equal(t, role.Issues(), role.MayGrant("lease.use"), role)
		require.Equal(t, role == access.Operator, role.MayGrant("operator.read"), role)
	}
}
