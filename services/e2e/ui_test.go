package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"

	"rollcall/scripts/token"
	"rollcall/shared/client"
	"rollcall/subjects"
)

// sizes are the screens that every page is looked at on.
var sizes = []struct {
	name          string
	width, height int64
}{{"phone", 320, 640}, {"laptop", 1280, 800}, {"wall", 3840, 2160}}

// screens are the pages with the beginnings of their headings.
var screens = [][2]string{{"#/fleet", "Fleet"}, {"#/agent/probe-0001", "probe-0001"}, {"#/instances", "Instances"}, {"#/leases", "Leases"}, {"#/events", "Events"}, {"#/health", "Health"}}

// TestScreens is an operator's visit: real agents, a real gateway, a real browser.
func TestScreens(t *testing.T) {
	t.Parallel()
	size, probes := 60, 10
	full := os.Getenv("ROLLCALL_UI_FULL") != ""
	if full {
		size, probes = 2000, 50
	}
	s := newStack(t, options{
		abrupt: true, args: []string{"--gateways", "2", "--presence", "1", "--lease", "1"}, env: []string{"ROLLCALL_LOG_LEVEL=info"},
	})
	a, b := s.Gateways[0], s.Gateways[1]
	page := openBrowser(t, a, 1280, 800)
	s.fleet(t, b, names("steady", size-20))
	doomed := s.fleet(t, a, names("doomed", 20))

	s.checkSignIn(t, page)
	page.until("all agents", fmt.Sprintf("document.querySelector('#count-online')?.textContent === '%d'", size))
	checkPainted(t, page, size)
	s.checkLive(t, page, b, probes, full)
	checkFilters(t, page, size, probes)
	s.checkAgentPage(t, page, b)
	s.checkLeaseActions(t, page, b)
	s.checkTail(t, page, b)
	checkHealth(t, page)
	s.checkLastHour(t, page)
	page.requireQuiet()
	checkEveryPage(t, page, full)
	page.requireQuiet()
	s.checkRecovery(t, page, doomed, size+probes+1)
}

// checkSignIn signs in with a token that does not count, and with one that does.
func (s *stack) checkSignIn(t *testing.T, page *screen) {
	t.Helper()
	page.run(chromedp.Navigate(page.origin + "/"))
	page.until("sign-in", "document.querySelector('input[name=token]')")
	page.requireAccessible(axe(t), "sign-in")
	page.shoot("sign-in")
	page.requireQuiet()
	page.fill("input[name=token]", "no-token-at-all\r")
	page.until("refusal", "document.querySelector('[role=alert]')?.textContent.startsWith('Not signed in')")
	page.forgive() // a browser complains of any 401
	operator, err := s.mint(token.Grant{Scopes: []string{scopeOperate}})
	require.NoError(t, err)
	page.fill("input[name=token]", operator+"\r")
	page.until("fleet", "document.querySelector('#freshness')?.dataset.state === 'live'")
	require.NotContains(t, eval[string](page, "document.cookie + JSON.stringify(localStorage) + JSON.stringify(sessionStorage)"), operator)
	// The cookie brings it back by itself.
	page.run(chromedp.Reload())
	page.until("fleet again", "document.querySelector('#freshness')?.dataset.state === 'live'")
}

// checkPainted looks at the canvas: every cell has a colour, and nothing is where no
// cell is.
func checkPainted(t *testing.T, page *screen, agents int) {
	t.Helper()
	page.until("cells", fmt.Sprintf("document.querySelector('#cells')?.dataset.painted === '%d'", agents))
	// A cell's middle is filled for an agent that is online.
	require.Equal(t, agents, eval[int](page, filledCells))
}

