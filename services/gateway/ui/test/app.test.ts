import assert from "node:assert/strict";
import test, { afterEach, beforeEach, mock } from "node:test";
import { App } from "../src/app.ts";
import type { AgentRow, GatewayAlive } from "../src/model/types.ts";
import { gateway, page, pass, until } from "./browser.ts";

const { document } = page();
const start = Date.parse("2026-01-01T00:00:00Z");
let app: App;
let alive: GatewayAlive[];
let rows: AgentRow[];

function status() {
  return {
    body: {
      status: "ok",
      nats: { connected: true },
      presence: { mode: "per-agent", lag_ms: 0, brake: false },
      tenant: { tenant_id: gateway.tenant, agents: {}, uncertain: 0 },
      gateways: alive,
    },
  };
}

function connection(agent: string, gateway_id = "dev_g1", incarnation = "i1") {
  return { connection_id: "c-" + agent, instance_id: "dev_" + agent, gateway_id, incarnation, connected_at: "2026-01-01T00:00:00Z", leases: [] };
}

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: start });
  gateway.reset();
  alive = [{ instance_id: "dev_g1", incarnation: "i1" }];
  rows = [{ agent_id: "a", status: "online", since: "2026-01-01T00:00:00Z", connections: [connection("a")] }];
  gateway.serves["presence.subscribe"] = () => ({ statuses: rows, cursor: "x-1" });
  gateway.serves["events.subscribe"] = () => ({ subscription_id: "s", cursor: "x-1" });
  gateway.serves["presence.list"] = ({ kind, role }) => {
    const gateways = alive.map((g) => ({ instance_id: g.instance_id, role: "gateway" }));
    const devices = rows.map((row) => ({ instance_id: "dev_" + row.agent_id, role: "client", agent_id: row.agent_id, connection_id: "c-" + row.agent_id }));
    return { items: kind !== "instances" ? rows : role === "gateway" ? gateways : [...gateways, ...devices], total: 1 };
  };
  gateway.pages = { "/status": status, "/readyz": () => ({ body: {} }), "/presence/counts": () => ({ body: { generated_at: new Date().toISOString(), items: [] } }) };
});

afterEach(() => {
  app.link.stop();
  app.tailLink.stop();
  mock.timers.reset();
});

async function live(): Promise<void> {
  app = new App();
  await until("open", () => app.link.phase === "open");
  assert.equal(app.fleet.doubt, null);
}

function inventories(): number {
  return gateway.asked.filter((a) => a.type === "presence.list" && a.payload.kind === "instances" && a.payload.role === undefined).length;
}

test("a page is live once it knows how presence is, and not before", async () => {
  let answer = () => {};
  gateway.pages["/status"] = () => new Promise((resolve) => (answer = () => resolve(status() as never)));
  app = new App();
  await until("all that is followed", () => gateway.times("events.subscribe") === 1);
  await pass(2000);
  assert.notEqual(app.fleet.doubt, null);
  assert.equal(app.everLive, false);
  answer();
  await until("open", () => app.link.phase === "open");
  assert.equal(app.fleet.doubt, null);
  assert.deepEqual(app.fleet.counts(), { working: 0, online: 1, offline: 0, uncertain: 0 });
});

test("a page whose gateway does not say how presence is shows its rows, and nothing as certain", async () => {
  gateway.pages["/status"] = () => ({ status: 500, body: { detail: "no idea" } });
  app = new App();
  await until("open", () => app.link.phase === "open");
  assert.equal(app.fleet.doubt, "how presence is, is not known");
  assert.deepEqual(app.fleet.counts(), { working: 0, online: 0, offline: 0, uncertain: 1 });
  gateway.pages["/status"] = status;
  await pass(2500);
  assert.equal(app.fleet.doubt, null);
  gateway.pages["/status"] = () => ({ status: 500, body: { detail: "no idea" } });
  await pass(2500);
  assert.equal(app.fleet.doubt, "how presence is, is not known");
});

test("a gateway that stands still is not live for long", async () => {
  await live();
  await pass(10_000);
  assert.equal(app.fleet.doubt, null);
  gateway.frozen = true;
  gateway.pages["/status"] = gateway.pages["/readyz"] = () => new Promise<never>(() => undefined);
  await pass(6500); // a poll every 2 s, 3 s of patience, a look every second
  assert.equal(app.fleet.doubt, "the gateway has not answered for a while");
});

