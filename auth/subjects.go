package auth

import (
	"hash/maphash"
	"sync"
)

// maxSubjects is how many subjects of an issuer are known at a time.
const maxSubjects = 4096

// subjects are the subjects of an issuer whose tokens were verified not long ago: only a hash of
// each, in a ring. The zero value is usable, also concurrently.
type subjects struct {
	mu   sync.Mutex
	seed maphash.Seed
	ring []uint64
	next int
	is   map[uint64]bool
}

// saw makes a subject known.
func (s *subjects) saw(subject string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.is == nil {
		s.seed, s.is = maphash.MakeSeed(), map[uint64]bool{}
	}
	h := maphash.String(s.seed, subject)
	switch {
	case s.is[h]:
		return
	case len(s.ring) < maxSubjects:
		s.ring = append(s.ring, h)
	default:
		delete(s.is, s.ring[s.next])
		s.ring[s.next] = h
		s.next = (s.next + 1) % maxSubjects
	}
	s.is[h] = true
}

// knows reports whether a subject is known.
func (s *subjects) knows(subject string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.is != nil && s.is[maphash.String(s.seed, subject)]
}