// filledCells counts the cells that show somebody who is certainly there: those of an
// agent that is offline or uncertain are empty left of the middle.
const filledCells = `(() => {
		const canvas = document.querySelector("#cells"), scale = devicePixelRatio;
		const c = canvas.getContext("2d"), image = c.getImageData(0, 0, canvas.width, canvas.height);
		const cell = Number(canvas.dataset.cell), columns = Math.round(canvas.width / scale / cell);
		let n = 0;
		for (let i = 0; i < columns * Math.round(canvas.height / scale / cell); i++) {
			const x = Math.floor(((i % columns) + 0.4) * cell * scale), y = Math.floor((Math.floor(i / columns) + 0.4) * cell * scale);
			if (image.data[(y * canvas.width + x) * 4 + 3] > 0) n++;
		}
		return n;
	})()`

// checkLive sees changes come in, and how long they take from the moment that the
// stream stored them.
func (s *stack) checkLive(t *testing.T, page *screen, g gateway, probes int, full bool) {
	t.Helper()
	page.visit("#/fleet?text=probe-", "Fleet")
	page.until("nobody yet", "document.querySelectorAll('tr[data-agent]').length === 0")
	watcher := s.observe(t, g, client.Selection{All: true})
	eval[bool](page, `(window.seen = {}, window.watching = new MutationObserver(() => {
		const now = Date.now();
		for (const row of document.querySelectorAll("tr[data-agent]")) window.seen[row.dataset.agent] ??= now;
	}), window.watching.observe(document.body, {subtree: true, childList: true, attributes: true}), true)`)
	for i, name := range names("probe", probes) {
		s.agent(t, g, name, nil)
		watcher.await(name, i, 1)
		page.until(name, fmt.Sprintf("document.querySelector('tr[data-agent=%q]')?.dataset.status === 'online'", name))
	}
	seen := eval[map[string]int64](page, "(window.watching.disconnect(), window.seen)")
	var took []time.Duration
	for _, e := range watcher.since(0) {
		at, known := seen[e.changed.AgentID]
		require.True(t, known, e.changed.AgentID)
		took = append(took, time.UnixMilli(at).Sub(e.changed.Since))
	}
	slices.Sort(took)
	median := took[len(took)/2]
	t.Logf("from event to page: median %s, most %s of %d", median.Round(time.Millisecond), took[len(took)-1].Round(time.Millisecond), len(took))
	if full {
		require.Less(t, median, 500*time.Millisecond)
	}
}

// checkCellsFollow changes agents one after the other, and sees the map follow: it is
// painted anew in part only, so what is missed stays wrong.
func checkCellsFollow(t *testing.T, page *screen, doomed []*client.Conn, total int) {
	t.Helper()
	page.until("every cell", fmt.Sprintf("%s === %d", filledCells, total))
	for i := range 5 {
		cut(doomed[i])
		page.until("one less", fmt.Sprintf("document.querySelector('#count-offline').textContent === '%d'", i+1))
		// A frame or two later, and long before anything else makes the map be painted.
		require.Eventually(t, func() bool { return eval[int](page, filledCells) == total-i-1 }, 5*time.Second, 50*time.Millisecond,
			"%d agents are gone, and the map does not say so", i+1)
	}
}

func checkFilters(t *testing.T, page *screen, size, probes int) {
	t.Helper()
	total := size + probes
	matches := func(query string, want int) {
		t.Helper()
		page.visit("#/fleet?"+query, "Fleet")
		page.until(query, fmt.Sprintf("document.querySelector('.matches')?.textContent.startsWith('%d ')", want))
		page.until("cells of "+query, fmt.Sprintf("document.querySelector('#cells').dataset.painted === '%d'", want))
	}
	matches("text=doomed", 20)
	matches("status=online", total)
	matches("status=working", 0)
	matches("version=e2e", probes)
	matches("role=client", total)
	matches("role=node", 0)
	gateways := eval[[]string](page, "[...document.querySelectorAll('.filters select')].at(2).innerHTML.match(/dev_[a-z0-9]{52}/g)")
	require.Len(t, gateways, 2)
	// By hand: typing, and then all of them again by a button.
	page.visit("#/fleet", "Fleet")
	page.fill("input[name=text]", "probe-0001")
	page.until("the one", "document.querySelectorAll('tr[data-agent]').length === 1")
	require.Contains(t, eval[string](page, "location.hash"), "text=probe-0001")
	page.press("Show all")
	page.until("all", fmt.Sprintf("document.querySelector('#cells').dataset.painted === '%d'", total))
	// By keyboard alone: into the map, a step, and in.
	page.run(chromedp.Focus("#cells"), chromedp.KeyEvent("\ue000"))
	eval[bool](page, `(document.querySelector("#cells").dispatchEvent(new KeyboardEvent("keydown", {key: "End", bubbles: true})), true)`)
	page.until("the last one", fmt.Sprintf("document.querySelector('#cell-name').textContent.startsWith('steady-%04d')", size-21))
	eval[bool](page, `(document.querySelector("#cells").dispatchEvent(new KeyboardEvent("keydown", {key: "Enter", bubbles: true})), true)`)
	page.until("its page", "document.querySelector('h1')?.textContent.startsWith('steady-')")
}

