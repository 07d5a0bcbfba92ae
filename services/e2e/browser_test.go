package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// screen is a page in a browser, and everything it complained of and asked for.
type screen struct {
	t      *testing.T
	ctx    context.Context //nolint:containedctx // the browser lives in it
	origin string

	mu         sync.Mutex
	complaints []string
	asked      []string
}

// openBrowser starts a browser of its own for a test. The test is skipped where
// there is none, which scripts/browser.sh has given a reason for.
func openBrowser(t *testing.T, g gateway, width, height int) *screen {
	t.Helper()
	var binary string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if found, err := exec.LookPath(name); err == nil {
			binary = found
			break
		}
	}
	if binary == "" {
		t.Skip("no Chromium: scripts/browser.sh installs it, or says why it cannot")
	}
	options := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(binary), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.WindowSize(width, height),
		chromedp.UserDataDir(filepath.Join(t.TempDir(), "browser")), chromedp.WSURLReadTimeout(patience),
		chromedp.Flag("disable-dev-shm-usage", true),
	)
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(), options...)
	s := &screen{t: t, origin: g.URL}
	ctx, stop := chromedp.NewContext(allocator, chromedp.WithListener(s.note))
	t.Cleanup(func() {
		stop() // waits for the browser
		stopAllocator()
	})
	s.ctx = ctx
	require.NoError(t, chromedp.Do(ctx, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		if _, err := cdp.Call(ctx, target, network.Enable, network.EnableParams{}); err != nil {
			return err
		}
		_, err := cdp.Call(ctx, target, cdplog.Enable, cdp.Empty{})
		return err
	})))
	return s
}

// note keeps what the page asks for and complains of.
func (s *screen) note(e any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch e := e.(type) {
	case *network.EventRequestWillBeSent:
		s.asked = append(s.asked, e.Request.URL)
	case *network.EventWebSocketCreated:
		s.asked = append(s.asked, e.URL)
	case *runtime.EventExceptionThrown:
		s.complaints = append(s.complaints, "exception: "+exception(e.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		if e.Type == runtime.ConsoleAPICalledTypeError || e.Type == runtime.ConsoleAPICalledTypeWarning {
			var words []string
			for _, arg := range e.Args {
				words = append(words, string(arg.Value)+arg.Description)
			}
			s.complaints = append(s.complaints, "console: "+strings.Join(words, " "))
		}
	case *cdplog.EventEntryAdded:
		if e.Entry.Level == cdplog.EntryLevelError || e.Entry.Level == cdplog.EntryLevelWarning {
			s.complaints = append(s.complaints, fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL))
		}
	}
}

// forgive forgets complaints, after something was broken on purpose.
func (s *screen) forgive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.complaints = nil
}

// requireQuiet holds that the page complained of nothing and asked nobody but its
// own gateway.
func (s *screen) requireQuiet() {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	require.Empty(s.t, s.complaints)
	own, err := url.Parse(s.origin)
	require.NoError(s.t, err)
	for _, asked := range s.asked {
		u, err := url.Parse(asked)
		require.NoError(s.t, err)
		require.Equal(s.t, own.Host, u.Host, "a request to another origin: %s", asked)
	}
	require.NotEmpty(s.t, s.asked)
}

func exception(d *runtime.ExceptionDetails) string {
	if d.Exception != nil {
		return d.Text + " " + d.Exception.Description
	}
	return d.Text
}

// run carries out actions within patience.
func (s *screen) run(actions ...chromedp.Action[chromedp.Void]) {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	require.NoError(s.t, chromedp.Do(ctx, actions...))
}

// theme is what the browser says its user prefers; empty for its own default.
func (s *screen) theme(name string) {
	s.t.Helper()
	params := emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: name}}}
	s.run(chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, params)
		return err
	}))
}

// eval evaluates an expression in the page.
func eval[T any](s *screen, expression string) T {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	wait := true
	result, err := chromedp.Run(ctx, chromedp.Evaluate[T](expression, func(p *runtime.EvaluateParams) { p.AwaitPromise = &wait }))
	require.NoError(s.t, err, expression)
	return result
}

