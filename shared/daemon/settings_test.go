package daemon

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"errors"
	"flag"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// sample is one setting of every kind.
type sample struct {
	Common
	name, token string
	count       int
	wait        time.Duration
	on          bool
	list        []string
}

func newSample(process string) (*sample, *Settings) {
	v, s := &sample{}, NewSettings(process)
	s.Common(&v.Common, "127.0.0.1:8080")
	s.String(&v.name, "name", "default", "a name")
	s.Secret(&v.token, "token", "", "a secret")
	s.Int(&v.count, "count", 3, "a number")
	s.Duration(&v.wait, "wait", time.Second, "a duration")
	s.Bool(&v.on, "on", false, "a switch")
	s.Strings(&v.list, "item", []string{"d"}, "a list")
	s.Check("count", func() error {
		if v.count > 10 {
			return errors.New("more than 10")
		}
		return nil
	})
	return v, s
}

func TestParse(t *testing.T) {
	t.Parallel()
	defaults := func() sample {
		return sample{
			Common: Common{
				NATSURL: "nats://127.0.0.1:4222", Listen: "127.0.0.1:8080", LogLevel: "info",
				Replicas: 1, NATSSync: "unknown", EventsMaxAge: 24 * time.Hour, ShutdownTimeout: 20 * time.Second,
			},
			name: "default", count: 3, wait: time.Second, list: []string{"d"},
		}
	}
	for name, c := range map[string]struct {
		args, env []string
		want      func(*sample)
	}{
		"defaults": {want: func(*sample) {}},
		"variables": {
			env: []string{
				"ROLLCALL_NAME=env", "ROLLCALL_COUNT=4", "ROLLCALL_WAIT=2s", "ROLLCALL_ON=true",
				"ROLLCALL_ITEM=a, b,,c", "ROLLCALL_NATS_URL=nats://n:1", "HOME=/home/u", "ROLLCALL_TOKEN=",
			},
			want: func(v *sample) {
				v.name, v.count, v.wait, v.on, v.list = "env", 4, 2*time.Second, true, []string{"a", "b", "c"}
				v.NATSURL = "nats://n:1"
			},
		},
		"flags win": {
			args: []string{"--name", "flag", "-count=5", "--on=false", "--item", "x,y", "--item=z", "--wait", "-1s"},
			env:  []string{"ROLLCALL_NAME=env", "ROLLCALL_COUNT=4", "ROLLCALL_ON=true", "ROLLCALL_ITEM=a"},
			want: func(v *sample) {
				v.name, v.count, v.list, v.wait = "flag", 5, []string{"x,y", "z"}, -time.Second
			},
		},
		"a switch takes no value": {
			args: []string{"--on", "--name=x"},
			want: func(v *sample) { v.on, v.name = true, "x" },
		},
		"the process's own variable wins": {
			env:  []string{"ROLLCALL_GATEWAY_LISTEN=:1", "ROLLCALL_LISTEN=:2"},
			want: func(v *sample) { v.Listen = ":1" },
		},
		"variables of others": {
			env:  []string{"ROLLCALL_PRESENCE_CONSUMERS=shared", "ROLLCALL_LEASE_X=1", "ROLLCALL_UP_X=1", "ROLLCALL_TEST_FAULT=x"},
			want: func(*sample) {},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, s := newSample("gateway")
			want := defaults()
			c.want(&want)
			require.NoError(t, s.Parse(c.args, c.env))
			require.Equal(t, want, *got)
		})
	}
}

func TestParseFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		args, env []string
		want      []string
	}{
		"all in one line": {
			args: []string{"--nope", "value", "--count", "many", "stray", "--on=perhaps", "--other=1", "--wait"},
			env:  []string{"ROLLCALL_ZZZ=1", "ROLLCALL_AAA=", "ROLLCALL_REPLICAS=7", "ROLLCALL_WAIT=soon"},
			want: []string{
				`ROLLCALL_WAIT: "soon" is not a duration such as 1m30s`,
				"unknown variable ROLLCALL_AAA", "unknown variable ROLLCALL_ZZZ",
				"unknown flag --nope", `--count: "many" is not a whole number`, `unexpected argument "stray"`,
				`--on: "perhaps" is not true or false`, "unknown flag --other", "--wait: needs a value",
				"--replicas: 7 is not between 1 and 5",
			},
		},
		"checks": {
			args: []string{"--count=11", "--log-level=loud", "--listen=8080", "--events-max-age=0s", "--shutdown-timeout=-1s", "--nats-url="},
			want: []string{
				"--nats-url: must not be empty", `--listen: "8080" is not host:port`,
				`--log-level: "loud" is not debug, info, warn or error`,
				"--events-max-age: 0s is not positive", "--shutdown-timeout: -1s is not positive", "--count: more than 10",
			},
		},
		"its own prefix": {
			env:  []string{"ROLLCALL_GATEWAY_TYPO=1"},
			want: []string{"unknown variable ROLLCALL_GATEWAY_TYPO"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, s := newSample("gateway")
			err := s.Parse(c.args, c.env)
			var faults *SettingsError
			require.ErrorAs(t, err, &faults)
			require.Equal(t, c.want, faults.Faults)
			require.NotContains(t, err.Error(), "\n")
		})
	}
}

