package lease

import (
	"encoding/json"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"rollcall/subjects"
)

// asked waits for the n-th question to a moderator and returns the lease.
func (p *peer) asked(n int) subjects.LeaseRow {
	p.stage.t.Helper()
	p.stage.eventually(func() bool {
		return len(received[subjects.EdgeRequest](p.stage, p.peer.ConnectionID)) >= n
	}, "the moderator is not asked")
	question := received[subjects.EdgeRequest](p.stage, p.peer.ConnectionID)[n-1]
	require.Equal(p.stage.t, subjects.TypeLeaseAuthorize, question.Type)
	var payload subjects.LeaseResult
	require.NoError(p.stage.t, json.Unmarshal(question.Payload, &payload))
	return payload.Lease
}

func TestModeratorDecides(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	s.start()
	s.policies(subjects.LeasePolicy{Prefix: "ask/", Policy: subjects.PolicyHook, HookTimeoutMS: new(int64(20_000))})
	wide, narrow, stranger := s.moderator(), s.moderator(), s.moderator()
	ok[struct{}](wide, "moderate", "", subjects.LeaseModerate{Resources: []string{"ask/"}})
	ok[struct{}](narrow, "moderate", "", subjects.LeaseModerate{Resources: []string{"mail", "ask/repo/"}})
	ok[struct{}](stranger, "moderate", "", subjects.LeaseModerate{Resources: []string{"shell"}})
	ada := s.peer("ada")
	verdict := func(lease, decision, reason string) subjects.LeaseResolve {
		return subjects.LeaseResolve{LeaseID: lease, AgentID: "ada", Verdict: decision, Reason: reason, TimeoutMS: new(int64(30_000))}
	}

	lease, state := ada.request("ask/repo/site", 0)
	require.Equal(t, subjects.LeasePending, state)
	row := narrow.asked(1)
	require.Equal(t, lease, row.LeaseID)
	require.Equal(t, "ask/repo/site", row.Resource)
	require.Empty(t, received[subjects.EdgeRequest](s, wide.peer.ConnectionID), "one moderator is asked")
	question := received[subjects.EdgeRequest](s, narrow.peer.ConnectionID)[0]
	require.Equal(t, int64(20_000), question.TimeoutMS)

	details := stranger.refused(subjects.CodeForbidden, "resolve", lease, verdict(lease, "grant", ""))
	require.Equal(t, map[string]any{"scope": "lease.moderate"}, details)
	ada.refused(subjects.CodeForbidden, "resolve", lease, verdict(lease, "grant", ""))
	narrow.refused(subjects.CodeLeaseNotFound, "resolve", lease, subjects.LeaseResolve{LeaseID: lease, AgentID: "bob", Verdict: "grant"})

	got := ok[subjects.LeaseResult](narrow, "resolve", lease, verdict(lease, "grant", "fine"))
	require.Equal(t, &subjects.Verdict{Decision: "grant", Reason: "fine", By: narrow.peer.InstanceID}, got.Lease.Verdict)
	require.Equal(t, got.Lease.ResolvedAt.Add(30e9), got.Lease.ExpiresAt)
	narrow.refused(subjects.CodeLeaseInvalid, "resolve", lease, verdict(lease, "deny", ""))
	s.eventually(func() bool { return slices.Equal(ada.told(), []string{granted}) }, "the requester does not hear")
	fence := ada.claim(lease)
	ok[subjects.LeaseOutcome](ada, "finalize", lease, subjects.LeaseFinalize{LeaseID: lease, Fence: fence})
	s.eventually(func() bool { return slices.Equal(narrow.told(), []string{consumed}) }, "the moderator does not hear")

	second, _ := ada.request("ask/repo/2", 0)
	ok[subjects.LeaseResult](narrow, "resolve", second, verdict(second, "deny", "no"))
	s.tells(second, requested, denied)
	require.Equal(t, "no", s.row("ada", second).Verdict.Reason)

	third, _ := ada.request("ask/repo/3", 0)
	ok[subjects.LeaseResult](narrow, "resolve", third, subjects.LeaseResolve{LeaseID: third, AgentID: "ada", Verdict: "hold", HoldMS: new(int64(60_000))})
	again := ok[subjects.LeaseResult](s.peer("ada"), "retry", third, subjects.LeaseRetry{LeaseID: third})
	require.Equal(t, subjects.LeasePending, again.Lease.State)
	require.Equal(t, third, narrow.asked(4).LeaseID)
	// A moderator that was not asked may answer as well.
	ok[subjects.LeaseResult](wide, "resolve", third, verdict(third, "grant", ""))
	s.tells(third, requested, held, requested, granted)
	require.Equal(t, []string{granted, denied, held, granted}, ada.told())

	// A moderator that is gone is neither asked nor told.
	wide.close()
	s.eventually(func() bool {
		entry, err := s.rows.Get(t.Context(), subjects.ModeratorKey("acme", wide.peer.ConnectionID))
		return err == nil && !entry.Exists
	}, "the moderator stays")
	ada.claim(third)
	ok[subjects.LeaseOutcome](ada, "finalize", third, subjects.LeaseFinalize{LeaseID: third, Fence: 1})
	_, state = ada.request("ask/other", 0)
	require.Equal(t, subjects.LeaseDenied, state)
	require.Empty(t, wide.told())
	// A moderate that was under way when its connection closed.
	details = wide.refused(subjects.CodeUnavailable, "moderate", "", subjects.LeaseModerate{Resources: []string{"ask/"}})
	require.Positive(t, details["retry_after_ms"])
	_, state = ada.request("ask/other", 0)
	require.Equal(t, subjects.LeaseDenied, state)
}

