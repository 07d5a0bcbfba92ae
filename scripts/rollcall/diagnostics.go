package rollcall

import (
	"context"
	"encoding/json"

	"rollcall/scripts/internal/file"
)

// runDiagnostics takes the file that belongs to a report. The gateway leaves
// secrets out of it; what is there is still nobody else's business, so a file is
// the user's own.
func runDiagnostics(ctx context.Context, args, env []string, std Streams) error {
	var t target
	var path string
	s := settingsOf("diagnostics", &t)
	s.String(&path, "o", "", "file to write, instead of printing; what is there is replaced")
	g, err := t.open(s, args, env)
	if err != nil {
		return err
	}
	defer g.close()
	var raw json.RawMessage
	if err := g.get(ctx, "/diagnostics", nil, &raw); err != nil {
		return err
	}
	if !json.Valid(raw) {
		return failure(exitFailure, "GET /diagnostics: the answer makes no sense")
	}
	if path == "" {
		return jsonLine(std.Out, raw)
	}
	if err := file.Replace(path, append(raw, '\n')); err != nil {
		return failure(exitFailure, "-o: %w", err)
	}
	return line(std.Err, "rollcall: written to %s", clean(path))
}
