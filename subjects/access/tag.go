package access

import (
	"slices"
	"strconv"
	"strings"
	"time"
)

// What the operator says of an account besides what NATS knows is in tags of its
// JWT, which are signed with the rest.
const (
	revokedTenant = "revoked-tenant"
	generation    = "generation"
)

// RevokedTenant is the tag of an account that revokes every access token of a
// tenant issued up to a time.
func RevokedTenant(tenant string, until time.Time) string {
	return revokedTenant + ":" + tenant + ":" + strconv.FormatInt(until.Unix(), 10)
}

// ParseRevokedTenant reads such a tag. Found is false for a tag of another
// kind, ok for one of this kind that makes no sense.
func ParseRevokedTenant(tag string) (tenant string, until time.Time, found, ok bool) {
	rest, found := strings.CutPrefix(tag, revokedTenant+":")
	if !found {
		return "", time.Time{}, false, true
	}
	tenant, seconds, _ := strings.Cut(rest, ":")
	n, err := strconv.ParseInt(seconds, 10, 64)
	return tenant, time.Unix(n, 0), true, err == nil && tenant != ""
}

// Version orders the descriptions of an account. A JWT knows the second it was
// issued in, which is too little: of two changes in one second the later one must
// win too. So a tag counts them.
type Version struct {
	IssuedAt   int64
	Generation uint64
}

// VersionOf reads the version from an account's claims.
func VersionOf(issuedAt int64, tags []string) Version {
	v := Version{IssuedAt: issuedAt}
	for _, tag := range tags {
		if n, err := strconv.ParseUint(strings.TrimPrefix(tag, generation+":"), 10, 64); isGeneration(tag) && err == nil {
			v.Generation = max(v.Generation, n)
		}
	}
	return v
}

// Before reports whether v is older than w.
func (v Version) Before(w Version) bool {
	return v.IssuedAt < w.IssuedAt || v.IssuedAt == w.IssuedAt && v.Generation < w.Generation
}

// NextGeneration returns tags with the count one higher.
func NextGeneration(tags []string) []string {
	next := generation + ":" + strconv.FormatUint(VersionOf(0, tags).Generation+1, 10)
	return append(slices.DeleteFunc(slices.Clone(tags), isGeneration), next)
}

func isGeneration(tag string) bool { return strings.HasPrefix(tag, generation+":") }
