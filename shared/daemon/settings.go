package daemon

import (
	"flag"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	envPrefix = "ROLLCALL_"
	redacted  = "[redacted]"
)

// SettingsError lists every fault of a process's settings.
type SettingsError struct {
	Process string
	Faults  []string
}

// Error is one line that names all faults.
func (e *SettingsError) Error() string {
	return e.Process + ": invalid settings: " + strings.Join(e.Faults, "; ")
}

// HelpError is returned by Parse when help was asked for. It Is [flag.ErrHelp]
// and its text is the usage.
type HelpError struct{ Usage string }

// Error is the usage.
func (e *HelpError) Error() string { return e.Usage }

// Unwrap returns [flag.ErrHelp].
func (*HelpError) Unwrap() error { return flag.ErrHelp }

// Settings are the settings of one process. Each has a name, which is its flag
// --nats-url and its variables ROLLCALL_NATS_URL and, for this process only,
// ROLLCALL_<PROCESS>_NATS_URL. A flag wins over the process's own variable,
// that over the general one, that over the default. An empty variable counts
// as not set.
//
// The settings of a command, made by [NewCommand], come from its arguments.
type Settings struct {
	process string
	all     []*setting
	// words are the settings that arguments without a flag go to, in this order.
	words  []*setting
	checks []check
	// command says that only variables are read from the environment.
	command   bool
	variables []string
}

// setting is one value: how to set it from text and how to show it.
type setting struct {
	name, usage string
	set         func(string) error
	show        func() string
	kind        string // shown in the usage
	secret      bool
	toggle      bool         // the flag needs no value
	list        func(string) // appends a flag's value; nil: the last one wins
	clear       func()
	faulty      bool
}

type check struct {
	name string
	run  func() error
}

// NewSettings returns the empty settings of a process, such as "gateway".
func NewSettings(name string) *Settings { return &Settings{process: name} }

// NewCommand returns the empty settings of a command that people and scripts
// call, such as "rollcall presence". What it shall do comes from its arguments
// alone: only the named settings are read from the environment too, under
// ROLLCALL_<NAME>, and whatever else is there is meant for others.
func NewCommand(name string, variables ...string) *Settings {
	return &Settings{process: name, command: true, variables: variables}
}

// Word registers a text that is given without a flag. Words are taken in the
// order of their registration and may stand before, between and behind flags.
func (s *Settings) Word(p *string, name, def, usage string) {
	*p = def
	word := &setting{name: name, usage: usage, kind: "text", set: setter(p, asText), show: func() string { return *p }}
	s.words = append(s.words, word)
}

// String registers a text.
func (s *Settings) String(p *string, name, def, usage string) {
	*p = def
	s.add(&setting{name: name, usage: usage, kind: "text", set: setter(p, asText), show: func() string { return withoutPassword(*p) }})
}

// Secret registers a text that is never shown.
func (s *Settings) Secret(p *string, name, def, usage string) {
	*p = def
	s.add(&setting{name: name, usage: usage, kind: "text", secret: true, set: setter(p, asText), show: func() string { return redacted }})
}

// Int registers a whole number.
func (s *Settings) Int(p *int, name string, def int, usage string) {
	*p = def
	s.add(&setting{name: name, usage: usage, kind: "number", set: setter(p, asInt), show: func() string { return strconv.Itoa(*p) }})
}

// Duration registers a duration such as 1m30s.
func (s *Settings) Duration(p *time.Duration, name string, def time.Duration, usage string) {
	*p = def
	s.add(&setting{name: name, usage: usage, kind: "duration", set: setter(p, asDuration), show: func() string { return p.String() }})
}

// Bool registers a switch; as a flag it needs no value.
func (s *Settings) Bool(p *bool, name string, def bool, usage string) {
	*p = def
	s.add(&setting{name: name, usage: usage, kind: "bool", toggle: true, set: setter(p, asBool), show: func() string { return strconv.FormatBool(*p) }})
}

// Strings registers a list: the flag is repeated, a variable has commas.
func (s *Settings) Strings(p *[]string, name string, def []string, usage string) {
	*p = slices.Clone(def)
	s.add(&setting{
		name: name, usage: usage, kind: "text, repeatable",
		set:   func(text string) error { *p = splitList(text); return nil },
		show:  func() string { return strings.Join(*p, ",") },
		list:  func(text string) { *p = append(*p, text) },
		clear: func() { *p = nil },
	})
}

// Check registers what must hold of a setting once all are read. Its error
// becomes a fault that names the setting. It is not run when the setting could
// not be read at all.
func (s *Settings) Check(name string, holds func() error) {
	s.checks = append(s.checks, check{name: name, run: holds})
}

// AtLeast is what a [Settings.Check] of a number or a duration says that must not be less
// than least.
func AtLeast[T int | time.Duration](v, least T) error {
	if v < least {
		return fmt.Errorf("must be at least %v", least)
	}
	return nil
}

// Describe shows the effective values by name, secrets and passwords redacted.
func (s *Settings) Describe() map[string]string {
	out := make(map[string]string, len(s.all))
	for _, one := range s.all {
		out[one.name] = one.show()
	}
	return out
}

func (s *Settings) add(one *setting) { s.all = append(s.all, one) }

func (s *Settings) find(name string) *setting {
	for _, one := range s.all {
		if one.name == name {
			return one
		}
	}
	return nil
}

func setter[T any](p *T, parse func(string) (T, error)) func(string) error {
	return func(text string) error {
		v, err := parse(text)
		if err == nil {
			*p = v
		}
		return err
	}
}

func asText(text string) (string, error) { return text, nil }

func asInt(text string) (int, error) {
	n, err := strconv.Atoi(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a whole number", text)
	}
	return n, nil
}

func asDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err != nil {
		return 0, fmt.Errorf("%q is not a duration such as 1m30s", text)
	}
	return d, nil
}

func asBool(text string) (bool, error) {
	b, err := strconv.ParseBool(text)
	if err != nil {
		return false, fmt.Errorf("%q is not true or false", text)
	}
	return b, nil
}

// splitList cuts at commas and drops what is empty.
func splitList(text string) []string {
	var out []string
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part != "" {
			out = append(out, part)
		}
	}
	return out
}

// withoutPassword hides the password of each URL in a comma separated list.
func withoutPassword(text string) string {
	if !strings.Contains(text, "@") {
		return text
	}
	parts := strings.Split(text, ",")
	for i, part := range parts {
		u, err := url.Parse(strings.TrimSpace(part))
		switch {
		case err != nil:
			parts[i] = redacted
		case u.User != nil:
			u.User = url.User("redacted")
			parts[i] = u.String()
		}
	}
	return strings.Join(parts, ",")
}
