package e2e

import (
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// handed is what POST /auth/nats answers.
type handed struct {
	Creds       string    `json:"creds"`
	URL         string    `json:"url"`
	Subject     string    `json:"subject"`
	InboxPrefix string    `json:"inbox_prefix"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// handOut asks a gateway for credentials for NATS and keeps them in a file.
func (s *stack) handOut(t *testing.T, c *http.Client, url, bearer string) (handed, string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url+"/auth/nats", nil)
	require.NoError(t, err)
	request.Header.Set("Authorization", "Bearer "+bearer)
	answer, err := c.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, answer.StatusCode, "%s", body)
	var got handed
	require.NoError(t, json.Unmarshal(body, &got))
	pair, err := jwt.ParseDecoratedUserNKey([]byte(got.Creds))
	require.NoError(t, err)
	seed, err := pair.Seed()
	require.NoError(t, err)
	s.secret("seed of credentials that were handed out", string(seed))
	text, err := jwt.ParseDecoratedJWT([]byte(got.Creds))
	require.NoError(t, err)
	s.secret("JWT of credentials that were handed out", text)
	file := filepath.Join(t.TempDir(), "handed.creds")
	require.NoError(t, os.WriteFile(file, []byte(got.Creds), 0o600))
	return got, file
}

// TestCredentialsFromTheGateway holds what the credentials are good for that a gateway
// gives to an operator's screen: to hear its tenant, and for nothing else.
func TestCredentialsFromTheGateway(t *testing.T) {
	t.Parallel()
	s := newStack(t, options{args: []string{"--lease", "0", "--tenant", acme, "--tenant", globex}, abrupt: true})
	got, file := s.handOut(t, http.DefaultClient, s.Gateways[0].URL, s.Tenants[acme].OperatorToken)
	require.Equal(t, s.NATSWSURL, got.URL)
	require.Equal(t, "tenant."+acme+".>", got.Subject)
	require.WithinDuration(t, time.Now().Add(15*time.Minute), got.ExpiresAt, patience)

	// What it is for, over either way to connect, and by the subject it was told.
	for _, url := range []string{s.NATSURL, got.URL} {
		i := s.intrude(t, "handed "+url, url, file)
		require.Equal(t, got.InboxPrefix, access.InboxPrefix(i.user))
		require.True(t, i.hears(t, got.Subject, ""), url)
		require.True(t, i.hears(t, got.InboxPrefix+".>", ""), url)
		s.agent(t, s.Gateways[0], "ada", nil)
		await(t, "what happens in the tenant is heard over "+url, func() bool { return strings.Contains(i.all(), "tenant."+acme+".agent.ada.connection.opened") })
	}

	i := s.intrude(t, "handed", s.NATSURL, file)
	for _, subject := range []string{
		"tenant.>", "tenant.*.>", "tenant." + globex + ".>", "tenant.system.>", ">", "_INBOX.>", "_INBOX_*.>", "$JS.API.>", "$JS.EVENT.>", "$KV.>", "$SYS.>",
		"$KV.PRESENCE." + acme + ".>", access.InboxPrefix("UAAA") + ".>",
	} {
		require.False(t, i.hears(t, subject, ""), subject)
	}
	for _, subject := range []string{
		subjects.ProducerEvent(acme, "run.started").String(), subjects.AgentPresence(acme, "ada").String(), "$KV.PRESENCE." + subjects.AgentKey(acme, "ada"),
		"$JS.API.INFO", "$JS.API.STREAM.NAMES", "$JS.API.STREAM.INFO.EVENTS", "$JS.API.DIRECT.GET.KV_PRESENCE.$KV.PRESENCE." + subjects.AgentKey(acme, "ada"),
		"$JS.API.CONSUMER.CREATE.EVENTS.x.tenant." + acme + ".>", "$JS.API.CONSUMER.MSG.NEXT.EVENTS.x", "$JS.ACK.EVENTS.x.1.1.1.1.0", "$SYS.REQ.SERVER.PING",
		got.InboxPrefix + ".1", "elsewhere",
	} {
		require.False(t, i.says(t, &nats.Msg{Subject: subject, Reply: got.InboxPrefix + ".1", Data: []byte("{}")}), subject)
	}

	// They end with the token, at the latest.
	short, err := s.mint(token.Grant{Tenant: acme, Scopes: []string{"operator.read"}, TTL: 5 * time.Second})
	require.NoError(t, err)
	_, file = s.handOut(t, http.DefaultClient, s.Gateways[0].URL, short)
	brief := s.intrude(t, "brief", s.NATSURL, file)
	await(t, "the server closes who has lapsed", brief.IsClosed)
}