// checkAgentPage sees an agent connect, work and leave on its own page.
func (s *stack) checkAgentPage(t *testing.T, page *screen, g gateway) {
	t.Helper()
	page.visit("#/agent/probe-0001", "probe-0001")
	page.until("what happened before", `document.querySelector("#timeline")?.textContent.includes("offline → online, connected")`)
	page.visit("#/agent/subject", "subject")
	require.Contains(t, page.texts("main")[0], "no row for this agent")
	conn := s.worker(t, g, "subject")
	_, err := conn.Beacon(t.Context(), client.Report{Host: "said-host", IP: "203.0.113.9"})
	require.NoError(t, err)
	page.until("online", "document.querySelector('h1').textContent.includes('online')")
	page.until("evidence", "document.querySelector('.facts').textContent.includes('connection.opened')")
	page.until("addresses kept apart", `(() => { const cells = [...document.querySelectorAll("tbody tr td")].map((e) => e.textContent);
		return cells.includes("127.0.0.1") && cells.includes("said-host") && cells.includes("203.0.113.9"); })()`)
	lease := claimed(t, conn, "deploy/page")
	page.until("working", "document.querySelector('h1').textContent.includes('working')")
	page.until("why", "document.querySelector('.facts').textContent.includes('lease_granted')")
	require.NoError(t, conn.FinalizeLease(t.Context(), lease, ""))
	page.until("timeline", "document.querySelector('#timeline').textContent.includes('working → online, lease_ended')")
}

