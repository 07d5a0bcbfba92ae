package subjects

import (
	"bytes"
	"encoding/json"
	"fmt"
	"iter"
)

// members walks an object or an array, which is valid JSON, and yields each key
// as it is written (nil in an array) with its value. Nothing is copied: it is
// there because the standard decoder would copy every value at every level.
func members(data []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(key, value []byte) bool) {
		object := data[0] == '{'
		for i := skipSpace(data, 1); data[i] != '}' && data[i] != ']'; {
			var key []byte
			if object {
				end := stringEnd(data, i)
				key = data[i:end]
				i = skipSpace(data, skipSpace(data, end)+1) // the colon
			}
			end := valueEnd(data, i)
			if !yield(key, data[i:end]) {
				return
			}
			if i = skipSpace(data, end); data[i] == ',' {
				i = skipSpace(data, i+1)
			}
		}
	}
}

// unquote is the text of a JSON string.
func unquote(quoted []byte) ([]byte, error) {
	inner := quoted[1 : len(quoted)-1]
	if bytes.IndexByte(inner, '\\') < 0 {
		return inner, nil
	}
	var text string
	if err := json.Unmarshal(quoted, &text); err != nil {
		return nil, fmt.Errorf("read key: %w", err)
	}
	return []byte(text), nil
}

func skipSpace(data []byte, i int) int {
	for data[i] == ' ' || data[i] == '\t' || data[i] == '\n' || data[i] == '\r' {
		i++
	}
	return i
}

// stringEnd is behind the string that begins at i.
func stringEnd(data []byte, i int) int {
	for i++; data[i] != '"'; i++ {
		if data[i] == '\\' {
			i++
		}
	}
	return i + 1
}

// valueEnd is behind the value that begins at i.
func valueEnd(data []byte, i int) int {
	switch data[i] {
	case '"':
		return stringEnd(data, i)
	case '{', '[':
		for depth := 0; ; {
			switch data[i] {
			case '"':
				i = stringEnd(data, i) - 1
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			}
			if i++; depth == 0 {
				return i
			}
		}
	default:
		for i < len(data) && bytes.IndexByte([]byte(",}] \t\n\r"), data[i]) < 0 {
			i++
		}
		return i
	}
}
