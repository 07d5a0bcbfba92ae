package subjects

import (
	"encoding"
	"encoding/json"
	"reflect"
	"strings"
	"sync"
	"time"
)

// shape is what a walk over JSON has to know of the Go type that will hold it.
type shape struct {
	form form
	typ  reflect.Type
	// members are the keys of a struct, in the order of its fields.
	members []member
	// byKey finds a member's place in members.
	byKey map[string]int
	// elem is the shape of the values of a list or a dictionary.
	elem *shape
}

// member is one key of a struct.
type member struct {
	key   string
	shape *shape
	// optional is a key that the type leaves out when it has nothing to say.
	optional bool
}

// mayNotBeEmpty reports whether an empty string would say the same as leaving
// the key out.
func (m member) mayNotBeEmpty() bool { return m.optional && m.shape.form != formAny }

// form tells apart how a value is walked.
type form int

const (
	// formAny is taken as it is: json.RawMessage and any.
	formAny form = iota
	// formItself is a type that decodes itself.
	formItself
	formStruct
	formDictionary
	formList
	// formLeaf is a string, a number or a bool.
	formLeaf
)

// shapes keeps the shape of every type that was asked for. There are as many
// as the program has types, and none ever changes.
//
//nolint:gochecknoglobals // a cache of what the compiler fixed
var shapes sync.Map // of reflect.Type to *shape

// shapeOf returns the shape of a type.
func shapeOf(t reflect.Type) *shape {
	if known, ok := shapes.Load(t); ok {
		return known.(*shape) //nolint:errcheck // nothing else is ever stored
	}
	s := newShape(t, map[reflect.Type]*shape{})
	shapes.Store(t, s)
	return s
}

// newShape builds the shape of a type. Under way are the shapes of the types
// around it, so that a type may hold itself.
func newShape(t reflect.Type, underWay map[reflect.Type]*shape) *shape {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if s, ok := underWay[t]; ok {
		return s
	}
	s := &shape{form: formOf(t), typ: t}
	underWay[t] = s
	switch s.form {
	case formStruct:
		s.members = membersOf(t, underWay)
		s.byKey = make(map[string]int, len(s.members))
		for i, m := range s.members {
			s.byKey[m.key] = i
		}
	case formDictionary, formList:
		s.elem = newShape(t.Elem(), underWay)
	case formAny, formItself, formLeaf:
	}
	return s
}

func formOf(t reflect.Type) form {
	switch {
	case t.Kind() == reflect.Interface, t == reflect.TypeFor[json.RawMessage]():
		return formAny
	case decodesItself(t), t == reflect.TypeFor[[]byte]():
		return formItself
	}
	switch t.Kind() {
	case reflect.Struct:
		return formStruct
	case reflect.Map:
		return formDictionary
	case reflect.Slice, reflect.Array:
		return formList
	default:
		return formLeaf
	}
}

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// membersOf lists the keys of a struct. As in encoding/json, an embedded struct
// lends its keys, and the struct's own hide them.
func membersOf(t reflect.Type, underWay map[reflect.Type]*shape) []member {
	own := map[string]bool{}
	var all, lent []member
	for f := range t.Fields() {
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		embedded := f.Type
		if embedded.Kind() == reflect.Pointer {
			embedded = embedded.Elem()
		}
		switch {
		case f.Anonymous && name == "" && embedded.Kind() == reflect.Struct:
			lent = append(lent, membersOf(embedded, underWay)...)
			continue
		case name == "-" || !f.IsExported():
			continue
		case name == "":
			name = f.Name
		}
		own[name] = true
		optional := strings.Contains(options, "omitempty") || strings.Contains(options, "omitzero")
		all = append(all, member{key: name, shape: newShape(f.Type, underWay), optional: optional})
	}
	for _, m := range lent {
		if !own[m.key] {
			own[m.key] = true
			all = append(all, m)
		}
	}
	return all
}

// isTime reports whether the shape is that of a time.
func (s *shape) isTime() bool { return s.typ == reflect.TypeFor[time.Time]() }

// kind names what the JSON value must be.
func (s *shape) kind() string {
	switch s.typ.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number of 0 or more"
	case reflect.Float32, reflect.Float64:
		return "a number"
	default:
		return "a " + s.typ.Kind().String()
	}
}