func TestHookTimesOut(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.start()
	s.policies(subjects.LeasePolicy{Prefix: "", Policy: subjects.PolicyHook, HookTimeoutMS: new(int64(300))})
	ada := s.peer("ada")
	lease, state := ada.request("x", 0)
	require.Equal(t, subjects.LeaseDenied, state)
	require.Equal(t, &subjects.Verdict{Decision: "deny", Reason: "moderator_unavailable", By: "policy"}, s.row("ada", lease).Verdict)

	mod := s.moderator()
	ok[struct{}](mod, "moderate", "", subjects.LeaseModerate{Resources: []string{""}})
	silent, _ := ada.request("x", 0)
	row := s.becomes("ada", silent, subjects.LeaseDenied)
	require.Equal(t, &subjects.Verdict{Decision: "deny", Reason: "timeout", By: "policy"}, row.Verdict)
	s.tells(silent, requested, denied)
	mod.refused(subjects.CodeLeaseInvalid, "resolve", silent, subjects.LeaseResolve{LeaseID: silent, AgentID: "ada", Verdict: "grant"})

	heldOne, _ := ada.request("x", 0)
	ok[subjects.LeaseResult](mod, "resolve", heldOne, subjects.LeaseResolve{LeaseID: heldOne, AgentID: "ada", Verdict: "hold", HoldMS: new(int64(300))})
	require.Equal(t, subjects.LeaseReasonHoldDeadline, s.becomes("ada", heldOne, subjects.LeaseExpired).Reason)
}

// TestSettingThatWasNeverReadable starts a process while a setting is bad. What
// it was to forbid is not known, so nothing is granted.
func TestSettingThatWasNeverReadable(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set(`{"policies":[{"prefix":"repo","policy":"den`)
	p := s.start()
	ada := s.peer("ada")
	lease, state := ada.request("repo", 0)
	require.Equal(t, subjects.LeaseDenied, state)
	require.Equal(t, &subjects.Verdict{Decision: "deny", Reason: "policy unreadable", By: "policy"}, s.row("ada", lease).Verdict)
	foreign := s.peer("ada")
	foreign.tenant = "globex"
	_, state = foreign.request("repo", 0)
	require.Equal(t, subjects.LeaseGranted, state, "a tenant without a setting")

	entry, err := s.settings.Get(t.Context(), subjects.SettingsKey("acme", "lease"))
	require.NoError(t, err)
	require.NoError(t, s.settings.Purge(t.Context(), entry.Key, entry.Revision, nil))
	s.eventually(func() bool { return len(p.settings.get("acme").Policies) == 0 }, "setting stays")
	_, state = ada.request("repo", 0)
	require.Equal(t, subjects.LeaseGranted, state)
}

