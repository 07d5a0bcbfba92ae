package subjects

import (
	"bytes"
	"encoding/json"
	"iter"
)

// What is below cuts a JSON text into its parts without copying it. It does not
// look for faults: the text is one that json.Valid has accepted.

// members yields the keys, unquoted, and the values of an object.
func members(object []byte) iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for i := skipSpace(object, 1); object[i] != '}'; {
			end := valueEnd(object, i)
			key := unquote(object[i:end])
			i = skipSpace(object, skipSpace(object, end)+1) // Behind the colon.
			end = valueEnd(object, i)
			if !yield(key, object[i:end]) {
				return
			}
			i = nextPart(object, end)
		}
	}
}

// items yields the values of an array.
func items(array []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for i := skipSpace(array, 1); array[i] != ']'; {
			end := valueEnd(array, i)
			if !yield(array[i:end]) {
				return
			}
			i = nextPart(array, end)
		}
	}
}

// nextPart is where the next part of an object or array begins, or where its
// closing bracket is; i is behind the part before.
func nextPart(data []byte, i int) int {
	i = skipSpace(data, i)
	if data[i] == ',' {
		i = skipSpace(data, i+1)
	}
	return i
}

func skipSpace(data []byte, i int) int {
	for data[i] == ' ' || data[i] == '\n' || data[i] == '\t' || data[i] == '\r' {
		i++
	}
	return i
}

// valueEnd is the index behind the value that begins at i.
func valueEnd(data []byte, i int) int {
	switch data[i] {
	case '"':
		return stringEnd(data, i)
	case '{', '[':
		return nestedEnd(data, i)
	default:
		end := bytes.IndexAny(data[i:], ",}] \n\t\r")
		if end < 0 {
			return len(data)
		}
		return i + end
	}
}

// stringEnd is the index behind the string that begins at i.
func stringEnd(data []byte, i int) int {
	for i++; data[i] != '"'; i++ {
		if data[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// nestedEnd is the index behind the object or array that begins at i. Brackets
// match, so that counting them is enough.
func nestedEnd(data []byte, i int) int {
	for depth := 0; ; i++ {
		switch data[i] {
		case '"':
			i = stringEnd(data, i) - 1
		case '{', '[':
			depth++
		case '}', ']':
			if depth--; depth == 0 {
				return i + 1
			}
		}
	}
}

// unquote reads a JSON string.
func unquote(quoted []byte) string {
	if bytes.IndexByte(quoted, '\\') < 0 {
		return string(quoted[1 : len(quoted)-1])
	}
	var s string
	_ = json.Unmarshal(quoted, &s) // A valid string has no fault to report.
	return s
}
