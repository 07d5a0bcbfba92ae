package subjects

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of what producers say in their payloads. They keep an event far below
// what a message may hold, and its numbers exact in every language.
const (
	maxRef   = 128
	maxProse = 4096
	maxURI   = 2048
	maxItems = 64
	// maxNumber is the largest whole number that a float64 holds exactly, and
	// so the largest that a JavaScript reader gets right.
	maxNumber = 1<<53 - 1
)

// The struct tag `schema` of a payload's field names the rule that its Validate
// holds the field to, for the JSON Schema that is generated from the type. Per
// rule there is one check:
//
//	uuid   CheckUUID       agent   CheckAgent     instance  CheckInstance
//	ref    checkRef        text    CheckText      prose     checkProse
//	uri    checkURI        sha256  checkSHA256    object    CheckMetadata
//	count  checkCount      ratio   checkRatio     whole     CheckLastInput
//	ip     checkIP         line    checkLine
//
// and one per closed set: role, mode, status, closed_reason, decision. The
// option least=N is the least a number may be, or how much a text or a list
// must hold, and most=N what a list may. On a list the rule is one for its items. What Validate enforces
// and what the schema says are held to each other by a test.

// checkRef refuses what cannot be the id of a thing that rollcall does not
// know: a run, an approval, a message. Its form is its producer's own.
func checkRef(field, s string) error {
	printable := func(r rune) bool { return r > ' ' && r <= '~' }
	if s == "" || len(s) > maxRef || strings.ContainsFunc(s, func(r rune) bool { return !printable(r) }) {
		return Invalid(field, "must be 1 to 128 printable ASCII characters without spaces")
	}
	return nil
}

// checkOptionalRef is checkRef for a key that may be left out.
func checkOptionalRef(field, s string) error {
	if s == "" {
		return nil
	}
	return checkRef(field, s)
}

// checkRefs refuses lists of ids that are too long or, where one is due, empty.
func checkRefs(field string, refs []string, least int) error {
	if err := checkLength(field, len(refs), least); err != nil {
		return err
	}
	for i, ref := range refs {
		if err := checkRef(indexed(field, i), ref); err != nil {
			return err
		}
	}
	return nil
}

func checkLength(field string, n, least int) error {
	switch {
	case n >= least && n <= maxItems:
		return nil
	case least == 0:
		return Invalid(field, "must hold at most 64")
	default:
		return Invalid(field, fmt.Sprintf("must hold %d to 64", least))
	}
}

// checkRequiredText is CheckText for a key that must say something.
func checkRequiredText(field, s string) error {
	if s == "" {
		return Invalid(field, "must not be empty")
	}
	return CheckText(field, s)
}

// checkProse refuses text over 4,096 characters or with control characters
// other than tab and line feed. Empty is absent.
func checkProse(field, s string) error {
	if utf8.RuneCountInString(s) > maxProse {
		return Invalid(field, "must be at most 4096 characters")
	}
	if strings.ContainsFunc(s, func(r rune) bool { return unicode.IsControl(r) && r != '\t' && r != '\n' }) {
		return Invalid(field, "must not hold control characters other than tab and line feed")
	}
	return nil
}

// checkRequiredProse is checkProse for a key that must say something.
func checkRequiredProse(field, s string) error {
	if s == "" {
		return Invalid(field, "must not be empty")
	}
	return checkProse(field, s)
}

// checkURI refuses an address that is too long or holds what addresses do not.
// It does not look further: schemes are the producers' own. Empty is absent.
func checkURI(field, s string) error {
	if len(s) > maxURI || strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Invalid(field, "must be at most 2048 printable ASCII characters without spaces")
	}
	return nil
}

// checkSHA256 refuses what is not a digest in lower-case hex. Empty is absent.
func checkSHA256(field, s string) error {
	isHex := func(r rune) bool { return r >= '0' && r <= '9' || r >= 'a' && r <= 'f' }
	if s != "" && (len(s) != 64 || strings.ContainsFunc(s, func(r rune) bool { return !isHex(r) })) {
		return Invalid(field, "must be 64 characters of lower-case hex")
	}
	return nil
}

// checkNumber refuses a number below least, and one that readers in other
// languages would round.
func checkNumber(field string, n, least int64) error {
	if n < least || n > maxNumber {
		return Invalid(field, fmt.Sprintf("must be %d to 9007199254740991", least))
	}
	return nil
}

// checkCount is checkNumber for a key that may be left out.
func checkCount(field string, n *int64, least int64) error {
	if n == nil {
		return nil
	}
	return checkNumber(field, *n, least)
}

// checkRatio refuses what is not between 0 and 1.
func checkRatio(field string, x *float64) error {
	if x != nil && (*x < 0 || *x > 1) {
		return Invalid(field, "must be 0 to 1")
	}
	return nil
}

// Failure is why something did not work, as its producer tells it.
type Failure struct {
	Message string `json:"message" schema:"prose,least=1"`
	// Code is for programs; the set is the producer's own.
	Code string `json:"code,omitempty" schema:"text"`
	// Retryable says that the same may work later.
	Retryable bool `json:"retryable,omitempty"`
}

// checkFailure refuses an error that says nothing. Nil is absent.
func checkFailure(f *Failure) error {
	if f == nil {
		return nil
	}
	return first(checkRequiredProse("error.message", f.Message), CheckText("error.code", f.Code))
}

// within names the place of a nested value's fault: "host" within
// "reported" is "reported.host".
func within(field string, err error) error {
	problem, ok := errors.AsType[*Problem](err)
	if !ok {
		return err
	}
	inner, _ := problem.Details["field"].(string)
	rule, _ := problem.Details["rule"].(string)
	if inner != "" {
		field += "." + inner
	}
	return Invalid(field, rule)
}

// isObject reports whether JSON without space around it is an object.
func isObject(raw json.RawMessage) bool { return len(raw) > 0 && raw[0] == '{' }
