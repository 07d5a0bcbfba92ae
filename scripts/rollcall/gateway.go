package rollcall

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"rollcall/shared/daemon"
)

const (
	// pageSize is the largest page there is.
	pageSize = "1000"
	// maxAnswer bounds what is read into memory: a page of a thousand rows with
	// their metadata is below 20 MB.
	maxAnswer = 256 << 20
	// retryPause is how long to wait before the same is asked again, unless the
	// gateway says.
	retryPause = 250 * time.Millisecond
	maxPause   = 5 * time.Second
)

// gateway asks the first of several gateways that answers. It belongs to one
// goroutine.
type gateway struct {
	urls    []string
	at      int
	token   string
	timeout time.Duration
	http    *http.Client
}

func newGateway(urls []string, token string, timeout time.Duration) *gateway {
	// One that hangs leaves the others their share of the time.
	share := timeout / time.Duration(len(urls))
	dialer := &net.Dialer{Timeout: share}
	return &gateway{urls: urls, token: token, timeout: timeout, http: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
			TLSHandshakeTimeout: share, ResponseHeaderTimeout: share,
		},
		// An answer comes from where it was asked: no token goes anywhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// close gives connections back.
func (g *gateway) close() { g.http.CloseIdleConnections() }

// url is the gateway that is asked next.
func (g *gateway) url() string { return g.urls[g.at] }

// fork asks the same gateways, for another goroutine.
func (g *gateway) fork() *gateway {
	other := newGateway(g.urls, g.token, g.timeout)
	other.at = g.at
	return other
}

// errPatience is the cause of giving up.
var errPatience = errors.New("no answer within")

// get decodes an answer into out, and waits as long as --timeout for a gateway
// that is able to give one.
func (g *gateway) get(ctx context.Context, path string, query url.Values, out any) error {
	ctx, cancel := context.WithTimeoutCause(ctx, g.timeout, fmt.Errorf("%w %s", errPatience, g.timeout))
	defer cancel()
	body, err := g.read(ctx, path, query)
	if err != nil {
		return err
	}
	if raw, ok := out.(*json.RawMessage); ok {
		*raw = body
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return failure(exitFailure, "GET %s: the answer makes no sense: %w", path, err)
	}
	return nil
}

// read asks until there is an answer that will not change by asking again. Where
// nobody listens it does not wait.
func (g *gateway) read(ctx context.Context, path string, query url.Values) ([]byte, error) {
	var last error
	for {
		response, err := g.open(ctx, path, query, nil) //nolint:bodyclose // readAll closes it
		var body []byte
		if err == nil {
			body, err = readAll(response)
		}
		if err != nil && last != nil && errors.Is(context.Cause(ctx), errPatience) {
			return nil, last // it says more than that the time is over
		}
		refused, ok := errors.AsType[*refusal](err)
		if err == nil || !ok || !refused.passes() {
			return body, err
		}
		if last = err; !daemon.Pause(ctx, refused.after()) {
			return nil, err
		}
	}
}

func readAll(response *http.Response) ([]byte, error) {
	defer func() { _ = response.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, &unreachable{err: fmt.Errorf("the answer broke off: %w", err)}
	case len(body) > maxAnswer:
		return nil, failure(exitFailure, "the answer is above %d MB", maxAnswer>>20)
	default:
		return body, nil
	}
}

// after is how long the gateway asks to wait.
func (r *refusal) after() time.Duration {
	if ms, ok := r.More["retry_after_ms"].(float64); ok && ms > 0 {
		return min(time.Duration(ms)*time.Millisecond, maxPause)
	}
	return retryPause
}

// open sends a request to each gateway in turn, beginning with the one that
// answered last. The error is a [*refusal], an [*unreachable] or ctx's own.
func (g *gateway) open(ctx context.Context, path string, query url.Values, header http.Header) (*http.Response, error) {
	var faults []error
	var refused error
	for range g.urls {
		response, err := g.ask(ctx, path, query, header)
		if err == nil {
			return response, nil
		}
		if ctx.Err() != nil && errors.Is(context.Cause(ctx), context.Canceled) {
			return nil, ctx.Err()
		}
		if r, ok := errors.AsType[*refusal](err); ok {
			if !r.passes() {
				return nil, err
			}
			refused = err
		}
		faults = append(faults, err)
		g.at = (g.at + 1) % len(g.urls)
	}
	if refused != nil {
		return nil, refused
	}
	return nil, &unreachable{err: errors.Join(faults...)}
}

func (g *gateway) ask(ctx context.Context, path string, query url.Values, header http.Header) (*http.Response, error) {
	address := strings.TrimSuffix(g.url(), "/") + path
	if len(query) > 0 {
		address += "?" + query.Encode()
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, fmt.Errorf("ask %s: %w", g.url(), err)
	}
	maps.Copy(request.Header, header)
	request.Header.Set("Authorization", "Bearer "+g.token)
	response, err := g.http.Do(request)
	if err != nil {
		return nil, g.fault(ctx, err)
	}
	if response.StatusCode == http.StatusOK {
		return response, nil
	}
	defer func() { _ = response.Body.Close() }()
	return nil, problemOf(path, response)
}

// fault says why a gateway gave no answer, in as few words as there are.
func (g *gateway) fault(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", g.url(), context.Cause(ctx))
	}
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err // it repeats the address, query included
	}
	return fmt.Errorf("%s: %w", g.url(), err)
}

// problemOf reads an answer that is none. What is no problem+json is quoted.
func problemOf(path string, response *http.Response) *refusal {
	const most = 64 << 10
	body, _ := io.ReadAll(io.LimitReader(response.Body, most)) // what there is of it
	r := &refusal{path: path}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "application/problem+json") && json.Unmarshal(body, r) == nil {
		r.Status = response.StatusCode
		return r
	}
	line, _, _ := bytes.Cut(bytes.TrimSpace(body), []byte("\n"))
	*r = refusal{path: path, Status: response.StatusCode, Detail: clip(string(line), 200)}
	return r
}

// page is what listings have in common.
type page struct {
	Items       []json.RawMessage `json:"items"`
	Total       int               `json:"total"`
	Next        string            `json:"next"`
	Cursor      string            `json:"cursor"`
	GeneratedAt time.Time         `json:"generated_at"`
}

// pages reads a listing to its end and gives each page to take. The first page's
// cursor is the one from which everything that the listing may lack follows. A
// page's next is the after of the one behind it, or what the listing calls that.
func (g *gateway) pages(ctx context.Context, path string, query url.Values, after string, take func(page) error) error {
	q := url.Values{"limit": {pageSize}}
	for key, values := range query {
		if values[0] != "" {
			q[key] = values
		}
	}
	for {
		var p page
		if err := g.get(ctx, path, q, &p); err != nil {
			return err
		}
		if err := take(p); err != nil {
			return err
		}
		if p.Next == "" {
			return nil
		}
		if p.Next == q.Get(after) {
			return failure(exitFailure, "GET %s: the listing does not go on behind %q", path, p.Next)
		}
		q.Set(after, p.Next)
	}
}
