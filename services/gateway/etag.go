package gateway

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
)

// writePage answers with a page that its reader may have already. The tag is of what
// the page lists; it is a weak one, for the page also says when it was made and at
// which cursor. Who is told that nothing changed keeps an older cursor, behind which
// come events that the page already tells of, and none is missed.
func (g *Gateway) writePage(w http.ResponseWriter, r *http.Request, page presencePage) {
	tag, err := page.tag()
	if err != nil {
		g.writeError(w, err)
		return
	}
	w.Header().Set("ETag", tag)
	w.Header().Set("Vary", "Authorization, Cookie")
	if tagMatches(r.Header.Values("If-None-Match"), tag) {
		w.Header().Set("Cache-Control", "private, no-cache")
		w.WriteHeader(http.StatusNotModified)
		return
	}
	writeCacheable(w, page)
}

// tag stands for the items, their total and what follows them.
func (p presencePage) tag() (string, error) {
	data, err := json.Marshal([]any{p.Items, p.Total, p.Next})
	if err != nil {
		return "", fmt.Errorf("encode page: %w", err)
	}
	sum := sha256.Sum256(data)
	return `W/"` + base64.RawURLEncoding.EncodeToString(sum[:12]) + `"`, nil
}

// tagMatches compares as If-None-Match does: weakly.
func tagMatches(headers []string, tag string) bool {
	for _, header := range headers {
		for one := range strings.SplitSeq(header, ",") {
			one = strings.TrimSpace(one)
			if one == "*" || strings.TrimPrefix(one, "W/") == strings.TrimPrefix(tag, "W/") {
				return true
			}
		}
	}
	return false
}
