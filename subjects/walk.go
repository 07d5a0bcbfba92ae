package subjects

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
)

// reading is how a JSON value is held against a shape, before encoding/json
// reads it.
type reading int

const (
	// closed is how requests are read: a key that the type does not have is
	// refused, and whether one is missing is for Validate to say.
	closed reading = iota
	// open is how payloads of events are read, which may gain keys: one that
	// the type does not have is passed over. What it does have must be there
	// unless it is optional, and an optional one is left out rather than empty.
	open
)

// value checks a value; path names it. Data is valid JSON without space around.
func (r reading) value(s *shape, data []byte, path string) error {
	isNull := string(data) == "null"
	if s.form == formAny && (r == closed || !isNull) {
		return nil
	}
	if isNull {
		return Invalid(path, "must be left out rather than null")
	}
	switch s.form {
	case formItself:
		return r.itself(s, data, path)
	case formLeaf:
		return checkLeaf(s, data, path)
	case formList:
		if data[0] == '[' {
			return r.list(s, data, path)
		}
	case formStruct:
		if data[0] == '{' {
			return r.object(s, data, path)
		}
	case formDictionary:
		if data[0] == '{' {
			return r.dictionary(s, data, path)
		}
	case formAny:
	}
	return wrongKind(s, data, path)
}

// object checks an object that will become a struct.
func (r reading) object(s *shape, data []byte, path string) error {
	seen := make([]bool, len(s.members))
	for key, value := range members(data) {
		i, known := s.byKey[key]
		switch {
		case !known && r == open:
			if err := checkSpelling(s, key, path); err != nil {
				return err
			}
			continue
		case !known:
			return Invalid(join(path, key), "is not a known key")
		case seen[i]:
			return Invalid(join(path, key), "must not come twice")
		}
		seen[i] = true
		if r == open && s.members[i].mayNotBeEmpty() && string(value) == `""` {
			return Invalid(join(path, key), "must be left out rather than empty")
		}
		if err := r.value(s.members[i].shape, value, join(path, key)); err != nil {
			return err
		}
	}
	for i, m := range s.members {
		if r == open && !seen[i] && !m.optional {
			return Invalid(join(path, m.key), "is required")
		}
	}
	return nil
}

// checkSpelling refuses a key that encoding/json would take for another one:
// it reads keys whatever their case, and the last one wins.
func checkSpelling(s *shape, key, path string) error {
	for _, m := range s.members {
		if strings.EqualFold(m.key, key) {
			return Invalid(join(path, key), "must be spelled "+m.key)
		}
	}
	return nil
}

// dictionary checks an object that will become a map, whose keys are free.
func (r reading) dictionary(s *shape, data []byte, path string) error {
	seen := map[string]bool{}
	for key, value := range members(data) {
		if seen[key] {
			return Invalid(join(path, key), "must not come twice")
		}
		seen[key] = true
		if err := r.value(s.elem, value, join(path, key)); err != nil {
			return err
		}
	}
	return nil
}

func (r reading) list(s *shape, data []byte, path string) error {
	i := 0
	for value := range items(data) {
		if err := r.value(s.elem, value, indexed(path, i)); err != nil {
			return err
		}
		i++
	}
	return nil
}

// itself tries a value that decodes itself (time.Time), because the error that
// Unmarshal has for it names no field.
func (r reading) itself(s *shape, data []byte, path string) error {
	err := json.Unmarshal(data, reflect.New(s.typ).Interface())
	switch {
	case s.isTime() && (err != nil || isLooseTime(data)):
		return Invalid(path, "must be an RFC 3339 time")
	case s.isTime() && r == open && !bytes.HasSuffix(data, []byte(`Z"`)):
		return Invalid(path, "must end in Z")
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

// checkLeaf checks a string, a bool or a number.
func checkLeaf(s *shape, data []byte, path string) error {
	isNumber := kindOf(data) == "number"
	var err error
	switch k := s.typ.Kind(); {
	case k == reflect.String && data[0] == '"', k == reflect.Bool && kindOf(data) == "bool":
	case isNumber && k >= reflect.Int && k <= reflect.Int64:
		_, err = strconv.ParseInt(string(data), 10, s.typ.Bits())
	case isNumber && k >= reflect.Uint && k <= reflect.Uint64:
		_, err = strconv.ParseUint(string(data), 10, s.typ.Bits())
	case isNumber && (k == reflect.Float32 || k == reflect.Float64):
		_, err = strconv.ParseFloat(string(data), s.typ.Bits())
	default:
		return wrongKind(s, data, path)
	}
	switch {
	case errors.Is(err, strconv.ErrRange):
		return Invalid(path, "is out of range")
	case err != nil:
		return Invalid(path, "must be "+s.kind())
	default:
		return nil
	}
}

func wrongKind(s *shape, data []byte, path string) error {
	return Invalid(path, "must be "+s.kind()+", not "+kindOf(data))
}

// kindOf names what a JSON value is, as encoding/json does.
func kindOf(data []byte) string {
	switch data[0] {
	case '{':
		return "object"
	case '[':
		return "array"
	case '"':
		return "string"
	case 't', 'f':
		return "bool"
	default:
		return "number"
	}
}

func join(path, key string) string {
	if path == "" {
		return cut(key)
	}
	return path + "." + cut(key)
}

func indexed(path string, i int) string { return fmt.Sprintf("%s[%d]", path, i) }