// checkLeaseActions gives verdicts.
func (s *stack) checkLeaseActions(t *testing.T, page *screen, g gateway) {
	t.Helper()
	s.policies(t, `{"policies":[{"prefix":"ask/","policy":"hook","hook_timeout_ms":600000}]}`, settingTaken)
	s.silentModerator(t, g, "ask/")
	conn := s.worker(t, g, "asker")
	first := claimed(t, conn, "deploy/first")
	second := claimed(t, conn, "deploy/second")
	page.visit("#/leases?agent=asker", "Leases")
	page.until("claimed, oldest first", fmt.Sprintf(`[...document.querySelectorAll("tr[data-state=CLAIMED]")].map((e) => e.dataset.lease).join() === "%s,%s"`, first.LeaseID, second.LeaseID))
	for verdict, state := range map[string]string{"Grant": "GRANTED", "Deny": "DENIED", "Hold": "HOLD"} {
		id, got, err := conn.RequestLease(t.Context(), "ask/"+strings.ToLower(verdict), client.LeaseOptions{})
		require.NoError(t, err)
		require.Equal(t, subjects.LeasePending, got)
		page.until("pending lease", fmt.Sprintf("document.querySelector('tr[data-lease=%q]')?.dataset.state === 'PENDING'", id))
		eval[bool](page, fmt.Sprintf("(document.querySelector('tr[data-lease=%q] button').click(), true)", id))
		page.until("sheet", "document.querySelector('dialog')?.open")
		if verdict == "Grant" {
			s.checkReaderDecidesNothing(t, page, id)
			page.requireAccessible(axe(t), "verdict")
			page.shoot("verdict")
		}
		if verdict != "Deny" {
			checkMinutes(t, page, verdict)
		}
		page.fill("dialog input[name=reason]", "seen by an operator")
		page.press(verdict)
		page.until(state, fmt.Sprintf("document.querySelector('tr[data-lease=%q]')?.dataset.state === %q", id, state))
		page.until("no sheet", "!document.querySelector('dialog')")
		row := s.awaitLease("asker", id, state)
		require.Equal(t, "seen by an operator", row.Verdict.Reason)
		if verdict != "Deny" {
			require.Equal(t, 90*time.Second, row.ExpiresAt.Sub(row.ResolvedAt), verdict)
		}
		if verdict == "Hold" {
			require.NoError(t, conn.Request(t.Context(), "lease.retry", map[string]any{"lease_id": id}, nil))
			page.until("a verdict wanted anew", fmt.Sprintf("document.querySelector('tr[data-lease=%q][data-state=PENDING] button')?.textContent === 'Decide'", id))
		}
	}
	require.NoError(t, conn.RollbackLease(t.Context(), first, "another time"))
	page.until("given back", fmt.Sprintf("document.querySelector('tr[data-lease=%q]')?.dataset.state === 'GRANTED'", first.LeaseID))
	eval[bool](page, fmt.Sprintf("(document.querySelector('tr[data-lease=%q] button').click(), true)", second.LeaseID))
	page.until("what the row holds", `(() => { const said = document.querySelector("dialog .facts")?.textContent ?? "";
		return ["Verdictgrant by policy", "Fence1", "Claim expires"].every((s) => said.includes(s)) && !said.includes("Ended"); })()`)
	page.press("Close")
	page.until("no sheet", "!document.querySelector('dialog')")
}

// checkMinutes is told the rule for a time that makes no sense, and gives one that does.
func checkMinutes(t *testing.T, page *screen, verdict string) {
	t.Helper()
	field := fmt.Sprintf("dialog input[name=%s]", strings.ToLower(verdict))
	page.fill(field, "soon")
	page.press(verdict)
	page.until("the rule", `document.querySelector("dialog [role=alert]")?.textContent.includes("must be a number of minutes above 0 and at most 1440")`)
	require.True(t, eval[bool](page, fmt.Sprintf("document.activeElement === document.querySelector('%s') && document.activeElement.ariaInvalid === 'true'", field)))
	page.requireAccessible(axe(t), "bad minutes")
	page.fill(field, "1.5")
}

// checkReaderDecidesNothing signs in with a token that only reads, looks at a lease that
// waits for a verdict, and comes back to its sheet as who may decide.
func (s *stack) checkReaderDecidesNothing(t *testing.T, page *screen, lease string) {
	t.Helper()
	open := fmt.Sprintf("tr[data-lease=%q] button", lease)
	for _, it := range []struct {
		scope, button string
		buttons       []string
	}{{"operator.read", "Look", []string{"Close"}}, {scopeOperate, "Decide", []string{"Grant", "Deny", "Hold", "Close"}}} {
		bearer, err := s.mint(token.Grant{Scopes: []string{it.scope}})
		require.NoError(t, err)
		page.signInAs(bearer)
		page.until(it.button, fmt.Sprintf("document.querySelector('%s')?.textContent === %q", open, it.button))
		eval[bool](page, fmt.Sprintf("(document.querySelector('%s').click(), true)", open))
		page.until("sheet", "document.querySelector('dialog')?.open")
		require.Equal(t, it.buttons, page.texts("dialog button"), it.scope)
		reads := it.scope != scopeOperate
		require.Equal(t, reads, strings.Contains(page.texts("dialog")[0], "Verdicts take a token with the scope operator.write"))
		require.Equal(t, reads, len(page.texts("#cannot-decide")) == 1)
		if reads {
			page.requireAccessible(axe(t), "no verdict")
		}
	}
}