// until waits until an expression holds in the page. Where it does not, the page is
// kept as a picture.
func (s *screen) until(what, expression string) {
	s.t.Helper()
	for deadline := time.Now().Add(patience); !eval[bool](s, "!!("+expression+")"); {
		if time.Now().After(deadline) {
			s.shoot("failed")
			s.t.Fatalf("not within %s: %s\n%s\n%s", patience, what, expression, eval[string](s, "document.body.innerText.slice(0, 3000)"))
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// texts are the texts of all elements that match.
func (s *screen) texts(selector string) []string {
	s.t.Helper()
	return eval[[]string](s, fmt.Sprintf("[...document.querySelectorAll(%q)].map((e) => e.textContent.trim())", selector))
}

// visit goes to a page of the application.
func (s *screen) visit(hash, heading string) {
	s.t.Helper()
	eval[bool](s, fmt.Sprintf("(location.hash = %q, true)", hash))
	s.until("heading "+heading, fmt.Sprintf("document.querySelector('h1')?.textContent.trim().startsWith(%q)", heading))
}

// signInAs makes the page another bearer's, where it is.
func (s *screen) signInAs(bearer string) {
	s.t.Helper()
	require.Equal(s.t, 204, eval[int](s, fmt.Sprintf(`fetch("/auth/cookie", {method: "POST", headers: {"Content-Type": "application/json"},
		body: JSON.stringify({token: %q})}).then((r) => r.status)`, bearer)))
	s.run(chromedp.Reload())
	s.until("live", "document.querySelector('#freshness')?.dataset.state === 'live'")
}

// press clicks the button of that name.
func (s *screen) press(name string) {
	s.t.Helper()
	s.until("button "+name, fmt.Sprintf("[...document.querySelectorAll('button')].some((b) => b.textContent.trim() === %q && !b.disabled)", name))
	eval[bool](s, fmt.Sprintf("([...document.querySelectorAll('button')].find((b) => b.textContent.trim() === %q).click(), true)", name))
}

// fill types a text into an empty field.
func (s *screen) fill(selector, text string) {
	s.t.Helper()
	eval[bool](s, fmt.Sprintf(`(() => { const field = document.querySelector(%q); field.focus(); field.value = "";
		field.dispatchEvent(new Event("input", {bubbles: true})); return true; })()`, selector))
	s.run(chromedp.SendKeys(selector, text))
}

// shots is where pictures go; empty where nobody asked for them.
func shots() string {
	if os.Getenv("ROLLCALL_UI_FULL") == "" && os.Getenv("ROLLCALL_UI_SHOTS") == "" {
		return ""
	}
	return filepath.Join(repository, "bench-out", "ui")
}

// shoot keeps the page as a picture.
func (s *screen) shoot(name string) {
	s.t.Helper()
	dir := shots()
	if dir == "" {
		return
	}
	require.NoError(s.t, os.MkdirAll(dir, 0o750))
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	picture, err := chromedp.Run(ctx, chromedp.CaptureScreenshot())
	require.NoError(s.t, err)
	require.NoError(s.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600))
}

// violation is what axe-core finds wrong.
type violation struct {
	ID     string `json:"id"`
	Impact string `json:"impact"`
	Help   string `json:"help"`
	Nodes  []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

// axe is the source of axe-core; empty where npm has not installed it.
func axe(t *testing.T) string {
	t.Helper()
	source, err := os.ReadFile(filepath.Join(repository, "services/gateway/ui/node_modules/axe-core/axe.min.js"))
	if os.IsNotExist(err) {
		t.Log("axe-core is not installed: accessibility is NOT tested")
		return ""
	}
	require.NoError(t, err)
	return string(source)
}

// requireAccessible holds the page against WCAG 2.2 AA, as far as axe-core can.
func (s *screen) requireAccessible(source, what string) {
	s.t.Helper()
	if source == "" {
		return
	}
	if !eval[bool](s, "!!window.axe") {
		s.run(chromedp.Evaluate[chromedp.Void](source))
	}
	text := eval[string](s, `axe.run(document, {runOnly: ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]})
		.then((r) => JSON.stringify(r.violations))`)
	var found []violation
	require.NoError(s.t, json.Unmarshal([]byte(text), &found))
	for _, v := range found {
		for _, node := range v.Nodes {
			s.t.Errorf("%s: %s (%s): %s\n%s", what, v.Help, v.Impact, node.HTML, node.Summary)
		}
	}
}
