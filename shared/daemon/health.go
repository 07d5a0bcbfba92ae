package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Health collects named checks; a process is ready while none of them fails.
type Health struct {
	mu      sync.Mutex
	failing map[string]string
}

// NewHealth returns a Health in which nothing fails.
func NewHealth() *Health { return &Health{failing: map[string]string{}} }

// Set records the state of one check; nil means that it holds.
func (h *Health) Set(check string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.failing, check)
		return
	}
	h.failing[check] = err.Error()
}

// Ready is nil, or names the checks that fail.
func (h *Health) Ready() error {
	failing := h.snapshot()
	faults := make([]error, 0, len(failing))
	for _, name := range slices.Sorted(maps.Keys(failing)) {
		faults = append(faults, fmt.Errorf("%s: %s", name, failing[name]))
	}
	return errors.Join(faults...)
}

// Handler serves /healthz (the process lives), /readyz (it can do its work)
// and /metrics.
func (h *Health) Handler(reg *prometheus.Registry) *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, http.StatusOK, healthReply{Status: "ok"})
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if failing := h.snapshot(); len(failing) > 0 {
			answer(w, http.StatusServiceUnavailable, healthReply{Status: "unavailable", Failing: failing})
			return
		}
		answer(w, http.StatusOK, healthReply{Status: "ok"})
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	return mux
}

type healthReply struct {
	Status string `json:"status"`
	// PID tells whoever started the process that it is this one that answers.
	PID     int               `json:"pid"`
	Failing map[string]string `json:"failing,omitempty"`
}

func (h *Health) snapshot() map[string]string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return maps.Clone(h.failing)
}

func answer(w http.ResponseWriter, status int, reply healthReply) {
	reply.PID = os.Getpid()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(reply) // the peer may have gone
}
