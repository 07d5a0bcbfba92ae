package subjects

import (
	"fmt"
	"strings"
)

// maxPatterns bounds an [EventFilter].
const maxPatterns = 64

// EventFilter is the types that a subscriber wants. The zero value wants none.
type EventFilter struct {
	all   bool
	exact map[string]struct{}
	// below are the words before ".*".
	below map[string]struct{}
}

// ParseEventFilter reads 1 to 64 patterns: a type (run.started), a type's first
// words and a star for everything below them at any depth (run.*), or a star
// for everything. The error is a *[Problem] that names types[i].
func ParseEventFilter(patterns []string) (EventFilter, error) {
	if len(patterns) == 0 || len(patterns) > maxPatterns {
		return EventFilter{}, Invalid("types", "must hold 1 to 64 patterns")
	}
	f := EventFilter{exact: map[string]struct{}{}, below: map[string]struct{}{}}
	for i, pattern := range patterns {
		words, isPrefix := strings.CutSuffix(pattern, ".*")
		switch {
		case pattern == "*":
			f.all = true
		case !validType(words):
			return EventFilter{}, Invalid(fmt.Sprintf("types[%d]", i), "must be a type (run.started), everything below one (run.*) or *")
		case isPrefix:
			f.below[words] = struct{}{}
		default:
			f.exact[words] = struct{}{}
		}
	}
	return f, nil
}

// Match reports whether events of a type are wanted.
func (f EventFilter) Match(eventType string) bool {
	if f.all {
		return true
	}
	if _, ok := f.exact[eventType]; ok {
		return true
	}
	if len(f.below) == 0 {
		return false
	}
	for i := range len(eventType) {
		if eventType[i] == '.' {
			if _, ok := f.below[eventType[:i]]; ok {
				return true
			}
		}
	}
	return false
}
