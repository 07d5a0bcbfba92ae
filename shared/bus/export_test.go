package bus

import "context"

// Older compares versions of servers.
func Older(version, than string) bool { return older(version, than) }

// ByLeader returns the bucket as one whose rows are read from the stream's
// leader.
func (b *KV) ByLeader() *KV {
	c := *b
	c.byLeader = true
	return &c
}

// ListInParts is List with the server breaking off after so many bytes.
func (b *KV) ListInParts(ctx context.Context, most int, filters ...string) ([]Entry, uint64, error) {
	return b.list(ctx, most, filters...)
}
