package subjects

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Decode reads what a peer sent into a T, strictly: the text is UTF-8 and
// exactly one JSON value, every key is one of T's in its exact spelling, none
// comes twice, and none is null (an absent value is left out). Values of type
// json.RawMessage and any are taken as they are. The error is a *Problem that
// names the faulty field and the rule it breaks, and holds little of the text
// however long that is: it goes into answers and logs.
//
// The standard decoder alone would accept other spellings of a key, the same
// key twice and null anywhere, and each of those is a way to say one thing to
// us and another to the next reader.
func Decode[T any](data []byte) (T, error) {
	var v T
	if !utf8.Valid(data) {
		return v, Invalid("", "must be UTF-8")
	}
	if !json.Valid(data) {
		return v, Invalid("", "must be one JSON value")
	}
	if err := checkKeys(reflect.TypeFor[T](), data, ""); err != nil {
		return v, err
	}
	if err := json.Unmarshal(data, &v); err != nil {
		return v, decodeProblem(err)
	}
	return v, nil
}

// decodeProblem turns an error of encoding/json into one that names the field.
func decodeProblem(err error) *Problem {
	if typeError, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return Invalid(typeError.Field, "must be "+jsonKind(typeError.Type)+", not "+cut(typeError.Value))
	}
	return Invalid("", cut(err.Error()))
}

func jsonKind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "a string"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice, reflect.Array:
		return "an array"
	case reflect.Struct, reflect.Map:
		return "an object"
	case reflect.Int, reflect.Int64, reflect.Int32, reflect.Uint, reflect.Uint64, reflect.Uint32:
		return "a whole number"
	case reflect.Pointer:
		return jsonKind(t.Elem())
	default:
		return "a " + t.Kind().String()
	}
}

// checkKeys walks a JSON value beside the type that will hold it. Data is
// valid JSON.
func checkKeys(t reflect.Type, data []byte, path string) error {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Interface || t == reflect.TypeFor[json.RawMessage]() {
		return nil
	}
	data = bytes.TrimSpace(data)
	if string(data) == "null" {
		return Invalid(path, "must be left out rather than null")
	}
	switch {
	case decodesItself(t):
		return checkItself(t, data, path)
	case (t.Kind() == reflect.Struct || t.Kind() == reflect.Map) && data[0] == '{':
		return checkObject(t, data, path)
	case (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) && data[0] == '[':
		return checkArray(t.Elem(), data, path)
	default:
		// A mismatch of kinds is for Unmarshal to report.
		return nil
	}
}

func decodesItself(t reflect.Type) bool {
	p := reflect.PointerTo(t)
	return p.Implements(reflect.TypeFor[json.Unmarshaler]()) || p.Implements(reflect.TypeFor[encoding.TextUnmarshaler]())
}

// checkItself tries a value that decodes itself (time.Time), because the error
// that Unmarshal has for it names no field.
func checkItself(t reflect.Type, data []byte, path string) error {
	err := json.Unmarshal(data, reflect.New(t).Interface())
	switch isTime := t == reflect.TypeFor[time.Time](); {
	case isTime && (err != nil || isLooseTime(data)):
		return Invalid(path, "must be an RFC 3339 time")
	case err != nil:
		return Invalid(path, "has the wrong form")
	default:
		return nil
	}
}

// isLooseTime finds what package time reads and RFC 3339 does not allow: a
// comma before the fraction, and an hour of one digit. Data is a JSON string
// that is a time otherwise.
func isLooseTime(data []byte) bool {
	return bytes.IndexByte(data, ',') >= 0 || data[len(`"2006-01-02T15`)] != ':'
}

// checkObject checks an object beside a struct, or beside a map, whose keys
// are free.
func checkObject(t reflect.Type, data []byte, path string) error {
	typeOf := memberTypes(t)
	seen := make(map[string]bool, 8)
	for key, value := range members(data) {
		name, err := unquote(key)
		if err != nil {
			return decodeProblem(err)
		}
		field := func() string { return join(path, string(name)) }
		memberType, known := typeOf(name)
		if !known {
			return Invalid(field(), "is not a known key")
		}
		if seen[string(name)] {
			return Invalid(field(), "must not come twice")
		}
		seen[string(name)] = true
		if isLeaf(memberType) && value[0] != 'n' {
			continue // a mismatch of kinds is for Unmarshal to report
		}
		if err := checkKeys(memberType, value, field()); err != nil {
			return err
		}
	}
	return nil
}

// isLeaf reports whether a value of a type holds nothing that has keys.
func isLeaf(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.String, reflect.Bool, reflect.Int, reflect.Int32, reflect.Int64, reflect.Uint, reflect.Uint32, reflect.Uint64, reflect.Float64:
		return !decodesItself(t)
	default:
		return false
	}
}

func checkArray(t reflect.Type, data []byte, path string) error {
	i := 0
	for _, item := range members(data) {
		if err := checkKeys(t, item, fmt.Sprintf("%s[%d]", path, i)); err != nil {
			return err
		}
		i++
	}
	return nil
}

// memberTypes returns what tells whether an object may have a key, and the
// type of its value.
func memberTypes(t reflect.Type) func(key []byte) (reflect.Type, bool) {
	if t.Kind() == reflect.Map {
		return func([]byte) (reflect.Type, bool) { return t.Elem(), true }
	}
	fields := fieldsOf(t)
	return func(key []byte) (reflect.Type, bool) {
		member, known := fields[string(key)]
		return member, known
	}
}

// knownFields remembers what fieldsOf found, by type: a program decodes a few
// dozen types, again and again.
var knownFields sync.Map //nolint:gochecknoglobals // a cache of what follows from the types alone

// fieldsOf maps the JSON keys of a struct to their types. As in encoding/json,
// an embedded struct lends its keys, and the struct's own hide them.
func fieldsOf(t reflect.Type) map[string]reflect.Type {
	if known, found := knownFields.Load(t); found {
		fields, _ := known.(map[string]reflect.Type)
		return fields
	}
	fields := make(map[string]reflect.Type, t.NumField())
	defer knownFields.Store(t, fields)
	for f := range t.Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		embedded := f.Type
		if embedded.Kind() == reflect.Pointer {
			embedded = embedded.Elem()
		}
		switch {
		case f.Anonymous && name == "" && embedded.Kind() == reflect.Struct:
			for key, lent := range fieldsOf(embedded) {
				if _, own := fields[key]; !own {
					fields[key] = lent
				}
			}
		case name == "-" || !f.IsExported():
		case name == "":
			fields[f.Name] = f.Type
		default:
			fields[name] = f.Type
		}
	}
	return fields
}

func join(path, key string) string {
	if path == "" {
		return cut(key)
	}
	return path + "." + cut(key)
}

// cut shortens a peer's text that goes into an error.
func cut(s string) string {
	const longest = 64
	if len(s) > longest {
		return strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}
