package rollcall

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
)

// clean makes text safe to show: what is not printable is escaped, since peers
// choose resources, reasons and labels, and a terminal obeys what it is shown.
func clean(text string) string {
	if !strings.ContainsFunc(text, unprintable) {
		return text
	}
	var b strings.Builder
	for _, r := range text {
		if unprintable(r) {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
			continue
		}
		b.WriteRune(r)
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }

// clip cuts text that is longer than a number of characters.
func clip(text string, most int) string {
	runes := []rune(text)
	switch {
	case len(runes) <= most:
		return text
	case most <= 0:
		return ""
	default:
		return string(runes[:most-1]) + "…"
	}
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return clean(text)
}

// ago shows how long ago something was, in two digits or three.
func ago(now, at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return span(now.Sub(at))
}

// span shows a duration in its largest unit.
func span(d time.Duration) string {
	const day = 24 * time.Hour
	d = max(d, 0)
	for _, unit := range []struct {
		below, one time.Duration
		name       string
	}{
		{time.Minute, time.Second, "s"}, {time.Hour, time.Minute, "m"}, {2 * day, time.Hour, "h"},
	} {
		if d < unit.below {
			return strconv.FormatInt(int64(d/unit.one), 10) + unit.name
		}
	}
	return strconv.FormatInt(int64(d/day), 10) + "d"
}

// table prints rows under a head, columns aligned.
func table(w io.Writer, head []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		if _, err := fmt.Fprintln(t, strings.Join(row, "\t")); err != nil {
			return printing(err)
		}
	}
	if err := t.Flush(); err != nil {
		return printing(err)
	}
	return nil
}

// line prints one line for people.
func line(w io.Writer, format string, args ...any) error {
	if _, err := fmt.Fprintf(w, format+"\n", args...); err != nil {
		return printing(err)
	}
	return nil
}

// jsonLine prints one JSON object on one line, with its characters as they are.
func jsonLine(w io.Writer, value any) error {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return printing(err)
	}
	return nil
}

func printing(err error) error { return failure(exitFailure, "print: %w", err) }
