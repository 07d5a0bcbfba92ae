package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// writePair writes a certificate of its own making for this machine.
func writePair(t *testing.T, certFile, keyFile string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	require.NoError(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

func TestTLS(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	writePair(t, cert, key, 1)
	cfg := w.config(t)
	cfg.TLSCert, cfg.TLSKey = cert, key
	g := w.launch(t, cfg)
	var answered http.Header // of the last answer
	ask := func(least, most uint16) (proto, serial, cookie string, err error) {
		client := &http.Client{Timeout: patience, Transport: &http.Transport{
			DisableKeepAlives: true, ForceAttemptHTTP2: true,
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true, MinVersion: least, MaxVersion: most},
		}}
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://"+g.Addr()+"/auth/cookie", nil)
		require.NoError(t, err)
		r.Header.Set("Authorization", "Bearer "+w.token(t, grant{}))
		r.Host = "gw.example.com"
		answer, err := client.Do(r)
		if err != nil {
			return "", "", "", err
		}
		defer answer.Body.Close()
		for _, c := range answer.Cookies() {
			cookie = c.Name
			require.True(t, c.Secure)
			require.True(t, c.HttpOnly)
			require.Equal(t, http.SameSiteStrictMode, c.SameSite)
		}
		answered = answer.Header
		return answer.Proto, answer.TLS.PeerCertificates[0].SerialNumber.String(), cookie, nil
	}
	within(t, func() bool { _, _, cookie, _ := ask(0, 0); return cookie != "" })
	proto, serial, cookie, err := ask(tls.VersionTLS12, 0)
	require.NoError(t, err)
	require.Equal(t, []string{"HTTP/2.0", "1", secureCookieName}, []string{proto, serial, cookie})
	require.Equal(t, "max-age=31536000", answered.Get("Strict-Transport-Security"))
	_, _, _, err = ask(tls.VersionTLS10, tls.VersionTLS11)
	require.Error(t, err, "older than TLS 1.2")

	// Who speaks plain HTTP is told so, and nothing else. It is cut off where it has sent
	// more by then, such as a token, which goes nowhere.
	token := w.token(t, grant{scopes: []string{"operator.read"}})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, g.url("/presence"), nil)
	require.NoError(t, err)
	r.Header.Set("Authorization", "Bearer "+token)
	if answer, err := fresh().Do(r); err == nil {
		require.NoError(t, answer.Body.Close())
		require.Equal(t, http.StatusBadRequest, answer.StatusCode)
	}
	for _, path := range []string{"/", "/presence", "/healthz", "/ws"} {
		answer, text := call(t, fresh(), http.MethodGet, g.url(path), "", nil)
		require.Equal(t, http.StatusBadRequest, answer.status, path)
		require.Equal(t, "Client sent an HTTP request to an HTTPS server.\n", text, path)
		require.Empty(t, answer.cookies)
	}
	require.NotContains(t, g.log.String(), token)

	// New files count without a restart; what is no pair does not.
	require.NoError(t, os.WriteFile(key, []byte("half"), 0o600))
	_, serial, _, err = ask(0, 0)
	require.NoError(t, err)
	require.Equal(t, "1", serial)
	writePair(t, cert, key, 2)
	within(t, func() bool { _, serial, _, _ := ask(0, 0); return serial == "2" })
}
