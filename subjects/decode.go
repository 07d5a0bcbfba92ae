package subjects

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
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
	var v, zero T
	// It finds what is no JSON by itself. What it says of types comes second: it is
	// not told which field a fault is in where a value decodes itself.
	fault := json.Unmarshal(data, &v)
	if fault != nil || !utf8.Valid(data) {
		if err := checkJSON("", data); err != nil {
			return zero, err
		}
	}
	if err := closed.value(shapeOf(reflect.TypeFor[T]()), bytes.TrimSpace(data), ""); err != nil {
		return zero, err
	}
	if fault != nil {
		return zero, decodeProblem(fault)
	}
	return v, nil
}

// checkJSON refuses what is not exactly one JSON value in UTF-8.
func checkJSON(field string, data []byte) error {
	if !utf8.Valid(data) {
		return Invalid(field, "must be UTF-8")
	}
	if !json.Valid(data) {
		return Invalid(field, "must be one JSON value")
	}
	return nil
}

// decodeProblem turns an error of encoding/json into one that names the field.
func decodeProblem(err error) *Problem {
	if typeError, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		kind := (&shape{typ: typeError.Type}).kind()
		return Invalid(typeError.Field, "must be "+kind+", not "+cut(typeError.Value))
	}
	return Invalid("", cut(err.Error()))
}

// cut shortens a peer's text that goes into an error.
func cut(s string) string {
	const longest = 64
	if len(s) > longest {
		return strings.ToValidUTF8(s[:longest], "") + "…"
	}
	return s
}
