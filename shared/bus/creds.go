package bus

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/nats-io/nkeys"
)

// UserOf returns the public key of the user that a creds file is for. It
// verifies nothing: that is the server's business. Its errors quote nothing of
// the file.
func UserOf(credsFile string) (string, error) {
	data, err := os.ReadFile(credsFile) //nolint:gosec // the operator names the file
	if err != nil {
		return "", fmt.Errorf("read creds: %w", err)
	}
	user, err := subjectOf(data)
	if err != nil {
		return "", fmt.Errorf("read creds %q: %w", credsFile, err)
	}
	return user, nil
}

var errNoUser = errors.New("no JWT of a user in it")

// subjectOf reads the subject of the JWT in a creds file. The parsers' errors
// may quote what they read, so they end here.
func subjectOf(creds []byte) (string, error) {
	token, err := nkeys.ParseDecoratedJWT(creds)
	parts := strings.Split(token, ".")
	if err != nil || len(parts) != 3 {
		return "", errNoUser
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return "", errNoUser
	}
	var claims struct {
		Subject string `json:"sub"`
	}
	if json.Unmarshal(payload, &claims) != nil || !strings.HasPrefix(claims.Subject, "U") || strings.ContainsAny(claims.Subject, ".*> ") {
		return "", errNoUser
	}
	return claims.Subject, nil
}