test("a gateway that is gone, or another incarnation, makes its agents uncertain and its devices be listed again", async () => {
  await live();
  await pass(1000);
  assert.equal(inventories(), 1);
  await pass(6000);
  assert.equal(inventories(), 1, "nothing has changed");
  alive = [{ instance_id: "dev_g1", incarnation: "i2" }];
  await pass(2500);
  assert.equal(inventories(), 2);
  assert.deepEqual(app.fleet.counts(), { working: 0, online: 0, offline: 0, uncertain: 1 });
  gateway.socket().say({ event_id: "1", type: "connection.opened", occurred_at: "2026-01-01T00:00:09Z", scope: { kind: "agent", id: "a" }, payload: { ...connection("a", "dev_g2", "i9"), connection_id: "c2" }, cursor: "x-2" });
  gateway.socket().say({ event_id: "2", type: "connection.closed", occurred_at: "2026-01-01T00:00:09Z", scope: { kind: "agent", id: "a" }, payload: { connection_id: "c-a" }, cursor: "x-3" });
  alive.push({ instance_id: "dev_g2", incarnation: "i9" });
  assert.equal(app.fleet.counts().uncertain, 1, "a gateway that nobody knows yet");
  await pass(500);
  assert.equal(app.fleet.counts().online, 1, "it is asked for at once");
});

test("an inventory that could not be listed is listed later, and uncertain until then", async () => {
  const list = gateway.serves["presence.list"];
  gateway.serves["presence.list"] = () => assert.fail("not now");
  await live();
  await pass(3000);
  assert.equal(app.fleet.inventoried, false);
  gateway.serves["presence.list"] = list as never;
  await pass(2500);
  assert.equal(app.fleet.inventoried, true);
  assert.deepEqual([...app.fleet.instances.values()].map((i) => app.fleet.shownInstance(i)), ["alive", "connected"]);
});

test("a page that becomes another tenant's begins anew, and takes nothing of it", async () => {
  await live();
  gateway.tenant = "globex";
  rows = [{ agent_id: "theirs", status: "online", since: "2026-01-01T00:00:00Z", connections: [] }];
  gateway.socket().end(1006, "");
  await pass(2000);
  await until("anew", () => gateway.reloads === 1);
  await pass(20_000);
  assert.deepEqual(app.fleet.ids(), ["a"]);
  assert.equal(app.link.phase, "stopped");
  assert.equal(gateway.reloads, 1);
});

test("a cookie that becomes another tenant's in another tab is found out", async () => {
  await live();
  gateway.tenant = "globex";
  await pass(2500);
  assert.equal(gateway.reloads, 1);
  assert.equal(app.link.phase, "stopped");
});

test("a page that is not told how the gateway is does not go on as if it were", async () => {
  await live();
  gateway.pages["/status"] = () => new Promise<never>(() => undefined);
  await pass(15_000);
  assert.equal(app.link.phase, "open");
  assert.match(String(app.fleet.doubt), /was last told 1\d s ago/);
});

test("a page that is seen again asks at once, also for the hour in which it could not look", async () => {
  await live();
  await pass(1000);
  const counts = () => gateway.fetched.filter((url) => url === "/presence/counts").length;
  assert.equal(counts(), 1);
  mock.timers.setTime(start + 100_000);
  const at = new Date(start + 50_000).toISOString();
  gateway.pages["/presence/counts"] = () => ({ body: { generated_at: new Date().toISOString(), items: [{ at, working: 7, online: 0, offline: 0, uncertain: 0 }] } });
  document.dispatchEvent(new Event("visibilitychange"));
  assert.match(String(app.fleet.doubt), /was last told/, "before it is drawn");
  await until("the counts", () => app.samples.some((s) => s[1] === 7));
  await until("certain", () => app.fleet.doubt === null);
});

test("an agent's past is read again after an outage, once events come again, and marked as missing until then", async () => {
  await live();
  const past = (...ids: number[]) => ({ body: { items: ids.map((id) => ({ event_id: String(id), type: "presence.changed" })) } });
  const read = () => gateway.fetched.filter((url) => url.includes("/history")).length;
  const shown = () => [...app.timeline.live.map((e) => e.event_id), ...(app.timeline.gap ? ["gap"] : []), ...app.timeline.stored.map((e) => e.event_id)];
  gateway.pages["/agents/a/history"] = () => past(1);
  app.watch("a");
  await until("its past", () => shown().length === 1);
  gateway.pages["/agents/a/history"] = () => ({ status: 503, body: { detail: "not now" } });
  gateway.socket().end(1006, "");
  await pass(1000);
  await until("open again", () => app.link.phase === "open");
  await until("an error", () => app.timeline.error !== "");
  gateway.socket().say({ event_id: "3", type: "presence.changed", scope: { kind: "agent", id: "a" }, payload: { agent_id: "a", status: "working", since: "2026-01-01T00:00:03Z" } });
  assert.deepEqual(shown(), ["3", "gap", "1"]);
  gateway.pages["/agents/a/history"] = () => past(3, 2, 1);
  await app.readPast();
  assert.deepEqual(shown(), ["3", "2", "1"]);
  assert.equal(app.timeline.error, "");
  assert.equal(read(), 3);
  app.unwatch("a");
});
