package gateway

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
	"unicode"

	"rollcall/services/gateway/internal/token"
	"rollcall/subjects"
	"rollcall/subjects/access"
)

// diagnosticsDoc is the body of GET /diagnostics: what whoever helps asks for first.
type diagnosticsDoc struct {
	GeneratedAt time.Time         `json:"generated_at"`
	Build       buildFacts        `json:"build"`
	Process     processFacts      `json:"process"`
	Settings    map[string]string `json:"settings"`
	Status      statusDoc         `json:"status"`
	Failing     string            `json:"failing,omitempty"`
	Streams     []streamFacts     `json:"streams"`
	Log         logFacts          `json:"log"`
}

type buildFacts struct {
	Version  string            `json:"version"`
	Go       string            `json:"go"`
	OS       string            `json:"os"`
	Arch     string            `json:"arch"`
	Revision string            `json:"revision,omitempty"`
	Modules  map[string]string `json:"modules"`
}

type processFacts struct {
	Goroutines  int    `json:"goroutines"`
	CPUs        int    `json:"cpus"`
	HeapBytes   uint64 `json:"heap_bytes"`
	SystemBytes uint64 `json:"system_bytes"`
	Collections uint32 `json:"collections"`
}

type streamFacts struct {
	Name      string    `json:"name"`
	Error     string    `json:"error,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	Messages  uint64    `json:"messages"`
	Bytes     uint64    `json:"bytes"`
	FirstSeq  uint64    `json:"first_seq"`
	LastSeq   uint64    `json:"last_seq"`
	FirstAt   time.Time `json:"first_at,omitzero"`
	LastAt    time.Time `json:"last_at,omitzero"`
	Consumers int       `json:"consumers"`
	Replicas  int       `json:"replicas"`
	MaxAgeMS  int64     `json:"max_age_ms"`
}

type logFacts struct {
	Lines []json.RawMessage `json:"lines"`
	// Withheld are lines that name another tenant, Dropped those there was no room for.
	Withheld int `json:"withheld"`
	Dropped  int `json:"dropped"`
}

// diagnosticsWait bounds what is asked of JetStream for one file.
const diagnosticsWait = 3 * time.Second

// getDiagnostics answers with one file to attach to a report. Settings come without
// secrets, log lines were redacted when they were written, and the whole is once more:
// a report goes to strangers.
func (g *Gateway) getDiagnostics(w http.ResponseWriter, r *http.Request) {
	bearer, ok := g.permitBare(w, r, token.ScopeOperatorRead)
	if !ok {
		return
	}
	data, err := json.MarshalIndent(g.diagnostics(r.Context(), bearer.Tenant), "", "  ")
	if err != nil {
		g.writeError(w, fmt.Errorf("encode diagnostics: %w", err))
		return
	}
	w.Header().Set("Content-Disposition", `attachment; filename="rollcall-diagnostics.json"`)
	writeJSON(w, http.StatusOK, "application/json", json.RawMessage(redact(data)))
}

func (g *Gateway) diagnostics(ctx context.Context, tenant string) diagnosticsDoc {
	ctx, cancel := context.WithTimeout(ctx, diagnosticsWait)
	defer cancel()
	var memory runtime.MemStats
	runtime.ReadMemStats(&memory)
	doc := diagnosticsDoc{
		GeneratedAt: time.Now().UTC(), Build: build(), Status: g.status(ctx, tenant),
		Process: processFacts{
			Goroutines: runtime.NumGoroutine(), CPUs: runtime.GOMAXPROCS(0),
			HeapBytes: memory.HeapAlloc, SystemBytes: memory.Sys, Collections: memory.NumGC,
		},
	}
	others := g.view.otherTenants(tenant)
	doc.Settings, doc.Log = settingsFor(g.cfg.shown, tenant, others), logFor(g.cfg.recent, tenant, others)
	g.checkHealth()
	if err := g.health.Ready(); err != nil {
		doc.Failing = err.Error()
	}
	for _, name := range access.DutyOf(access.Gateway).Reads {
		doc.Streams = append(doc.Streams, g.streamFacts(ctx, name))
	}
	return doc
}

func build() buildFacts {
	b := buildFacts{Version: Version, Go: runtime.Version(), OS: runtime.GOOS, Arch: runtime.GOARCH, Modules: map[string]string{}}
	info, known := debug.ReadBuildInfo()
	if !known {
		return b
	}
	for _, m := range info.Deps {
		b.Modules[m.Path] = m.Version
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			b.Revision = s.Value
		}
	}
	return b
}

func (g *Gateway) streamFacts(ctx context.Context, name string) streamFacts {
	f, err := g.conn.Facts(ctx, name)
	if err != nil {
		return streamFacts{Name: name, Error: err.Error()}
	}
	return streamFacts{
		Name: name, CreatedAt: f.Created.UTC(), Messages: f.Messages, Bytes: f.Bytes, FirstSeq: f.First, LastSeq: f.Last,
		FirstAt: f.FirstTime.UTC(), LastAt: f.LastTime.UTC(), Consumers: f.Consumers, Replicas: f.Replicas, MaxAgeMS: f.MaxAge.Milliseconds(),
	}
}

// settingsFor are the settings for a tenant. One whose value names another keeps it to
// itself: an origin, a file.
func settingsFor(shown map[string]string, tenant string, others map[string]bool) map[string]string {
	out := maps.Clone(shown)
	for name, value := range out {
		if namesOther([]byte(value), tenant, others) {
			out[name] = "[withheld]"
		}
	}
	return out
}

// logFor are the recent log lines for a tenant: those that name no other.
func logFor(recent *recentLog, tenant string, others map[string]bool) logFacts {
	lines, dropped := recent.read()
	out := logFacts{Lines: []json.RawMessage{}, Dropped: dropped}
	for _, line := range lines {
		if line = bytes.TrimSpace(line); !json.Valid(line) || namesOther(line, tenant, others) {
			out.Withheld++
			continue
		}
		out.Lines = append(out.Lines, line)
	}
	return out
}

// otherTenants are the tenants that this gateway has heard of, but for one and for
// rollcall's own.
func (v *view) otherTenants(tenant string) map[string]bool {
	v.mu.RLock()
	defer v.mu.RUnlock()
	out := map[string]bool{}
	for name := range v.tenants {
		if name != tenant && name != subjects.SystemTenant {
			out[name] = true
		}
	}
	return out
}

// tenantNamed are the places where a line names a tenant: a field of that name, a
// subject, a key, whatever it is of, and a key that an error quotes.
var tenantNamed = []*regexp.Regexp{ //nolint:gochecknoglobals // compiled once
	regexp.MustCompile(`(?:"tenant(?:_id)?":"|\btenant\.|"key":")([A-Za-z0-9_-]+)`),
	regexp.MustCompile(`"([A-Za-z0-9_-]+)\.(?:agent|instance|presence|lease|_closed|_moderator)\b`),
}

// namesOther reports whether a line names another tenant: where lines name tenants, or
// one that is known in any word. A tenant that is called like an ordinary word
// withholds more than it needs to, and so does one that a line cannot be told from.
func namesOther(line []byte, tenant string, others map[string]bool) bool {
	for _, place := range tenantNamed {
		for _, named := range place.FindAllSubmatch(line, -1) {
			if name := string(named[1]); name != tenant && name != subjects.SystemTenant {
				return true
			}
		}
	}
	return slices.ContainsFunc(bytes.FieldsFunc(line, betweenWords), func(word []byte) bool { return others[string(word)] })
}

func betweenWords(r rune) bool {
	return !unicode.IsLetter(r) && !unicode.IsDigit(r) && r != '-' && r != '_'
}