func TestSettingsLive(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	s.set(`{"policies":[{"prefix":"repo","policy":"deny","reason":"closed"}]}`)
	p := s.start()
	ada := s.peer("ada")
	lease, state := ada.request("repo", 0)
	require.Equal(t, subjects.LeaseDenied, state, "a process that starts knows the settings before it works")
	require.Equal(t, "closed", s.row("ada", lease).Verdict.Reason)

	for i, bad := range []string{
		`{"policies":[{"prefix":"repo","policy":"allow"}]}`, `{"policies":[{"prefix":"repo","policy":"grant","unknown":1}]}`,
		`{"policies":[{"prefix":"repo","policy":"grant","lease_timeout_ms":0}]}`, `[]`, `{"policies":[{"prefix":"a","policy":"grant"},{"prefix":"a","policy":"deny"}]}`,
	} {
		s.set(bad)
		// A good setting of another tenant behind it tells when the bad one was seen.
		tenant := fmt.Sprintf("other%d", i)
		_, err := s.settings.Save(t.Context(), subjects.SettingsKey(tenant, "lease"), []byte(`{"policies":[{"prefix":"","policy":"grant"}]}`), 0, 0)
		require.NoError(t, err)
		s.eventually(func() bool { return len(p.settings.get(tenant).Policies) == 1 }, "setting not taken")
		_, state = ada.request("repo", 0)
		require.Equal(t, subjects.LeaseDenied, state, bad)
	}
	s.policies(subjects.LeasePolicy{Prefix: "repo", Policy: subjects.PolicyGrant})
	_, state = ada.request("repo", 0)
	require.Equal(t, subjects.LeaseGranted, state)

	s.policies(subjects.LeasePolicy{Prefix: "", Policy: subjects.PolicyDeny})
	_, state = ada.request("repo", 0)
	require.Equal(t, subjects.LeaseDenied, state)
	entry, err := s.settings.Get(t.Context(), subjects.SettingsKey("acme", "lease"))
	require.NoError(t, err)
	require.NoError(t, s.settings.Purge(t.Context(), entry.Key, entry.Revision, nil))
	s.eventually(func() bool { return len(p.settings.get("acme").Policies) == 0 }, "setting stays")
	_, state = ada.request("repo", 0)
	require.Equal(t, subjects.LeaseGranted, state)
}

// TestLateModerateLooksAfterItsRow has a connection close between the row of its
// moderate and the look at its tombstone, at which the process died, and the command come
// again when its peer is not waiting any more.
func TestLateModerateLooksAfterItsRow(t *testing.T) {
	t.Parallel()
	s := newStage(t)
	p := s.start()
	gone := s.moderator()
	gone.close()
	s.eventually(func() bool {
		closed, err := p.isClosed(t.Context(), "acme", gone.peer.ConnectionID)
		return err == nil && closed
	}, "no tombstone")
	key := subjects.ModeratorKey("acme", gone.peer.ConnectionID)
	value, err := json.Marshal(subjects.ModeratorRow{ConnectionID: gone.peer.ConnectionID, Resources: []string{"repo"}})
	require.NoError(t, err)
	_, err = s.rows.Save(t.Context(), key, value, 0, 0)
	require.NoError(t, err)
	m, id := gone.command(subjects.CommandModerate, "", subjects.LeaseModerate{Resources: []string{"repo"}})
	d := s.delivery(m, 1)
	d.Attempt, d.Time = 2, time.Now().Add(-2*patience)
	require.NoError(t, p.handle(t.Context(), d))
	require.Equal(t, subjects.CodeUnavailable, s.reply(id).Error.Code)
	entry, err := s.rows.Get(t.Context(), key)
	require.NoError(t, err)
	require.False(t, entry.Exists, "a moderator that is gone")
}
