package daemon

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Parse reads the environment, then the arguments, then runs the checks. All
// faults come back as one [SettingsError]; a call for help as a [HelpError].
//
// A ROLLCALL_ variable that means nothing to this process is a fault, unless
// it belongs to another process of the stack (ROLLCALL_GATEWAY_…, and so on)
// or is one of the settings that all of them have: they may share an
// environment.
func (s *Settings) Parse(args, env []string) error {
	var faults []string
	fault := func(one *setting, format string, a ...any) {
		if one != nil {
			one.faulty = true
		}
		faults = append(faults, fmt.Sprintf(format, a...))
	}
	s.parseEnv(env, fault)
	if s.parseArgs(args, fault) {
		return &HelpError{Usage: s.usage()}
	}
	faults = append(faults, s.runChecks()...)
	if len(faults) > 0 {
		return &SettingsError{Process: s.process, Faults: faults}
	}
	return nil
}

type faultFunc func(one *setting, format string, a ...any)

// parseEnv applies variables, general ones first so that the process's own win.
func (s *Settings) parseEnv(env []string, fault faultFunc) {
	vars := map[string]string{}
	for _, pair := range env {
		if name, value, ok := strings.Cut(pair, "="); ok && strings.HasPrefix(name, envPrefix) {
			vars[name] = value
		}
	}
	for _, one := range s.all {
		for _, name := range s.envNames(one.name) {
			value := vars[name]
			delete(vars, name)
			if value == "" {
				continue
			}
			if err := one.set(value); err != nil {
				fault(one, "%s: %s", name, one.hide(err))
			}
		}
	}
	if s.command {
		return
	}
	var unknown []string
	for name := range vars {
		if !s.foreign(name) {
			unknown = append(unknown, name)
		}
	}
	slices.Sort(unknown)
	for _, name := range unknown {
		fault(nil, "unknown variable %s", name)
	}
}

// foreign says whether a variable is meant for another process, or for all.
func (s *Settings) foreign(name string) bool {
	if strings.HasPrefix(name, envPrefix+"TEST_") {
		return true
	}
	for _, process := range []string{"GATEWAY", "PRESENCE", "LEASE", "UP"} {
		if process != upper(s.process) && strings.HasPrefix(name, envPrefix+process+"_") {
			return true
		}
	}
	shared := append(commonNames(), clientNames()...)
	return slices.ContainsFunc(shared, func(one string) bool { return envName(one) == name })
}

// clientNames are the variables of commands that ask a gateway. Who has them in
// the environment starts processes with them too.
func clientNames() []string { return []string{"url", "token", "token-file", "dir"} }

// parseArgs applies flags. It is true when help was asked for.
func (s *Settings) parseArgs(args []string, fault faultFunc) (help bool) {
	cleared := map[string]bool{}
	words := s.words
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if !strings.HasPrefix(arg, "-") || arg == "-" || arg == "--" {
			if len(words) > 0 && arg != "--" {
				s.applyFlag(words[0], arg, cleared, fault)
				words = words[1:]
				continue
			}
			fault(nil, "unexpected argument %q", arg)
			continue
		}
		name, value, given := strings.Cut(strings.TrimPrefix(strings.TrimPrefix(arg, "-"), "-"), "=")
		if name == "h" || name == "help" {
			return true
		}
		one := s.find(name)
		if one == nil {
			fault(nil, "unknown flag --%s", name)
			if !given && len(args) > 0 && !strings.HasPrefix(args[0], "-") {
				args = args[1:] // most likely its value
			}
			continue
		}
		if !given && one.toggle {
			value, given = "true", true
		}
		if !given {
			if len(args) == 0 {
				fault(one, "--%s: needs a value", name)
				continue
			}
			value, args = args[0], args[1:]
		}
		s.applyFlag(one, value, cleared, fault)
	}
	return false
}

// applyFlag sets a value; the first flag of a list replaces what was there.
func (s *Settings) applyFlag(one *setting, value string, cleared map[string]bool, fault faultFunc) {
	if one.list != nil {
		if !cleared[one.name] {
			one.clear()
			cleared[one.name] = true
		}
		one.list(value)
		return
	}
	if err := one.set(value); err != nil {
		fault(one, "--%s: %s", one.name, one.hide(err))
	}
}

// runChecks runs the checks of settings that could be read.
func (s *Settings) runChecks() []string {
	var faults []string
	for _, c := range s.checks {
		if one := s.find(c.name); one != nil && one.faulty {
			continue
		}
		if err := c.run(); err != nil {
			faults = append(faults, fmt.Sprintf("%s: %s", s.called(c.name), oneLine(err.Error())))
		}
	}
	return faults
}

// hide keeps the value of a secret out of its own fault.
func (one *setting) hide(err error) error {
	if one.secret {
		return errors.New("bad value")
	}
	return err
}

// called is how a setting is given: a word has no dashes.
func (s *Settings) called(name string) string {
	if slices.ContainsFunc(s.words, func(word *setting) bool { return word.name == name }) {
		return strings.ToUpper(name)
	}
	return "--" + name
}

func (s *Settings) usage() string {
	var b strings.Builder
	fmt.Fprintf(&b, "usage: %s", s.process)
	for _, word := range s.words {
		fmt.Fprintf(&b, " [%s]", strings.ToUpper(word.name))
	}
	b.WriteString(" [flags]\n\n")
	if !s.command {
		fmt.Fprintf(&b, "Every flag is also a variable: --nats-url is %sNATS_URL, or %s for this process only.\n\n", envPrefix, s.ownEnvName("nats-url"))
	}
	for _, one := range slices.Concat(s.words, s.all) {
		fmt.Fprintf(&b, "  %s (%s)\n        %s", s.called(one.name), one.kind, one.usage)
		if s.command && len(s.envNames(one.name)) > 0 {
			fmt.Fprintf(&b, "; also %s", envName(one.name))
		}
		if def := one.show(); def != "" && !one.secret {
			fmt.Fprintf(&b, " [%s]", def)
		}
		b.WriteString("\n")
	}
	return strings.TrimRight(b.String(), "\n")
}

func upper(name string) string { return strings.ToUpper(strings.ReplaceAll(name, "-", "_")) }

// envNames are the variables that set a setting, the one that wins last.
func (s *Settings) envNames(name string) []string {
	if !s.command {
		return []string{envName(name), s.ownEnvName(name)}
	}
	if slices.Contains(s.variables, name) {
		return []string{envName(name)}
	}
	return nil
}

func envName(name string) string { return envPrefix + upper(name) }

func (s *Settings) ownEnvName(name string) string {
	return envPrefix + upper(s.process) + "_" + upper(name)
}
