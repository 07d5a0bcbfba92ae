import { render } from "preact";
import { useEffect } from "preact/hooks";
import { App } from "./app.ts";
import { Shared, useApp, useRoute, type Route } from "./hooks.ts";
import { span } from "./model/time.ts";
import { AgentPage } from "./page/agent.tsx";
import { EventsPage } from "./page/events.tsx";
import { FleetPage } from "./page/fleet.tsx";
import { HealthPage } from "./page/health.tsx";
import { InstancesPage } from "./page/instances.tsx";
import { LeasesPage } from "./page/leases.tsx";
import { SignIn } from "./page/signin.tsx";

const pages: [string, string][] = [
  ["fleet", "Fleet"],
  ["instances", "Instances"],
  ["leases", "Leases"],
  ["events", "Events"],
  ["health", "Health"],
];

function Root() {
  const app = useApp();
  const route = useRoute();
  const title = route.page === "agent" ? route.id : (pages.find(([page]) => page === route.page)?.[1] ?? "Not found");
  useEffect(() => {
    document.title = `${title} · rollcall`;
  }, [title]);
  if (app.link.phase === "refused") return <SignIn />;
  if (!app.everLive)
    return (
      <main class="signin">
        <h1>rollcall</h1>
        <p role="status">{app.link.phase === "waiting" ? `Not connected: ${app.link.why}. Trying again.` : "Connecting…"}</p>
      </main>
    );
  return (
    <>
      <a class="skip" href="#main" onClick={(e) => (e.preventDefault(), document.getElementById("main")?.focus())}>
        Skip to content
      </a>
      <header>
        <span class="brand">
          rollcall <small>{app.welcome?.tenant_id}</small>
        </span>
        <nav aria-label="Pages">
          {pages.map(([page, name]) => (
            <a key={page} href={`#/${page}`} aria-current={route.page === page || (page === "fleet" && route.page === "agent") ? "page" : undefined}>
              {name}
            </a>
          ))}
        </nav>
        <Freshness />
        <button type="button" class="quiet" onClick={() => void app.signOut()}>
          Sign out
        </button>
      </header>
      {app.noEvents !== "" && <p class="banner">Connections and leases are as they were when this page connected: {app.noEvents}</p>}
      <main id="main" tabIndex={-1}>
        {pageOf(route)}
      </main>
    </>
  );
}

// No component of its own: one that is made anew in each drawing would lose its state in each.
function pageOf(route: Route) {
  switch (route.page) {
    case "fleet":
      return <FleetPage route={route} />;
    case "agent":
      return <AgentPage key={route.id} id={route.id} />;
    case "instances":
      return <InstancesPage route={route} />;
    case "leases":
      return <LeasesPage route={route} />;
    case "events":
      return <EventsPage />;
    case "health":
      return <HealthPage />;
    default:
      return (
        <>
          <h1>Not found</h1>
          <p>
            There is no such page. <a href="#/fleet">Fleet</a>
          </p>
        </>
      );
  }
}

/** Freshness says whether what is shown is so, and since when it may not be. */
function Freshness() {
  const app = useApp();
  const { fleet, link } = app;
  const brake = app.health.status?.presence?.brake;
  const braked = brake === true || (typeof brake === "object" && brake !== null && brake.engaged !== false) || brake === "engaged";
  const certain = fleet.doubt === null;
  const wait = link.phase === "waiting" ? Math.max(0, Math.ceil((link.nextAt - Date.now()) / 1000)) : 0;
  return (
    <p class={`freshness ${certain ? "live" : "stale"}`} id="freshness" data-state={certain ? "live" : "stale"}>
      <span role="status">{certain ? "Live" : `Not live: ${fleet.doubt}`}</span>
      {!certain && app.seenAt > 0 && <span> · last certain {span(Date.now() - app.seenAt)} ago</span>}
      {link.phase === "waiting" && <span> · trying again in {wait} s</span>}
      {link.phase === "connecting" && <span> · connecting</span>}
      {braked && <span> · brake engaged: presence holds expiry</span>}
    </p>
  );
}

const root = document.getElementById("app");
if (root)
  render(
    <Shared.Provider value={new App()}>
      <Root />
    </Shared.Provider>,
    root,
  );
