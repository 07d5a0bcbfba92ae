// Package ui is the operator's screens: a page that the gateway serves at /, built
// from src into dist and embedded, so that neither building nor running a gateway
// needs anything but Go.
//
// The page asks nothing of any other origin, and the policy that the gateway puts on
// every answer does not let it. `make ui` builds dist, and `make ui-check` holds it
// against src.
package ui

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"time"
)

//go:embed dist
var dist embed.FS

// Register adds the page to a gateway's paths: / itself, and what it loads. What keeps
// browsers in bounds is the gateway's to set, for these answers as for all others.
func Register(mux *http.ServeMux) error {
	index, err := fs.ReadFile(dist, "dist/index.html")
	if err != nil {
		return fmt.Errorf("read the page: %w", err)
	}
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, r *http.Request) {
		// The page names the assets of its own build, so an old one must not outlive it.
		serve(w, r, "index.html", "no-store", index)
	})
	files, err := fs.ReadDir(dist, "dist/assets")
	if err != nil {
		return fmt.Errorf("read the page's assets: %w", err)
	}
	for _, file := range files {
		content, err := fs.ReadFile(dist, path.Join("dist/assets", file.Name()))
		if err != nil {
			return fmt.Errorf("read the page's assets: %w", err)
		}
		mux.HandleFunc("GET /assets/"+file.Name(), func(w http.ResponseWriter, r *http.Request) {
			// The name changes with the content.
			serve(w, r, file.Name(), "public, max-age=31536000, immutable", content)
		})
	}
	return nil
}

func serve(w http.ResponseWriter, r *http.Request, name, caching string, content []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType(name))
	h.Set("Cache-Control", caching)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

// contentType does not ask the system, whose tables differ.
func contentType(name string) string {
	switch path.Ext(name) {
	case ".js":
		return "text/javascript; charset=utf-8"
	case ".css":
		return "text/css; charset=utf-8"
	case ".svg":
		return "image/svg+xml"
	case ".html":
		return "text/html; charset=utf-8"
	default:
		return mime.TypeByExtension(path.Ext(name))
	}
}
