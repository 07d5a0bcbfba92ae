package gateway

import (
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nkeys"

	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// maxTailTTL bounds how long credentials are good for that the gateway hands out: they
// cannot be taken back one by one, as nobody notes whose they are.
const maxTailTTL = 15 * time.Minute

// tailResult answers POST /auth/nats.
type tailResult struct {
	// Creds is the text of a creds file.
	Creds string `json:"creds"`
	// URL is where NATS is for whoever comes from outside, if the gateway was told.
	URL string `json:"url,omitempty"`
	// Subject is what may be subscribed to, InboxPrefix what answers come to.
	Subject     string    `json:"subject"`
	InboxPrefix string    `json:"inbox_prefix"`
	ExpiresAt   time.Time `json:"expires_at"`
}

// postNATS gives whoever sees all of a tenant credentials to hear the same from NATS
// itself. Scopes of events are no part of it, so a token that may read events but not
// everybody's gets none.
func (g *Gateway) postNATS(w http.ResponseWriter, r *http.Request) {
	bearer, ok := g.permit(w, r, token.ScopeOperatorRead)
	if !ok {
		return
	}
	key, err := readTailKey(g.cfg.TailKeyFile)
	if err != nil {
		g.log.Error().Err(err).Msg("no credentials for NATS to be had")
	}
	if key == nil {
		g.writeError(w, &subjects.Problem{Code: subjects.CodeUnavailable, Message: "this gateway gives no credentials for NATS"})
		return
	}
	defer key.Wipe()
	result, user, err := g.tailCreds(key, bearer, time.Now())
	if err != nil {
		g.writeError(w, err)
		return
	}
	g.log.Info().Str("tenant_id", bearer.Tenant).Str("token_id", bearer.ID).Str("nats_user", user).Time("expires_at", result.ExpiresAt).
		Msg("credentials for NATS given")
	writeJSON(w, http.StatusOK, "application/json", result)
}

// tailCreds makes a user of NATS who may hear the token's tenant, and for no longer
// than the token may be used. What else the user may is the signing key's affair: its
// claims name no permissions.
func (g *Gateway) tailCreds(key nkeys.KeyPair, bearer token.Token, now time.Time) (result tailResult, user string, err error) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		return tailResult{}, "", fmt.Errorf("make user: %w", err)
	}
	defer pair.Wipe()
	if user, err = pair.PublicKey(); err != nil {
		return tailResult{}, "", fmt.Errorf("make user: %w", err)
	}
	expires := now.Add(maxTailTTL)
	if !bearer.Expires.IsZero() && bearer.Expires.Before(expires) {
		expires = bearer.Expires
	}
	claims := jwt.NewUserClaims(user)
	claims.SetScoped(true)
	claims.IssuerAccount = g.cfg.AccountKey
	claims.Expires = expires.Unix()
	claims.Tags.Add("tenant:" + bearer.Tenant) // a valid id, or the token would not have been
	text, err := claims.Encode(key)
	if err != nil {
		return tailResult{}, "", fmt.Errorf("sign user: %w", err)
	}
	seed, err := pair.Seed()
	if err != nil {
		return tailResult{}, "", fmt.Errorf("make user: %w", err)
	}
	creds, err := jwt.FormatUserConfig(text, seed)
	if err != nil {
		return tailResult{}, "", fmt.Errorf("write creds: %w", err)
	}
	return tailResult{
		Creds: string(creds), URL: g.cfg.TailURL, Subject: "tenant." + bearer.Tenant + ".>",
		InboxPrefix: access.InboxPrefix(user), ExpiresAt: time.Unix(expires.Unix(), 0).UTC(),
	}, user, nil
}

var errNoTailKey = errors.New("holds no account signing key (SA…)")

// readTailKey reads the key that signs, each time it is needed: it may have been
// replaced by another. It is nil where no file is set. Errors quote nothing of it.
func readTailKey(file string) (nkeys.KeyPair, error) {
	if file == "" {
		return nil, nil
	}
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("read key that signs for tails: %w", err)
	}
	if info.Mode().Perm()&(fs.ModePerm&0o007) != 0 {
		return nil, fmt.Errorf("key that signs for tails: %s is open to everybody on this machine", file)
	}
	seed, err := os.ReadFile(file) //nolint:gosec // the operator names the file
	if err != nil {
		return nil, fmt.Errorf("read key that signs for tails: %w", err)
	}
	key, err := nkeys.FromSeed([]byte(strings.TrimSpace(string(seed))))
	if err != nil {
		return nil, fmt.Errorf("key that signs for tails: %s %w", file, errNoTailKey)
	}
	if public, err := key.PublicKey(); err != nil || !nkeys.IsValidPublicAccountKey(public) {
		return nil, fmt.Errorf("key that signs for tails: %s %w", file, errNoTailKey)
	}
	return key, nil
}

// checkTail refuses a key without the account that it signs for.
func (c *Config) checkTail() error {
	if c.TailKeyFile == "" {
		return nil
	}
	if c.AccountKey == "" {
		return errors.New("goes with operator-key and account-key")
	}
	key, err := readTailKey(c.TailKeyFile)
	if key != nil {
		key.Wipe()
	}
	return err
}

// checkTailURL refuses what is no address of a NATS server.
func (c *Config) checkTailURL() error {
	if c.TailURL == "" {
		return nil
	}
	u, err := url.Parse(c.TailURL)
	if err != nil || u.Host == "" || u.User != nil || strings.ContainsAny(u.Host, ";, '\"") || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return errors.New("is no address such as wss://nats.example.com:9222")
	}
	switch u.Scheme {
	case "ws", "wss", "nats", "tls":
		return nil
	default:
		return errors.New("must begin with ws://, wss://, nats:// or tls://")
	}
}
