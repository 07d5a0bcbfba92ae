package bus_test

import (
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/shared/bus"
	"rollcall/shared/bus/bustest"
)

// writeCreds writes a creds file whose JWT has the given subject.
func writeCreds(t *testing.T, subject, seed string) string {
	t.Helper()
	payload := base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintf(`{"sub":%q}`, subject)))
	text := "-----BEGIN NATS USER JWT-----\ne30." + payload + ".c2ln\n------END NATS USER JWT------\n\n" +
		"-----BEGIN USER NKEY SEED-----\n" + seed + "\n------END USER NKEY SEED------\n"
	path := filepath.Join(t.TempDir(), "user.creds")
	require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	return path
}

func newUser(t *testing.T) (public, seed string) {
	t.Helper()
	pair, err := nkeys.CreateUser()
	require.NoError(t, err)
	public, err = pair.PublicKey()
	require.NoError(t, err)
	raw, err := pair.Seed()
	require.NoError(t, err)
	return public, string(raw)
}

func TestUserOf(t *testing.T) {
	t.Parallel()
	public, seed := newUser(t)
	user, err := bus.UserOf(writeCreds(t, public, seed))
	require.NoError(t, err)
	require.Equal(t, public, user)

	_, err = bus.UserOf(filepath.Join(t.TempDir(), "none"))
	require.ErrorIs(t, err, os.ErrNotExist)
	for _, subject := range []string{"", "*", "U.>", "U*", "A" + public[1:], "U x"} {
		path := writeCreds(t, subject, seed)
		_, err := bus.UserOf(path)
		require.ErrorContains(t, err, path)
		require.NotContains(t, err.Error(), seed)
	}
	garbage := filepath.Join(t.TempDir(), "garbage")
	require.NoError(t, os.WriteFile(garbage, []byte(seed), 0o600))
	_, err = bus.UserOf(garbage)
	require.Error(t, err)
	require.NotContains(t, err.Error(), seed)
}

func TestInboxOfOnesOwn(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	public, seed := newUser(t)
	creds := writeCreds(t, public, seed)
	for want, o := range map[string]bus.Options{
		"":                  {},
		"_INBOX_" + public:  {CredsFile: creds},
		"_INBOX_elsewhere":  {CredsFile: creds, InboxPrefix: "_INBOX_elsewhere"},
		"_INBOX_noidentity": {InboxPrefix: "_INBOX_noidentity"},
	} {
		o.URL, o.Log = server.URL(), zerolog.Nop()
		conn, err := bus.Connect(t.Context(), o)
		require.NoError(t, err)
		require.Equal(t, want, conn.NC().Opts.InboxPrefix)
		require.NoError(t, conn.EnsureStream(t.Context(), bus.Stream{Name: "S", Subjects: []string{"s"}}, 1), "answers arrive")
		require.NoError(t, conn.Close(t.Context()))
	}
	_, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), CredsFile: filepath.Join(t.TempDir(), "none"), Log: zerolog.Nop()})
	require.ErrorIs(t, err, os.ErrNotExist, "at once, and not when its time is up")
}

// TestFixedIsLeftAsItIs holds that whoever is not in charge makes what is
// missing and changes nothing.
func TestFixedIsLeftAsItIs(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	conn := server.Connect(t)
	config := func() jetstream.StreamConfig {
		stream, err := conn.JS().Stream(t.Context(), "S")
		require.NoError(t, err)
		return stream.CachedInfo().Config
	}
	want := bus.Stream{Name: "S", Subjects: []string{"s"}, MaxAge: time.Hour, Fixed: true}
	require.NoError(t, conn.EnsureStream(t.Context(), want, 1))
	require.Equal(t, time.Hour, config().MaxAge)
	want.MaxAge, want.Subjects = 2*time.Hour, []string{"s", "t"}
	require.NoError(t, conn.EnsureStream(t.Context(), want, 1))
	require.Equal(t, time.Hour, config().MaxAge)
	require.Equal(t, []string{"s"}, config().Subjects)
	want.Fixed = false
	require.NoError(t, conn.EnsureStream(t.Context(), want, 1))
	require.Equal(t, 2*time.Hour, config().MaxAge)

	want.Fixed, want.WorkQueue = true, true
	require.Error(t, conn.EnsureStream(t.Context(), want, 1), "one that does not fit is no good to anybody")

	bucket := bus.Bucket{Name: "B", MarkerTTL: time.Minute, Fixed: true}
	require.NoError(t, conn.EnsureBucket(t.Context(), bucket, 1))
	bucket.MarkerTTL = time.Hour
	require.NoError(t, conn.EnsureBucket(t.Context(), bucket, 1))
	stream, err := conn.JS().Stream(t.Context(), "KV_B")
	require.NoError(t, err)
	require.Equal(t, time.Minute, stream.CachedInfo().Config.SubjectDeleteMarkerTTL)
}

// TestLeaderReads holds that rows can be read without the right to have
// messages copied.
func TestLeaderReads(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	conn, err := bus.Connect(t.Context(), bus.Options{URL: server.URL(), LeaderReads: true, Log: zerolog.Nop()})
	require.NoError(t, err)
	t.Cleanup(conn.NC().Close)
	require.NoError(t, conn.EnsureBucket(t.Context(), bus.Bucket{Name: "B"}, 1))
	copies, err := conn.NC().SubscribeSync("$JS.API.DIRECT.GET.>")
	require.NoError(t, err)
	rows, err := conn.Bucket(t.Context(), "B")
	require.NoError(t, err)
	revision, err := rows.Save(t.Context(), "k", []byte("v"), 0, 0)
	require.NoError(t, err)
	entry, err := rows.Get(t.Context(), "k")
	require.NoError(t, err)
	require.Equal(t, "v", string(entry.Value))
	require.Equal(t, revision, entry.Revision)
	none, err := rows.Get(t.Context(), "none")
	require.NoError(t, err)
	require.False(t, none.Exists)
	asked, _, err := copies.Pending()
	require.NoError(t, err)
	require.Zero(t, asked)
}
