package ui_test

import (
	"net/http"
	"net/http/httptest"
	"regexp"
	"testing"

	"github.com/stretchr/testify/require"

	"rollcall/services/gateway/ui"
)

func get(t *testing.T, method, path string) *httptest.ResponseRecorder {
	t.Helper()
	mux := http.NewServeMux()
	require.NoError(t, ui.Register(mux))
	w := httptest.NewRecorder()
	mux.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
	return w
}

func TestPageIsNotKeptAndNamesNoOtherOrigin(t *testing.T) {
	w := get(t, http.MethodGet, "/")
	require.Equal(t, http.StatusOK, w.Code)
	require.Equal(t, "text/html; charset=utf-8", w.Header().Get("Content-Type"))
	require.Equal(t, "no-store", w.Header().Get("Cache-Control"))
	require.NotContains(t, w.Body.String(), "http://")
	require.NotContains(t, w.Body.String(), "https://")
}

func TestAssetsAreKeptForEver(t *testing.T) {
	page := get(t, http.MethodGet, "/").Body.String()
	named := regexp.MustCompile(`"(/assets/[^"]+)"`).FindAllStringSubmatch(page, -1)
	require.Len(t, named, 3, "a script, a style and an icon")
	kinds := map[string]bool{}
	for _, match := range named {
		require.Regexp(t, `^/assets/[a-z]+-[A-Z0-9]{8}\.(js|css|svg)$`, match[1])
		w := get(t, http.MethodGet, match[1])
		require.Equal(t, http.StatusOK, w.Code, match[1])
		require.Equal(t, "public, max-age=31536000, immutable", w.Header().Get("Cache-Control"))
		require.NotEmpty(t, w.Body.Bytes())
		kinds[w.Header().Get("Content-Type")] = true
		require.Equal(t, w.Body.Len(), get(t, http.MethodGet, match[1]).Body.Len())
	}
	require.Equal(t, map[string]bool{"text/javascript; charset=utf-8": true, "text/css; charset=utf-8": true, "image/svg+xml": true}, kinds)
}

func TestNothingElseIsThere(t *testing.T) {
	for _, path := range []string{"/fleet", "/index.html", "/dist/index.html", "/assets/", "/assets/main.js", "/assets/..%2findex.html", "/favicon.ico"} {
		require.Equal(t, http.StatusNotFound, get(t, http.MethodGet, path).Code, path)
	}
	require.Equal(t, http.StatusMethodNotAllowed, get(t, http.MethodPost, "/").Code)
}
