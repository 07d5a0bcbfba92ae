package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/rs/zerolog"
)

// certificate is the one in a pair of files, read again when one of them has changed.
// A pair that cannot be read, such as one that is half replaced, leaves the last good
// one in force.
type certificate struct {
	certFile, keyFile string
	log               zerolog.Logger

	mu     sync.Mutex
	loaded *tls.Certificate
	// cert and key are when the files were changed that were tried last.
	cert, key time.Time
}

// newTLS is how peers are spoken to; nil where there is no certificate.
func newTLS(certFile, keyFile string, log zerolog.Logger) (*tls.Config, error) {
	if certFile == "" {
		return nil, nil
	}
	c := &certificate{certFile: certFile, keyFile: keyFile, log: log}
	if err := c.refresh(); err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: c.get}, nil
}

// get implements tls.Config.GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.refresh(); err != nil {
		c.log.Error().Err(err).Msg("certificate refused; the last good one stays")
	}
	return c.loaded, nil
}

// refresh reads the files if one is not as it was.
func (c *certificate) refresh() error {
	cert, err := os.Stat(c.certFile)
	if err != nil {
		return fmt.Errorf("read certificate: %w", err)
	}
	key, err := os.Stat(c.keyFile)
	if err != nil {
		return fmt.Errorf("read key of certificate: %w", err)
	}
	if cert.ModTime().Equal(c.cert) && key.ModTime().Equal(c.key) {
		return nil
	}
	c.cert, c.key = cert.ModTime(), key.ModTime()
	loaded, err := tls.LoadX509KeyPair(c.certFile, c.keyFile)
	if err != nil {
		// The parser's error may describe key material.
		return fmt.Errorf("read certificate: %s and %s are no pair in PEM", c.certFile, c.keyFile)
	}
	c.loaded = &loaded
	return nil
}

// checkTLS refuses half a pair.
func (c *Config) checkTLS() error {
	if (c.TLSCert == "") != (c.TLSKey == "") {
		return errors.New("goes with tls-key, and tls-key with it")
	}
	return nil
}
