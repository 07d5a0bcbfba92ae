package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/coder/websocket"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/stretchr/testify/require"

	"rollcall/subjects"
	"rollcall/subjects/access"
)

// The attack suite does what somebody would who means harm, with everything that
// somebody can have: no token, bad ones, good ones of another tenant, credentials
// for NATS, a great many sockets. Of each attack three things are asserted: that it
// is refused, that nothing of it is stored, and that every process lives.

// untouched runs an attack that must leave nothing in JetStream and no process
// dead. The stack must be quiet.
func (s *stack) untouched(t *testing.T, name string, do func()) {
	t.Helper()
	before := s.holdings(t)
	do()
	require.Equal(t, before, s.holdings(t), "%s left something in JetStream", name)
	s.intact(t, name)
}

// holdings is what every stream holds, but for the rows of gateways and those of
// rollcall itself in PRESENCE, which beat.
func (s *stack) holdings(t *testing.T) map[string]string {
	t.Helper()
	held := map[string]string{}
	names := []string{
		subjects.StreamEvents, subjects.StreamCommands, subjects.StreamEdge,
		access.BucketStream(subjects.BucketLeases), access.BucketStream(subjects.BucketSettings),
	}
	for _, name := range names {
		stream, err := s.conn().JS().Stream(t.Context(), name)
		require.NoError(t, err)
		info := stream.CachedInfo()
		held[name] = fmt.Sprintf("%d messages up to %d on %v", info.State.Msgs, info.State.LastSeq, info.Config.Subjects)
	}
	rows := map[string]uint64{}
	s.count(t, access.BucketStream(subjects.BucketPresence), "$KV."+subjects.BucketPresence+".>", rows)
	for subject := range rows {
		if strings.HasPrefix(subject, "$KV."+subjects.BucketPresence+"."+subjects.SystemTenant+".") {
			continue
		}
		entry, err := s.bucket(subjects.BucketPresence).Get(t.Context(), strings.TrimPrefix(subject, "$KV."+subjects.BucketPresence+"."))
		require.NoError(t, err)
		held[subject] = fmt.Sprintf("at %d", entry.Revision)
	}
	list := s.conn().JS().StreamNames(t.Context())
	all := slices.Sorted(func(yield func(string) bool) {
		for name := range list.Name() {
			if !yield(name) {
				return
			}
		}
	})
	require.NoError(t, list.Err())
	held["streams"] = strings.Join(all, " ")
	return held
}

// durables names the consumers that outlive their makers.
func (s *stack) durables(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, name := range []string{subjects.StreamEvents, subjects.StreamCommands} {
		stream, err := s.conn().JS().Stream(t.Context(), name)
		require.NoError(t, err)
		list := stream.ListConsumers(t.Context())
		for info := range list.Info() {
			if info.Config.Durable != "" {
				names = append(names, fmt.Sprintf("%s/%s %s %v", name, info.Name, info.Config.DeliverSubject, filters(info.Config)))
			}
		}
		require.NoError(t, list.Err())
	}
	slices.Sort(names)
	return names
}

func filters(c jetstream.ConsumerConfig) []string {
	if c.FilterSubject != "" {
		return []string{c.FilterSubject}
	}
	return c.FilterSubjects
}

// intact sees that the processes that up started are the same ones still, and
// ready.
func (s *stack) intact(t *testing.T, after string) {
	t.Helper()
	for _, id := range s.ids {
		require.False(t, id.gone(), "%s ended process %d", after, id.pid)
	}
	for _, url := range s.ownURLs() {
		await(t, url+" is ready after "+after, func() bool { return ready(t, url) })
	}
}

// ownURLs are those of the stack's processes.
func (s *stack) ownURLs() []string {
	var urls []string
	for _, g := range s.Gateways {
		urls = append(urls, g.URL)
	}
	for _, w := range append(slices.Clone(s.Presence), s.Lease...) {
		urls = append(urls, w.URL)
	}
	return urls
}

// knock offers a token to a socket and returns the close code. An offer may hold
// anything that a header may not.
func knock(t *testing.T, g gateway, header http.Header, protocols ...string) int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, g.WSURL, &websocket.DialOptions{Subprotocols: protocols, HTTPHeader: header}) //nolint:bodyclose // the library closes it
	require.NoError(t, err, "whatever the token is, the upgrade succeeds")
	defer func() { _ = conn.CloseNow() }()
	_, _, err = conn.Read(ctx)
	return int(websocket.CloseStatus(err))
}

// entryOf is a token as a browser offers it.
func entryOf(prefix, text string) string {
	return prefix + base64.RawURLEncoding.EncodeToString([]byte(text))
}

// call asks a gateway over HTTP.
func call(t *testing.T, method, url string, header http.Header) (status int, body string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, method, url, http.NoBody)
	require.NoError(t, err)
	maps.Copy(request.Header, header)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	if response.StatusCode >= http.StatusBadRequest {
		leaks.frame(data)
	}
	return response.StatusCode, string(data)
}

func bearer(text string) http.Header { return http.Header{"Authorization": {"Bearer " + text}} }

func mustJSON(t *testing.T, v any) []byte {
	t.Helper()
	data, err := json.Marshal(v)
	require.NoError(t, err)
	return data
}
