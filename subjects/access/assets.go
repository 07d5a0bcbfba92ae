package access

import (
	"slices"
	"time"

	"rollcall/subjects"
)

// Streams returns the facts of the streams that a service makes where they are
// missing. Those it is not in charge of are fixed: it leaves them as they are.
func Streams(service Role, eventsMaxAge time.Duration) []subjects.Stream {
	d := DutyOf(service)
	var out []subjects.Stream
	for _, stream := range subjects.Streams(eventsMaxAge) {
		if slices.Contains(d.Creates, stream.Name) {
			stream.Fixed = !slices.Contains(d.Raises, stream.Name)
			out = append(out, stream)
		}
	}
	return out
}

// Buckets does so for buckets.
func Buckets(service Role) []subjects.Bucket {
	d := DutyOf(service)
	var out []subjects.Bucket
	for _, bucket := range subjects.Buckets() {
		if name := BucketStream(bucket.Name); slices.Contains(d.Creates, name) {
			bucket.Fixed = !slices.Contains(d.Raises, name)
			out = append(out, bucket)
		}
	}
	return out
}