// TestNATSCA holds that a file that vouches for nobody stops a start with one line
// that names the setting and quotes nothing of the file.
func TestNATSCA(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	server := httptest.NewUnstartedServer(nil)
	server.StartTLS()
	defer server.Close()
	good := write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}))
	v, s := newSample("gateway")
	require.NoError(t, s.Parse(nil, []string{"ROLLCALL_NATS_CA=" + good}))
	require.Equal(t, good, v.NATSCA)

	for file, want := range map[string]string{
		filepath.Join(dir, "none"): "no such file",
		dir:                        "is a directory",
		write("empty.pem", nil):    "no certificate in PEM",
		write("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: []byte("hush")})):  "no certificate in PEM",
		write("torn.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte("hush")})): "no certificate in PEM",
	} {
		_, s := newSample("gateway")
		err := s.Parse([]string{"--nats-ca", file}, nil)
		require.ErrorContains(t, err, "gateway: invalid settings: --nats-ca: ")
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "\n")
		require.NotContains(t, err.Error(), "aHVzaA", "of %s", file)
	}
}

// A process without the common settings still tolerates their variables.
func TestParseWithoutCommon(t *testing.T) {
	t.Parallel()
	require.NoError(t, NewSettings("token").Parse(nil, []string{"ROLLCALL_NATS_URL=x", "ROLLCALL_LOG_LEVEL=y"}))
	require.Error(t, NewSettings("token").Parse(nil, []string{"ROLLCALL_NATS_URI=x"}))
}

func TestHelp(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{"-h", "--help", "-help"} {
		_, s := newSample("gateway")
		err := s.Parse([]string{arg}, nil)
		require.ErrorIs(t, err, flag.ErrHelp)
		require.ErrorContains(t, err, "--count (number)\n        a number [3]")
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	_, s := newSample("gateway")
	require.NoError(t, s.Parse([]string{"--token=hush", "--nats-url=nats://u:hush@a:1,nats://b:2", "--item=x"}, nil))
	got := s.Describe()
	require.Equal(t, "[redacted]", got["token"])
	require.Equal(t, "nats://redacted@a:1,nats://b:2", got["nats-url"])
	require.Equal(t, "x", got["item"])
	require.Equal(t, "24h0m0s", got["events-max-age"])
	require.Len(t, got, len(commonNames())+6)
}

func TestSecretStaysSecretInFaults(t *testing.T) {
	t.Parallel()
	one := &setting{secret: true}
	require.NotContains(t, one.hide(errors.New(`"hush" is bad`)).Error(), "hush")
}

func TestLogger(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	log, err := Logger(&out, "info", "gateway")
	require.NoError(t, err)
	log.Debug().Msg("unseen")
	log.Info().Str("k", "v").Msg("seen")
	var line map[string]string
	require.NoError(t, json.Unmarshal(out.Bytes(), &line))
	at, err := time.Parse(time.RFC3339Nano, line["time"])
	require.NoError(t, err)
	require.Equal(t, time.UTC, at.Location())
	delete(line, "time")
	require.Equal(t, map[string]string{"level": "info", "service": "gateway", "k": "v", "message": "seen"}, line)

	_, err = Logger(&out, "loud", "gateway")
	require.Error(t, err)
}

// A command takes words, and of the environment what it names.
func TestCommand(t *testing.T) {
	t.Parallel()
	build := func() (words [2]*string, url *string, s *Settings) {
		words, url = [2]*string{new(string), new(string)}, new(string)
		s = NewCommand("rollcall history", "url")
		s.Word(words[0], "agent", "", "an agent")
		s.Word(words[1], "more", "rest", "something else")
		s.String(url, "url", "http://default", "a gateway")
		s.Check("agent", func() error {
			if *words[0] == "bad" {
				return errors.New("is bad")
			}
			return nil
		})
		return words, url, s
	}
	words, url, s := build()
	require.NoError(t, s.Parse([]string{"ada"}, []string{"ROLLCALL_URL=http://env", "ROLLCALL_AGENT=x", "ROLLCALL_NOPE=1"}))
	require.Equal(t, "ada rest http://env", *words[0]+" "+*words[1]+" "+*url)
	words, url, s = build()
	require.NoError(t, s.Parse([]string{"--url", "http://flag", "ada", "--url=http://last", "b"}, []string{"ROLLCALL_URL=http://env"}))
	require.Equal(t, "ada b http://last", *words[0]+" "+*words[1]+" "+*url)

	_, _, s = build()
	var faults *SettingsError
	require.ErrorAs(t, s.Parse([]string{"bad", "b", "c", "--agent=d"}, nil), &faults)
	require.Equal(t, []string{`unexpected argument "c"`, "unknown flag --agent", "AGENT: is bad"}, faults.Faults)

	_, _, s = build()
	require.EqualError(t, s.Parse([]string{"--help"}, nil), `usage: rollcall history [AGENT] [MORE] [flags]

  AGENT (text)
        an agent
  MORE (text)
        something else [rest]
  --url (text)
        a gateway; also ROLLCALL_URL [http://default]`)
	// Who exports a command's variables may start processes too.
	require.NoError(t, NewSettings("gateway").Parse(nil, []string{"ROLLCALL_URL=x", "ROLLCALL_TOKEN=y", "ROLLCALL_TOKEN_FILE=z", "ROLLCALL_DIR=d"}))
}

func TestAtLeast(t *testing.T) {
	t.Parallel()
	require.NoError(t, AtLeast(time.Second, time.Second))
	require.NoError(t, AtLeast(time.Duration(0), 0))
	require.EqualError(t, AtLeast(999*time.Millisecond, time.Second), "must be at least 1s")
	require.EqualError(t, AtLeast(time.Duration(-1), 0), "must be at least 0s")
	require.NoError(t, AtLeast(1, 1))
	require.EqualError(t, AtLeast(0, 1), "must be at least 1")
}
