// Package trust takes the accounts of a stack to where they are obeyed: to the
// NATS server, which lets in whom they vouch for, and to the row of SETTINGS
// that gateways follow to know whose access tokens count.
//
// Both verify the operator's signature, so nothing depends on who delivers it.
package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"rollcall/scripts/keys"
	"rollcall/shared/bus"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// URLFile is the file in a stack's directory that says where its NATS is.
const URLFile = "nats.url"

const (
	// claimsUpdate is where a server takes accounts.
	claimsUpdate = "$SYS.REQ.CLAIMS.UPDATE"
	connectTime  = 5 * time.Second
	requestTime  = 5 * time.Second
	attempts     = 10
)

// Target is a NATS server, and who to be there.
type Target struct {
	URL string
	// CA is the file with who vouches for the server, as for [bus.Options].
	CA string
	// System and Admin are creds files; empty where the server asks for none.
	System, Admin string
	// Replicas is what SETTINGS gets if it is not there yet; 0 is one.
	Replicas int
}

// Push takes all accounts to the server, if it is one that lets in by them, and
// the one that everything lives in to SETTINGS. It returns when both have it.
func Push(ctx context.Context, ring *keys.Ring, t Target) error {
	if t.System != "" {
		if err := pushServer(ctx, ring, t); err != nil {
			return fmt.Errorf("tell NATS at %s: %w", t.URL, err)
		}
	}
	if err := PushSettings(ctx, ring, t); err != nil {
		return fmt.Errorf("tell the gateways: %w", err)
	}
	return nil
}

// pushServer takes the accounts to the server. One that asks nobody who he is
// has no use for them.
func pushServer(ctx context.Context, ring *keys.Ring, t Target) error {
	user, err := bus.UserOf(t.System)
	if err != nil {
		return err
	}
	options := []nats.Option{
		nats.Name("rollcall token"), nats.UserCredentials(t.System), nats.CustomInboxPrefix(access.InboxPrefix(user)), nats.Timeout(connectTime),
	}
	if t.CA != "" {
		options = append(options, nats.RootCAs(t.CA))
	}
	nc, err := nats.Connect(t.URL, options...)
	if err != nil {
		return err
	}
	defer nc.Close()
	if !nc.AuthRequired() {
		return nil
	}
	accounts, err := ring.AccountJWTs()
	if err != nil {
		return err
	}
	for public, account := range accounts {
		if err := update(ctx, nc, account); err != nil {
			return fmt.Errorf("update account %s: %w", public, err)
		}
	}
	return nil
}

// update sends one account and reads what becomes of it.
func update(ctx context.Context, nc *nats.Conn, account string) error {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	reply, err := nc.RequestWithContext(ctx, claimsUpdate, []byte(account))
	if errors.Is(err, nats.ErrNoResponders) {
		return errors.New("the server takes no accounts; its resolver has to be of type full")
	}
	if err != nil {
		return err
	}
	var answer struct {
		Error *struct {
			Description string `json:"description"`
		} `json:"error"`
	}
	if err := json.Unmarshal(reply.Data, &answer); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if answer.Error != nil {
		return errors.New(answer.Error.Description)
	}
	return nil
}

// PushSettings takes the account to the row that gateways follow. An older
// version never takes the place of a newer one.
func PushSettings(ctx context.Context, ring *keys.Ring, t Target) error {
	text, err := ring.AccountJWT()
	if err != nil {
		return err
	}
	conn, err := bus.Connect(ctx, bus.Options{URL: t.URL, Name: "rollcall token", CAFile: t.CA, CredsFile: t.Admin, Log: zerolog.Nop()})
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }() // nothing is under way
	settings := subjects.Buckets()
	at := slices.IndexFunc(settings, func(b subjects.Bucket) bool { return b.Name == subjects.BucketSettings })
	bucket := settings[at]
	bucket.Fixed = true // one that is there is the services' business
	if err := conn.EnsureBucket(ctx, bus.Bucket(bucket), max(t.Replicas, 1)); err != nil {
		return err
	}
	rows, err := conn.Bucket(ctx, subjects.BucketSettings)
	if err != nil {
		return err
	}
	return put(ctx, rows, text)
}

func put(ctx context.Context, rows *bus.KV, text string) error {
	for range attempts {
		entry, err := rows.Get(ctx, subjects.SettingsAccount)
		if err != nil {
			return err
		}
		newer, err := replaces(text, string(entry.Value))
		if err != nil || !newer {
			return err
		}
		_, err = rows.Save(ctx, subjects.SettingsAccount, []byte(text), entry.Revision, 0)
		if !errors.Is(err, bus.ErrConflict) {
			return err
		}
	}
	return bus.ErrConflict
}

// replaces reports whether a version of the account takes the place of what is
// there. What is no version of it is replaced.
func replaces(text, there string) (bool, error) {
	ours, err := jwt.DecodeAccountClaims(text)
	if err != nil {
		return false, fmt.Errorf("read account: %w", err)
	}
	theirs, err := jwt.DecodeAccountClaims(there)
	ofOurs := err == nil && theirs.Subject == ours.Subject && theirs.Issuer == ours.Issuer
	if !ofOurs {
		return true, nil
	}
	if access.VersionOf(ours.IssuedAt, ours.Tags).Before(access.VersionOf(theirs.IssuedAt, theirs.Tags)) {
		return false, errors.New("a newer version of the account is there; this directory is a copy that was left behind")
	}
	return text != there, nil
}
