package rollcall

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"rollcall/shared/daemon"
	"rollcall/subjects"
)

const (
	defaultURL = "http://127.0.0.1:8080"
	// maxToken is far more than a token has.
	maxToken = 64 << 10
	// urlsFile is where bin/up says where its gateways are.
	urlsFile = "gateway.urls"
	suffix   = ".operator"
)

// target is whom to ask, and as whom.
type target struct {
	urls                   []string
	tokenFile, dir, tenant string
	timeout                time.Duration
}

// settingsOf returns the settings of a subcommand, those of the target included.
func settingsOf(name string, t *target) *daemon.Settings {
	s := daemon.NewCommand("rollcall "+name, "url", "token-file", "dir")
	s.Strings(&t.urls, "url", nil, "address of a gateway; of several the first that answers is taken. Without any: those of --dir, else "+defaultURL)
	s.String(&t.tokenFile, "token-file", "", "file with the access token; without it the variable ROLLCALL_TOKEN counts, and without that the operator's token in --dir")
	s.String(&t.dir, "dir", ".rollcall", "directory of a stack, as given to up")
	s.String(&t.tenant, "tenant", "", "whose operator's token to take from --dir, where there are several")
	s.Duration(&t.timeout, "timeout", 15*time.Second, "how long an answer may take")
	s.Check("url", func() error { return checkURLs(t.urls) })
	s.Check("tenant", func() error {
		if t.tenant == "" {
			return nil
		}
		return rule(subjects.CheckTenant("tenant", t.tenant)) // it becomes part of a path
	})
	s.Check("timeout", func() error {
		if t.timeout <= 0 {
			return errors.New("must be positive")
		}
		return nil
	})
	return s
}

// rule is a problem's rule without the name of the field.
func rule(err error) error {
	if problem, ok := errors.AsType[*subjects.Problem](err); ok {
		return fmt.Errorf("%v", problem.Details["rule"])
	}
	return err
}

func checkURLs(urls []string) error {
	var faults []error
	for _, text := range urls {
		u, err := url.Parse(text)
		switch {
		case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
			faults = append(faults, errors.New("must be http://host:port or https://host:port"))
		case u.User != nil || u.RawQuery != "" || u.Fragment != "":
			faults = append(faults, errors.New("must not hold a user, a query or a fragment"))
		}
	}
	return errors.Join(faults...)
}

// open reads a command's line and opens the gateway that it is about.
func (t *target) open(s *daemon.Settings, args, env []string) (*gateway, error) {
	if err := s.Parse(args, env); err != nil {
		return nil, err
	}
	return t.gateway(env)
}

// gateway completes what was left out.
func (t *target) gateway(env []string) (*gateway, error) {
	token, err := t.token(env)
	if err != nil {
		return nil, err
	}
	urls := t.urls
	if len(urls) == 0 {
		if urls, err = t.known(); err != nil {
			return nil, err
		}
	}
	return newGateway(urls, token, t.timeout), nil
}

// known are the gateways of the directory, or where the first one is by default.
func (t *target) known() ([]string, error) {
	data, err := os.ReadFile(filepath.Join(t.dir, urlsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return []string{defaultURL}, nil
	}
	if err != nil {
		return nil, failure(exitUsage, "--dir: %w", err)
	}
	urls := strings.Fields(string(data))
	if err := checkURLs(urls); err != nil || len(urls) == 0 {
		return nil, failure(exitUsage, "--dir: %s does not say where a gateway is", filepath.Join(t.dir, urlsFile))
	}
	return urls, nil
}

// token is the first that is given: by file, by variable, by directory.
func (t *target) token(env []string) (string, error) {
	if t.tokenFile != "" {
		return readToken("--token-file", t.tokenFile)
	}
	for _, pair := range env {
		if token, found := strings.CutPrefix(pair, "ROLLCALL_TOKEN="); found && strings.TrimSpace(token) != "" {
			return checkToken("ROLLCALL_TOKEN", token)
		}
	}
	tenant := t.tenant
	if tenant == "" {
		var err error
		if tenant, err = t.onlyTenant(); err != nil {
			return "", err
		}
	}
	return readToken("--dir", filepath.Join(t.dir, "tokens", tenant+suffix))
}

func (t *target) onlyTenant() (string, error) {
	files, err := filepath.Glob(filepath.Join(t.dir, "tokens", "*"+suffix))
	if err != nil {
		return "", failure(exitUsage, "--dir: %w", err)
	}
	switch len(files) {
	case 0:
		return "", failure(exitRefused, "no token: give --token-file, ROLLCALL_TOKEN_FILE or ROLLCALL_TOKEN, or with --dir a stack that bin/up has made (%s is none)", t.dir)
	case 1:
		return strings.TrimSuffix(filepath.Base(files[0]), suffix), nil
	default:
		var tenants []string
		for _, file := range files {
			tenants = append(tenants, strings.TrimSuffix(filepath.Base(file), suffix))
		}
		return "", failure(exitUsage, "--tenant: must be one of %s", strings.Join(tenants, ", "))
	}
}

func readToken(from, path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", failure(exitRefused, "%s: no token: %w", from, err)
	}
	if info.Size() > maxToken {
		return "", failure(exitUsage, "%s: %s is too long for a token", from, path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", failure(exitRefused, "%s: no token: %w", from, err)
	}
	return checkToken(from, string(data))
}

// checkToken refuses what cannot be a header. It must not quote it.
func checkToken(from, text string) (string, error) {
	token := strings.TrimSpace(text)
	if token == "" {
		return "", failure(exitRefused, "%s: the token is empty", from)
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", failure(exitUsage, "%s: is not a token", from)
	}
	return token, nil
}
