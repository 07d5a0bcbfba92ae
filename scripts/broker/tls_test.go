package broker_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/keys"
	"rollcall/scripts/trust"
	"rollcall/shared/bus"
	"rollcall/subjects/access"
)

// include turns TLS on in deploy/nats.conf, as its reader would.
const include = "include nats-tls.conf"

// authority vouches for servers.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	file        string
}

// newAuthority keeps its certificate in the directory.
func newAuthority(t *testing.T, dir string) authority {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a := authority{certificate: template, file: filepath.Join(dir, "ca.pem")}
	var err error
	a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	a.certificate, err = x509.ParseCertificate(writeCertificate(t, a.file, template, template, a.key, a.key))
	require.NoError(t, err)
	return a
}

// issue writes what nats-tls.conf reads, for this machine's address.
func (a authority) issue(t *testing.T, dir string, serial int64) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	writeCertificate(t, filepath.Join(dir, "server.pem"), template, a.certificate, key, a.key)
	private, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "server.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}), 0o600))
}

func writeCertificate(t *testing.T, file string, template, issuer *x509.Certificate, key, by *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, key.Public(), by)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	return der
}

// TestDeployedTLS holds that with the include of deploy/nats.conf nothing is said
// in plain text, and that the setting --nats-ca is what lets services and
// bin/token in.
func TestDeployedTLS(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ring, err := keys.Create(dir)
	require.NoError(t, err)
	creds := func(u keys.User) string {
		path := ring.CredsFile(string(u.Role))
		require.NoError(t, ring.KeepCreds(path, u, time.Now()))
		return path
	}
	admin, system := creds(keys.User{Role: access.Admin}), creds(keys.User{Role: keys.System})
	ca, stranger := newAuthority(t, dir), newAuthority(t, t.TempDir())
	ca.issue(t, dir, 2)
	s := serve(t, dir, "#"+include, include)
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	address := s.Addr().String()

	// connect tries for as long as a connection takes; whoever is refused waits.
	connect := func(scheme, file string, wait time.Duration) (*bus.Conn, error) {
		ctx, cancel := context.WithTimeout(t.Context(), wait)
		defer cancel()
		return bus.Connect(ctx, bus.Options{URL: scheme + address, CAFile: file, CredsFile: admin, Log: zerolog.Nop()})
	}
	serial := func(scheme string) int64 {
		conn, err := connect(scheme, ca.file, patience)
		require.NoError(t, err)
		defer conn.NC().Close()
		state, err := conn.NC().TLSConnectionState()
		require.NoError(t, err)
		require.GreaterOrEqual(t, state.Version, uint16(tls.VersionTLS12))
		require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{Name: "S", Subjects: []string{"s"}}, 1), "JetStream answers")
		return state.PeerCertificates[0].SerialNumber.Int64()
	}
	require.EqualValues(t, 2, serial("tls://"))
	require.EqualValues(t, 2, serial("nats://"), "with an authority TLS is not a matter of the URL")

	for _, scheme := range []string{"tls://", "nats://"} {
		for name, file := range map[string]string{"no authority": "", "another authority": stranger.file} {
			_, err := connect(scheme, file, time.Second)
			require.ErrorIs(t, err, bus.ErrUnavailable, "%s, %s", scheme, name)
			require.ErrorIs(t, err, nats.ErrTLS, "%s, %s", scheme, name)
			require.ErrorContains(t, err, "unknown authority", "%s, %s", scheme, name)
		}
	}
	require.NotContains(t, plain(t, address), "PONG")

	target := trust.Target{URL: "tls://" + address, System: system, Admin: admin}
	require.ErrorIs(t, trust.Push(t.Context(), ring, target), nats.ErrTLS)
	target.CA = ca.file
	require.NoError(t, trust.Push(t.Context(), ring, target))

	// Old versions, for clients and for browsers.
	pool := x509.NewCertPool()
	pool.AddCert(ca.certificate)
	web := strings.TrimPrefix(s.WebsocketURL(), "wss://")
	for version, fine := range map[uint16]bool{tls.VersionTLS11: false, tls.VersionTLS12: true} {
		conn, err := (&tls.Dialer{Config: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: version}}).DialContext(t.Context(), "tcp", web)
		require.Equal(t, fine, err == nil, "websocket, version %x: %v", version, err)
		if err == nil {
			require.NoError(t, conn.Close())
		}
		nc, err := nats.Connect("tls://"+address, nats.UserCredentials(admin), nats.Secure(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS10, MaxVersion: version}))
		require.Equal(t, fine, err == nil, "version %x: %v", version, err)
		if err == nil {
			nc.Close()
		}
	}
}

// plain asks for an answer without TLS and returns all that is said.
func plain(t *testing.T, address string) string {
	t.Helper()
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(t.Context(), "tcp", address)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	reader := bufio.NewReader(conn)
	info, err := reader.ReadString('\n')
	require.NoError(t, err)
	require.Contains(t, info, `"tls_required":true`)
	_, err = conn.Write([]byte("CONNECT {\"verbose\":false}\r\nPING\r\n"))
	require.NoError(t, err)
	var said strings.Builder
	_, err = reader.WriteTo(&said) // until the server hangs up
	require.False(t, os.IsTimeout(err), "the server hangs up")
	return said.String()
}
