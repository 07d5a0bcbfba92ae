package token

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"rollcall/scripts/keys"
	"rollcall/subjects/access"
)

// listed is what the list says of one thing that was issued.
type listed struct {
	keys.Record
	// Kind is access, for a token, or nats, for credentials.
	Kind    string `json:"kind"`
	Revoked bool   `json:"revoked"`
	Expired bool   `json:"expired"`
}

func (l listed) good() bool { return !l.Revoked && !l.Expired }

// runList shows what was issued and is good now, or the keys that sign.
func runList(_ context.Context, args, env []string, stdout io.Writer) error {
	var (
		dir, tenant           string
		asJSON, withKeys, all bool
	)
	settings := newCommand("list")
	dirSetting(settings, &dir)
	settings.String(&tenant, "tenant", "", "only what was issued for this tenant")
	settings.Bool(&all, "all", false, "also what was revoked or has expired")
	settings.Bool(&asJSON, "json", false, "print JSON lines")
	settings.Bool(&withKeys, "keys", false, "show the keys that sign instead")
	if err := settings.Parse(args, env); err != nil {
		return err
	}
	ring, err := open(dir)
	if err != nil {
		return err
	}
	if withKeys {
		return listKeys(ring, asJSON, stdout)
	}
	issued, err := ring.Issued()
	if err != nil {
		return fmt.Errorf("token: list: %w", err)
	}
	var rows []listed
	ended := 0
	for _, e := range issued {
		if tenant != "" && e.Tenant != tenant {
			continue
		}
		row := listed{Record: e, Kind: kind(e.Role), Revoked: ring.Revoked(e), Expired: e.Expired(time.Now())}
		if !row.good() && !all {
			ended++
			continue
		}
		rows = append(rows, row)
	}
	if err := table(stdout, asJSON, "KIND\tTENANT\tAGENT\tROLE\tSCOPES\tEXPIRES\tSTATE\tID", rows, listed.row); err != nil || asJSON || ended == 0 {
		return err
	}
	return say(stdout, "%d revoked or expired: list --all", ended)
}

func kind(role access.Role) string {
	if role.Issues() {
		return "access"
	}
	return "nats"
}

func (l listed) row() []string {
	role := string(l.Role)
	if l.Kind == "access" {
		role = l.Peer
	}
	expires, state := "never", "good"
	if !l.ExpiresAt.IsZero() {
		expires = l.ExpiresAt.Format(time.RFC3339)
	}
	switch {
	case l.Revoked:
		state = "revoked"
	case l.Expired:
		state = "expired"
	}
	// The id is long, and the same for nobody: what is looked for comes before it.
	return []string{l.Kind, dash(l.Tenant), dash(l.Agent), role, dash(strings.Join(l.Scopes, ",")), expires, state, l.ID}
}

func listKeys(ring *keys.Ring, asJSON bool, stdout io.Writer) error {
	signers, err := ring.Signers()
	if err != nil {
		return fmt.Errorf("token: list: %w", err)
	}
	return table(stdout, asJSON, "ROLE\tKEY\tSIGNS", signers, func(s keys.Signer) []string {
		if s.Current {
			return []string{string(s.Role), s.Public, "yes"}
		}
		return []string{string(s.Role), s.Public, "no"}
	})
}

// table prints rows for people, or as JSON lines for programs.
func table[T any](stdout io.Writer, asJSON bool, head string, rows []T, cells func(T) []string) error {
	if asJSON {
		encoder := json.NewEncoder(stdout)
		for _, row := range rows {
			if err := encoder.Encode(row); err != nil {
				return fmt.Errorf("token: print: %w", err)
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(stdout, 0, 0, 2, ' ', 0)
	lines := []string{head}
	for _, row := range rows {
		lines = append(lines, strings.Join(cells(row), "\t"))
	}
	if _, err := fmt.Fprintln(w, strings.Join(lines, "\n")); err != nil {
		return fmt.Errorf("token: print: %w", err)
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("token: print: %w", err)
	}
	return nil
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}
