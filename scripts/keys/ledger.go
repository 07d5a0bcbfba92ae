package keys

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"github.com/nats-io/jwt/v2"

	"rollcall/scripts/internal/file"
	"rollcall/subjects/access"
)

const ledgerFile = "issued.jsonl"

// Record says what was issued to whom. It holds nothing that lets anybody in.
type Record struct {
	ID      string      `json:"id"`
	Role    access.Role `json:"role"` // whose key signed it
	Subject string      `json:"subject"`
	Issuer  string      `json:"issuer"`
	Tenant  string      `json:"tenant,omitempty"`
	Agent   string      `json:"agent,omitempty"`
	// Peer is the role of an access token's bearer: client or node.
	Peer   string   `json:"peer,omitempty"`
	Name   string   `json:"name,omitempty"`
	Scopes []string `json:"scopes,omitempty"`
	// Device says that the subject is a device's key.
	Device    bool      `json:"device,omitempty"`
	IssuedAt  time.Time `json:"issued_at"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
}

// Expired reports whether it has ended by itself.
func (e Record) Expired(now time.Time) bool {
	return !e.ExpiresAt.IsZero() && !now.Before(e.ExpiresAt)
}

func recordOf(claims *jwt.UserClaims, role access.Role) Record {
	e := Record{
		ID: claims.ID, Role: role, Subject: claims.Subject, Issuer: claims.Issuer, Name: claims.Name,
		Device: role.Issues() && !claims.BearerToken, IssuedAt: time.Unix(claims.IssuedAt, 0).UTC(),
	}
	if claims.Expires != 0 {
		e.ExpiresAt = time.Unix(claims.Expires, 0).UTC()
	}
	for _, tag := range claims.Tags {
		switch kind, value, _ := strings.Cut(tag, ":"); kind {
		case "tenant":
			e.Tenant = value
		case "agent":
			e.Agent = value
		case "role":
			e.Peer = value
		case "scope":
			e.Scopes = append(e.Scopes, value)
		}
	}
	return e
}

// note adds a record. It is one write at the file's end, so that others may add
// theirs at the same time; one that a crash cut short is passed over.
func (r *Ring) note(e Record) error {
	data, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("note what was issued: %w", err)
	}
	unlock, err := r.lock(true)
	if err != nil {
		return err
	}
	defer unlock()
	ledger, err := os.OpenFile(r.path(ledgerFile), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note what was issued: %w", err)
	}
	_, err = ledger.Write(append(data, '\n'))
	return errors.Join(err, ledger.Close())
}

// Issued lists what was issued and has not been forgotten, oldest first.
func (r *Ring) Issued() ([]Record, error) {
	data, err := os.ReadFile(r.path(ledgerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read what was issued: %w", err)
	}
	var out []Record
	for scanner := bufio.NewScanner(bytes.NewReader(data)); scanner.Scan(); {
		var e Record
		if json.Unmarshal(scanner.Bytes(), &e) == nil {
			out = append(out, e)
		}
	}
	return out, nil
}

// prune drops records of what has expired and returns all that there were. The
// directory is locked. NB: a crash before the accounts forget the revocations of
// what was dropped leaves those there for good, which does no harm.
func (r *Ring) prune(now time.Time) ([]Record, error) {
	records, err := r.Issued()
	if err != nil {
		return nil, err
	}
	var kept bytes.Buffer
	dropped := false
	for _, e := range records {
		if e.Expired(now) {
			dropped = true
			continue
		}
		data, err := json.Marshal(e)
		if err != nil {
			return nil, fmt.Errorf("prune what was issued: %w", err)
		}
		kept.Write(append(data, '\n'))
	}
	if !dropped {
		return records, nil
	}
	return records, file.Replace(r.path(ledgerFile), kept.Bytes())
}
