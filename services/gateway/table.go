package gateway

import (
	"maps"
	"slices"
	"sort"
	"strings"
)

// maxLeft bounds how many ids a table remembers to have held.
const maxLeft = 8192

// table is a set of rows by id with their ids in order. Rows change all the
// time and ids seldom, so the order is made when somebody asks for it.
type table[E any] struct {
	rows  map[string]E
	order []string // valid unless stale
	stale bool
	// gone are ids that were here, so that "not yet" differs from "no more".
	gone map[string]struct{}
}

func newTable[E any]() *table[E] {
	return &table[E]{rows: map[string]E{}, gone: map[string]struct{}{}}
}

func (t *table[E]) get(id string) (E, bool) {
	row, ok := t.rows[id]
	return row, ok
}

func (t *table[E]) put(id string, row E) {
	if _, ok := t.rows[id]; !ok {
		t.stale = true
		delete(t.gone, id)
	}
	t.rows[id] = row
}

// remove takes a row out, whether it was here or not: a marker may be the
// first thing heard of an id.
func (t *table[E]) remove(id string) {
	if _, ok := t.rows[id]; ok {
		delete(t.rows, id)
		t.stale = true
	}
	if len(t.gone) >= maxLeft {
		clear(t.gone)
	}
	t.gone[id] = struct{}{}
}

// clear takes every row out.
func (t *table[E]) clear() {
	for _, id := range t.sorted() {
		t.remove(id)
	}
}

// left reports whether id is known to have been here.
func (t *table[E]) left(id string) bool {
	_, ok := t.gone[id]
	return ok
}

// sorted returns the ids in order. The result is never written to again.
func (t *table[E]) sorted() []string {
	if t.stale {
		t.order, t.stale = slices.Sorted(maps.Keys(t.rows)), false
	}
	return t.order
}

// span returns the ids that start with prefix.
func span(ids []string, prefix string) []string {
	from := sort.SearchStrings(ids, prefix)
	ids = ids[from:]
	return ids[:sort.Search(len(ids), func(i int) bool { return !strings.HasPrefix(ids[i], prefix) })]
}
