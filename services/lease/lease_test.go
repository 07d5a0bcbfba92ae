package lease_test

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"

	"rollcall/services/lease"
	"rollcall/shared/bus/bustest"
	"rollcall/shared/daemon"
	"rollcall/subjects/access"
)

const soon = 45 * time.Second

// start runs a service and returns its base URL and what stops it and waits.
func start(t *testing.T, natsURL string) (base string, stop func()) {
	t.Helper()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	config := lease.Config{
		Common:    daemon.Common{NATSURL: natsURL, Replicas: 1, EventsMaxAge: time.Hour, ShutdownTimeout: 5 * time.Second},
		Retention: time.Minute, AckWait: 2 * time.Second, Lanes: 4,
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- lease.New(config, zerolog.Nop()).Run(ctx, listener) }()
	stop = func() {
		cancel()
		select {
		case err := <-ended:
			require.NoError(t, err)
		case <-time.After(soon):
			require.Fail(t, "the service does not stop")
		}
	}
	return "http://" + listener.Addr().String(), stop
}

func get(t *testing.T, url string) (status int, body string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
	require.NoError(t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	data, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return response.StatusCode, string(data)
}

func eventually(t *testing.T, url string, want int) {
	t.Helper()
	require.Eventually(t, func() bool {
		status, _ := get(t, url)
		return status == want
	}, soon, 20*time.Millisecond)
}

func TestStartsEnsuresAndStops(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	base, stop := start(t, server.URL())
	eventually(t, base+"/readyz", http.StatusOK)

	js := server.Connect(t).JS()
	for _, stream := range access.Streams(access.Lease, time.Hour) {
		got, err := js.Stream(t.Context(), stream.Name)
		require.NoError(t, err, stream.Name)
		require.Equal(t, stream.Subjects, got.CachedInfo().Config.Subjects)
	}
	for _, bucket := range access.Buckets(access.Lease) {
		_, err := js.KeyValue(t.Context(), bucket.Name)
		require.NoError(t, err, bucket.Name)
	}
	_, metrics := get(t, base+"/metrics")
	require.Contains(t, metrics, "rollcall_lease_nats_connected 1")
	stop()
}

func TestNATSGoesAndComesBack(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	base, stop := start(t, server.URL())
	eventually(t, base+"/readyz", http.StatusOK)

	server.Stop(t)
	eventually(t, base+"/readyz", http.StatusServiceUnavailable)
	status, _ := get(t, base+"/healthz")
	require.Equal(t, http.StatusOK, status, "alive without NATS")

	server.Restart(t)
	eventually(t, base+"/readyz", http.StatusOK)
	stop()
}

// TestJetStreamGoesAndComesBack takes JetStream away and leaves the connection.
func TestJetStreamGoesAndComesBack(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	base, stop := start(t, server.URL())
	eventually(t, base+"/readyz", http.StatusOK)

	server.StopJetStream(t)
	eventually(t, base+"/readyz", http.StatusServiceUnavailable)
	_, body := get(t, base+"/readyz")
	require.Contains(t, body, "JetStream does not answer")
	_, metrics := get(t, base+"/metrics")
	require.Contains(t, metrics, "rollcall_lease_nats_connected 0")

	server.Restart(t)
	eventually(t, base+"/readyz", http.StatusOK)
	_, metrics = get(t, base+"/metrics")
	require.Contains(t, metrics, "rollcall_lease_nats_connected 1")
	stop()
}

func TestStopsWhileWaitingForNATS(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	server.Stop(t)
	base, stop := start(t, server.URL())
	status, body := get(t, base+"/readyz")
	require.Equal(t, http.StatusServiceUnavailable, status)
	require.Contains(t, body, "starting")
	stop()
}

func TestMainRefusesBadSettings(t *testing.T) {
	t.Parallel()
	var stderr bytes.Buffer
	err := lease.Main(t.Context(), []string{"--listen", "nowhere", "--what", "--lease-retention", "1ms"}, nil, &stderr)
	var faults *daemon.SettingsError
	require.ErrorAs(t, err, &faults)
	require.Len(t, faults.Faults, 3)
	require.Empty(t, stderr.String())
}

func TestMainRunsUntilContextEnds(t *testing.T) {
	t.Parallel()
	server := bustest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	log := &firstReady{ready: make(chan struct{}, 1)}
	ended := make(chan error, 1)
	go func() {
		ended <- lease.Main(ctx, []string{"--nats-url", server.URL(), "--listen", "127.0.0.1:0"}, nil, log)
	}()
	select {
	case <-log.ready:
	case err := <-ended:
		require.Fail(t, "ended early", "%v", err)
	case <-time.After(soon):
		require.Fail(t, "never ready")
	}
	cancel()
	require.NoError(t, <-ended)
}

// firstReady is a log that notices the line that says ready.
type firstReady struct{ ready chan struct{} }

func (w *firstReady) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte(`"message":"ready"`)) {
		w.ready <- struct{}{}
	}
	return len(p), nil
}
