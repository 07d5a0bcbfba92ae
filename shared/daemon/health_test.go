package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"
	"github.com/stretchr/testify/require"
)

func TestHealth(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	reg.MustRegister(prometheus.NewCounter(prometheus.CounterOpts{Name: "rollcall_test_total", Help: "x"}))
	h := NewHealth()
	handler := h.Handler(reg)
	ask := func(method, path string) (int, string) {
		rec := httptest.NewRecorder()
		handler.ServeHTTP(rec, httptest.NewRequestWithContext(t.Context(), method, path, nil))
		return rec.Code, rec.Body.String()
	}
	expect := func(path string, code int, body string) {
		t.Helper()
		gotCode, gotBody := ask(http.MethodGet, path)
		require.Equal(t, code, gotCode)
		require.JSONEq(t, strings.Replace(body, "{", fmt.Sprintf(`{"pid":%d,`, os.Getpid()), 1), gotBody)
	}

	require.NoError(t, h.Ready())
	expect("/readyz", 200, `{"status":"ok"}`)
	h.Set("nats", errors.New("unreachable"))
	h.Set("log", errors.New("behind"))
	require.EqualError(t, h.Ready(), "log: behind\nnats: unreachable")
	expect("/readyz", 503, `{"status":"unavailable","failing":{"nats":"unreachable","log":"behind"}}`)
	expect("/healthz", 200, `{"status":"ok"}`)
	h.Set("nats", nil)
	h.Set("log", nil)
	require.NoError(t, h.Ready())
	expect("/readyz", 200, `{"status":"ok"}`)

	code, body := ask(http.MethodGet, "/metrics")
	require.Equal(t, 200, code)
	require.Contains(t, body, "rollcall_test_total 0")
	code, _ = ask(http.MethodPost, "/healthz")
	require.Equal(t, http.StatusMethodNotAllowed, code)
}

func TestServe(t *testing.T) {
	t.Parallel()

	t.Run("lets a request under way finish", func(t *testing.T) {
		t.Parallel()
		ln := listen(t)
		entered, free := make(chan struct{}), make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			served <- Serve(ctx, ln, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				close(entered)
				<-free
				_, _ = io.WriteString(w, "done")
			}), zerolog.Nop())
		}()
		body := make(chan string, 1)
		go func() {
			defer close(body)
			client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+ln.Addr().String(), nil)
			if err != nil {
				return
			}
			res, err := client.Do(req)
			if err != nil {
				return
			}
			defer res.Body.Close()
			text, _ := io.ReadAll(res.Body)
			body <- string(text)
		}()
		<-entered
		cancel()
		require.Eventually(t, func() bool { // no new connection is taken
			c, err := net.DialTimeout("tcp", ln.Addr().String(), time.Second)
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		}, 5*time.Second, 5*time.Millisecond)
		close(free)
		require.Equal(t, "done", <-body)
		require.NoError(t, <-served)
	})

	t.Run("fails with its listener", func(t *testing.T) {
		t.Parallel()
		ln := listen(t)
		require.NoError(t, ln.Close())
		require.Error(t, Serve(t.Context(), ln, http.NotFoundHandler(), zerolog.Nop()))
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	var lc net.ListenConfig
	ln, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return ln
}
