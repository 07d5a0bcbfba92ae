package gateway

import (
	"net/http"

	"rollcall/subjects"
)

// refusable keeps what other code refuses a request with to its status, so that the
// answer can be a problem as every other: the router and the WebSocket library write
// plain text. Everything else passes.
type refusable struct {
	http.ResponseWriter

	// status is 0 while nothing was refused.
	status int
}

// Unwrap lets [http.ResponseController] take the connection over.
func (w *refusable) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// WriteHeader implements http.ResponseWriter.
func (w *refusable) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		w.status = status
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *refusable) Write(p []byte) (int, error) {
	if w.status != 0 {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}

// refuse answers in the place of whoever refused, if somebody did. What a header
// says, such as Allow, stays.
func refuse(w *refusable, p *subjects.Problem) {
	if w.status != 0 {
		w.Header().Del("Content-Length")
		writeProblem(w.ResponseWriter, w.status, p)
	}
}

// noRoute is a problem with a request that no route takes.
func noRoute(w *refusable) *subjects.Problem {
	switch w.status {
	case http.StatusNotFound:
		return &subjects.Problem{Code: subjects.CodeNotFound, Message: "there is nothing at this path"}
	case http.StatusMethodNotAllowed:
		return subjects.Invalid("method", "must be one of "+w.Header().Get("Allow"))
	default:
		return subjects.Invalid("", "is no request that this gateway takes")
	}
}

// noUpgrade is a problem with a request for a socket that is none.
func noUpgrade(w *refusable) *subjects.Problem {
	switch w.status {
	case http.StatusUpgradeRequired:
		return subjects.Invalid("Upgrade", "must ask for websocket, over HTTP/1.1")
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodGet)
		return subjects.Invalid("method", "must be GET")
	case http.StatusBadRequest:
		if version := w.Header().Get("Sec-WebSocket-Version"); version != "" { // so the library says what it speaks
			return subjects.Invalid("Sec-WebSocket-Version", "must be "+version)
		}
		return subjects.Invalid("Sec-WebSocket-Key", "must be one of 16 bytes")
	default:
		return &subjects.Problem{Code: subjects.CodeInternalError, Message: "the gateway could not open the socket"}
	}
}