// checkTail follows events, pauses, and misses nothing of what happened meanwhile.
func (s *stack) checkTail(t *testing.T, page *screen, g gateway) {
	t.Helper()
	page.visit("#/events", "Events")
	page.until("live", "document.querySelector('#tail-state').dataset.state === 'live'")
	page.fill("input[name=types]", "shift.*")
	page.press("Apply")
	producer := s.connect(t, g, token.Grant{Scopes: []string{scopeOperate}}, client.Options{})
	said := 0
	say := func(n int) {
		for range n {
			said++
			payload := map[string]any{"type": fmt.Sprintf("shift.s%d", said), "payload": map[string]any{"number": said}}
			require.NoError(t, producer.Request(t.Context(), "event.publish", payload, nil))
		}
	}
	// A change of what is listened to takes a moment; the first event that is seen says that it has.
	await(t, "the first event", func() bool {
		say(1)
		seen := page.texts("#tail li b")
		return len(seen) > 0 && strings.HasPrefix(seen[0], "shift.")
	})
	began := page.texts("#tail li b")
	firstSeen := began[len(began)-1]
	say(2)
	last := func() string {
		return fmt.Sprintf("document.querySelector('#tail li b')?.textContent === 'shift.s%d'", said)
	}
	page.until("newest first", last())
	eval[bool](page, "(document.querySelector('#tail li summary').click(), true)")
	page.until("payload", fmt.Sprintf("document.querySelector('#tail li .json')?.textContent.includes('\"number\": %d')", said))
	page.press("Pause")
	page.until("paused", "document.querySelector('#tail-state').dataset.state === 'paused'")
	shown := page.texts("#tail li b")
	say(5)
	require.Equal(t, shown, page.texts("#tail li b"))
	page.press("Resume")
	page.until("what was missed", last())
	var first int
	_, err := fmt.Sscanf(firstSeen, "shift.s%d", &first)
	require.NoError(t, err)
	var want []string
	for n := said; n >= first; n-- {
		want = append(want, fmt.Sprintf("shift.s%d", n))
	}
	require.Equal(t, want, page.texts("#tail li b"), "each once, in order")
}

// checkHealth reads what the gateway says of itself and of what it stands on.
func checkHealth(t *testing.T, page *screen) {
	t.Helper()
	page.visit("#/health", "Health")
	page.until("status", "document.querySelector('main').textContent.includes('per-agent')")
	page.until("both gateways", "document.querySelectorAll('[aria-label=Gateways] tbody tr').length === 2")
	text := page.texts("main")[0]
	for _, said := range []string{"Brakereleased", "this page is connected to it", "Readyyes", "Connectedyes"} {
		require.Contains(t, text, said)
	}
	require.NotContains(t, text, "not available")
}

// checkLastHour comes with a browser that has seen nothing: what was before is what the
// gateway counted, and what nobody counted is said not to be known.
func (s *stack) checkLastHour(t *testing.T, page *screen) {
	t.Helper()
	var counted struct{ Items []struct{ At time.Time } }
	await(t, "counts from before", func() bool {
		require.Equal(t, 200, s.get(t, s.Gateways[0], "/presence/counts", s.Tenants[acme].OperatorToken, &counted))
		return len(counted.Items) > 0 && time.Since(counted.Items[0].At) > 20*time.Second
	})
	eval[bool](page, "(localStorage.clear(), location.hash = '#/fleet', location.reload(), true)")
	// How long the answer took counts as the browser's clock being ahead, which may move the count to the next slot.
	page.until("the first count", fmt.Sprintf(`(() => {
		const kept = JSON.parse(Object.entries(localStorage).find(([key]) => key.startsWith("strip:"))?.[1] ?? "[]");
		return [0, 10000].includes(kept[0]?.[0] - %d);
	})()`, counted.Items[0].At.Truncate(10*time.Second).UnixMilli()))
	page.until("how much is known", "document.querySelector('#strip-words')?.textContent.includes('not known')")
}

