package bus

// Older compares versions of servers.
func Older(version, than string) bool { return older(version, than) }

// ByLeader returns the bucket as one whose rows are read from the stream's
// leader.
func (b *KV) ByLeader() *KV {
	c := *b
	c.byLeader = true
	return &c
}
