package machine

import (
	"slices"
	"strings"
	"unicode"

	"rollcall/subjects"
)

// texts reads the texts of a payload in tyrum-v1: without the space around them,
// and never empty. Broken is set once one was, or was none of those it may be.
type texts struct{ broken bool }

// required is a text that must be there.
func (t *texts) required(s string) string {
	s = Trim(s)
	t.broken = t.broken || s == ""
	return s
}

// optional is a text that may be left out.
func (t *texts) optional(s *string) string {
	if s == nil {
		return ""
	}
	return t.required(*s)
}

// oneOf is a text of a closed set, which is taken as it is.
func (t *texts) oneOf(s *string, known ...string) string {
	if s == nil {
		return ""
	}
	t.broken = t.broken || !slices.Contains(known, *s)
	return *s
}

// Trim takes off what ECMAScript calls white space.
func Trim(s string) string {
	return strings.TrimFunc(s, func(r rune) bool {
		return unicode.IsSpace(r) && r != '\u0085' || r == '\ufeff'
	})
}

// fit makes a text one that a row may hold.
func fit(s string) string {
	const longest = 256
	if subjects.CheckText("", s) == nil {
		return s
	}
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
	if len(s) > longest {
		s = strings.ToValidUTF8(s[:longest], "")
	}
	return Trim(s)
}