// checkEveryPage looks at each page, in both themes and at all sizes.
func checkEveryPage(t *testing.T, page *screen, full bool) {
	t.Helper()
	source := axe(t)
	for _, theme := range []string{"light", "dark"} {
		page.theme(theme)
		for _, size := range sizes {
			page.run(chromedp.EmulateViewport(size.width, size.height))
			for _, it := range screens {
				page.visit(it[0], it[1])
				// A screen that was turned is laid out with the next frame.
				page.until(it[0]+" fits a "+size.name, fmt.Sprintf("document.documentElement.scrollWidth <= %d", size.width))
				// The widths differ in what wraps, the themes in colours: a laptop in both, the others once.
				if full || size.name == "laptop" || theme == "light" && size.name == "phone" {
					page.requireAccessible(source, strings.Join([]string{it[0], theme, size.name}, " "))
				}
				if full || theme == "light" {
					page.shoot(strings.Join([]string{strings.ToLower(it[1]), theme, size.name}, "-"))
				}
			}
		}
	}
	page.theme("")
	page.run(chromedp.EmulateViewport(1280, 800))
	require.False(t, t.Failed())
}

// checkRecovery kills the gateway under the page, and starts it again.
func (s *stack) checkRecovery(t *testing.T, page *screen, doomed []*client.Conn, total int) {
	t.Helper()
	page.visit("#/fleet", "Fleet")
	page.until("live", "document.querySelector('#freshness')?.dataset.state === 'live'")
	// One more, who asked for leases.
	total++
	page.until("everybody", fmt.Sprintf("document.querySelector('.total b').textContent === '%d'", total))
	checkCellsFollow(t, page, doomed, total)
	again := s.kill(s.Gateways[0].PID)
	page.until("nothing is certain", fmt.Sprintf(`document.querySelector("#freshness").dataset.state === "stale" &&
		document.querySelector("#count-uncertain").textContent === "%d" && document.querySelector("#count-online").textContent === "0"`, total))
	page.until("no cell is certain", filledCells+" === 0")
	page.shoot("not-live")
	instances := func(state string) string {
		return fmt.Sprintf("(document.querySelectorAll('tr[data-instance][data-state=%s]').length)", state)
	}
	page.visit("#/instances", "Instances")
	page.until("no instance is certain", instances("uncertain")+" === document.querySelectorAll('tr[data-instance]').length")
	page.visit("#/health", "Health")
	page.until("health as it was", "document.querySelector('#doubt')?.textContent.startsWith('This is what was known')")
	page.visit("#/fleet", "Fleet")
	disband(doomed)
	s.run(again, s.Gateways[0].URL)
	page.until("live again", "document.querySelector('#freshness')?.dataset.state === 'live'")
	page.until("the right view", fmt.Sprintf(`document.querySelector("#count-offline").textContent === "20" &&
		document.querySelector("#count-uncertain").textContent === "0" &&
		Number(document.querySelector("#count-online").textContent) + Number(document.querySelector("#count-working").textContent) === %d`, total-20))
	page.until("the right cells", fmt.Sprintf("%s === %d", filledCells, total-20))
	// The view is the listing's.
	var list listing
	require.Equal(t, 200, s.get(t, s.Gateways[1], "/presence?limit=50", s.Tenants[acme].OperatorToken, &list))
	for _, row := range list.Items {
		page.until(row.AgentID, fmt.Sprintf("document.querySelector('tr[data-agent=%q]')?.dataset.status === %q", row.AgentID, row.Status))
	}
	page.visit("#/instances", "Instances")
	page.until("both gateways", instances("alive")+" === 2")
	page.until("instances are certain", instances("uncertain")+" === 0 && "+instances("connected")+" > 0")
	page.forgive() // of a gateway that was away
	page.visit("#/events", "Events")
	page.until("tail again", "document.querySelector('#tail-state').dataset.state === 'live'")
	page.requireQuiet()
}
