package client

// seen remembers the last ids it was shown, and forgets the oldest when there is
// no place for another.
type seen struct {
	ids map[string]struct{}
	// ring holds the same ids in the order in which they came; next is the oldest
	// once it is full.
	ring []string
	next int
}

func newSeen(most int) seen {
	return seen{ids: make(map[string]struct{}), ring: make([]string, 0, most)}
}

func (s *seen) has(id string) bool {
	_, known := s.ids[id]
	return known
}

// add remembers an id that is not remembered yet.
func (s *seen) add(id string) {
	if len(s.ring) < cap(s.ring) {
		s.ring = append(s.ring, id)
	} else {
		delete(s.ids, s.ring[s.next])
		s.ring[s.next] = id
		s.next = (s.next + 1) % len(s.ring)
	}
	s.ids[id] = struct{}{}
}
