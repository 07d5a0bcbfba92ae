package gateway

import (
	_ "embed"
	"net/http"
)

// openAPI describes everything that is answered over HTTP. A test holds it and the
// handlers to each other.
//
//go:embed openapi.yaml
var openAPI []byte

func (g *Gateway) getOpenAPI(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/yaml")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(openAPI) // the peer may have gone
}
