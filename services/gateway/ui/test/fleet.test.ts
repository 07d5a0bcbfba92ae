import assert from "node:assert/strict";
import test from "node:test";
import { everything, matches, readFilter, select, writeFilter } from "../src/model/filter.ts";
import { Fleet } from "../src/model/fleet.ts";
import type { AgentRow, Event, GatewayAlive } from "../src/model/types.ts";

const at = (s: number, fraction = "") => `2026-01-01T00:00:${String(s).padStart(2, "0")}${fraction}Z`;

function row(id: string, status: AgentRow["status"], since: string, gateway = "dev_g1"): AgentRow {
  const connection = { connection_id: "c-" + id, instance_id: "dev_" + id, gateway_id: gateway, incarnation: "i", connected_at: since, leases: [] };
  return { agent_id: id, status, since, reason: "connected", connections: status === "offline" ? [] : [connection] };
}

let n = 0;
function event(type: string, payload: unknown, agent = ""): Event {
  return { event_id: String(++n), type, occurred_at: at(30), scope: agent === "" ? { kind: "global" } : { kind: "agent", id: agent }, payload, cursor: "c-" + n };
}

function changed(agent: string, status: string, since: string): Event {
  return event("presence.changed", { agent_id: agent, status, previous: "?", reason: "r", connections: 0, leases: 0, since }, agent);
}

function gateway(id: string, incarnation = "i"): GatewayAlive {
  return { instance_id: id, incarnation };
}

function opened(agent: string, connection: string, gateway = "dev_g2", incarnation = "i"): Event {
  return event("connection.opened", { connection_id: connection, instance_id: "dev_x", gateway_id: gateway, incarnation }, agent);
}

function closed(agent: string, connection: string): Event {
  return event("connection.closed", { connection_id: connection }, agent);
}

function connections(fleet: Fleet, agent: string): string[] {
  return fleet.agents.get(agent)?.connections.map((c) => c.connection_id) ?? [];
}

function live(...rows: AgentRow[]): Fleet {
  const fleet = new Fleet();
  fleet.snapshot(rows);
  fleet.followsConnections = true;
  fleet.setGateways([gateway("dev_g1"), gateway("dev_g2")]);
  fleet.listGateways([{ instance_id: "dev_g1", role: "gateway" }, { instance_id: "dev_g2", role: "gateway" }]);
  fleet.setDoubt(null);
  return fleet;
}

test("a fleet that is not connected is uncertain, whatever the rows say", () => {
  const fleet = live(row("a", "working", at(1)), row("b", "offline", at(1)));
  assert.deepEqual(fleet.counts(), { working: 1, online: 0, offline: 1, uncertain: 0 });
  fleet.setDoubt("the connection was lost");
  assert.deepEqual(fleet.counts(), { working: 0, online: 0, offline: 0, uncertain: 2 });
  assert.deepEqual(fleet.known(), { working: 1, online: 0, offline: 1 });
  assert.deepEqual([...fleet.changed].sort(), ["a", "b"]);
});

test("a new snapshot forgets who is not in it", () => {
  const fleet = live(row("a", "online", at(1)), row("b", "online", at(1)));
  fleet.snapshot([row("b", "working", at(2))]);
  assert.deepEqual(fleet.ids(), ["b"]);
  assert.equal(fleet.agents.get("b")?.status, "working");
});

test("a change is applied, and one older than the row is not", () => {
  const fleet = live(row("a", "online", at(5, ".5")));
  assert.equal(fleet.apply(changed("a", "offline", at(5, ".49"))), false);
  assert.equal(fleet.agents.get("a")?.status, "online");
  assert.equal(fleet.apply(changed("a", "working", at(5, ".500000001"))), true);
  assert.equal(fleet.agents.get("a")?.status, "working");
  assert.equal(fleet.apply(changed("new", "online", at(6))), true);
  assert.deepEqual(fleet.ids(), ["a", "new"]);
});

test("a change takes the old evidence away", () => {
  const fleet = live({ ...row("a", "online", at(1)), evidence: { seq: 1, event_id: "e", type: "connection.opened", at: at(1) } });
  fleet.apply(changed("a", "offline", at(2)));
  assert.equal(fleet.agents.get("a")?.evidence, undefined);
});

test("who comes back at once keeps the new connection, though the end of the old one is told after it", () => {
  const fleet = live(row("a", "online", at(1)));
  fleet.apply(closed("a", "c-a"));
  assert.match(String(fleet.doubtOf(fleet.agents.get("a") as AgentRow)), /no connection/, "until presence has decided");
  fleet.apply(opened("a", "c2"));
  fleet.apply(changed("a", "offline", at(2)));
  fleet.apply(changed("a", "online", at(3)));
  assert.deepEqual(connections(fleet, "a"), ["c2"]);
  assert.deepEqual(select(fleet, { ...everything, gateway: "dev_g2" }), ["a"]);
  assert.deepEqual(fleet.counts(), { working: 0, online: 1, offline: 0, uncertain: 0 });
  fleet.setGateways([gateway("dev_g1")]);
  assert.deepEqual(fleet.counts(), { working: 0, online: 0, offline: 0, uncertain: 1 });
});

test("who does not follow closings takes them from an end, and nothing that is younger", () => {
  const fleet = live(row("a", "online", at(1)), row("b", "online", at(9)));
  fleet.followsConnections = false;
  fleet.apply(changed("a", "offline", at(2)));
  assert.deepEqual(connections(fleet, "a"), []);
  fleet.apply(changed("b", "offline", at(9)));
  assert.deepEqual(connections(fleet, "b"), [], "of the same moment");
  fleet.followsConnections = true;
  fleet.apply(opened("a", "c2")); // at 30
  fleet.followsConnections = false;
  fleet.apply(changed("a", "offline", at(29)));
  assert.deepEqual(connections(fleet, "a"), ["c2"]);
});

test("openings and closings keep the connections, and do not touch the status", () => {
  const fleet = live(row("a", "online", at(1)));
  const second = opened("a", "c2");
  assert.equal(fleet.apply(second), true);
  assert.equal(fleet.apply(second), false, "told twice");
  assert.equal(fleet.agents.get("a")?.connections.length, 2);
  fleet.apply(closed("a", "c-a"));
  assert.deepEqual(fleet.agents.get("a")?.connections.map((c) => c.connection_id), ["c2"]);
  assert.equal(fleet.agents.get("a")?.status, "online");
  fleet.apply(opened("fresh", "c9"));
  assert.equal(fleet.agents.get("fresh")?.status, "offline", "until presence says otherwise");
});

test("leases come and go with their connection", () => {
  const fleet = live(row("a", "online", at(1)));
  const lease = { lease_id: "l1", agent_id: "a", connection_id: "c-a" };
  fleet.apply(event("lease.granted", { lease }, "a"));
  assert.equal(fleet.apply(event("lease.granted", { lease }, "a")), false);
  assert.deepEqual(fleet.agents.get("a")?.connections[0]?.leases, ["l1"]);
  fleet.apply(event("lease.claimed", { lease }, "a"));
  assert.deepEqual(fleet.agents.get("a")?.connections[0]?.leases, ["l1"]);
  fleet.apply(event("lease.expired", { lease }, "a"));
  assert.deepEqual(fleet.agents.get("a")?.connections[0]?.leases, []);
});

test("agents of a gateway that does not answer are uncertain until it does or presence has decided", () => {
  const fleet = live(row("a", "working", at(1), "dev_g1"), row("b", "online", at(1), "dev_g2"));
  fleet.setGateways([gateway("dev_g2")]);
  assert.deepEqual(fleet.counts(), { working: 0, online: 1, offline: 0, uncertain: 1 });
  assert.match(String(fleet.doubtOf(fleet.agents.get("a") as AgentRow)), /gateway/);
  fleet.apply(changed("a", "offline", at(9)));
  assert.deepEqual(fleet.counts(), { working: 0, online: 1, offline: 1, uncertain: 0 });
});

test("a gateway that runs as another incarnation does not answer for the connections of the last one", () => {
  const fleet = live(row("a", "working", at(1), "dev_g1"), row("b", "online", at(1), "dev_g2"));
  assert.equal(fleet.setGateways([gateway("dev_g1"), gateway("dev_g2")]), false, "as before");
  assert.equal(fleet.setGateways([gateway("dev_g1", "next"), gateway("dev_g2")]), true);
  assert.deepEqual(fleet.counts(), { working: 0, online: 1, offline: 0, uncertain: 1 });
  fleet.apply(opened("a", "c2", "dev_g1", "next"));
  assert.equal(fleet.counts().uncertain, 1, "as the gateway does: one connection is enough to doubt the status");
  fleet.apply(closed("a", "c-a"));
  assert.deepEqual(fleet.counts(), { working: 1, online: 1, offline: 0, uncertain: 0 });
});

test("who follows no connections cannot tell by them, and believes the gateway's doubt", () => {
  const fleet = live(row("a", "online", at(1), "dev_gone"));
  assert.equal(fleet.counts().uncertain, 1);
  fleet.followsConnections = false;
  assert.equal(fleet.counts().uncertain, 0);
  fleet.snapshot([{ ...row("a", "online", at(1), "dev_gone"), uncertain: true }, row("b", "online", at(1))]);
  assert.deepEqual(fleet.counts(), { working: 0, online: 1, offline: 0, uncertain: 1 });
  fleet.apply(changed("a", "working", at(2)));
  assert.equal(fleet.counts().uncertain, 0, "the doubt was of the row before");
});

test("an instance is uncertain when the gateway says so, or its connection's gateway does not answer", () => {
  const fleet = live(row("a", "online", at(1)), row("b", "online", at(1), "dev_g2"));
  const shown = (id: string) => fleet.shownInstance(fleet.instances.get(id) ?? assert.fail(id));
  const device = (id: string, more = {}) => ({ instance_id: "dev_" + id, role: "client", agent_id: id, connection_id: "c-" + id, ...more });
  fleet.awaitInstances();
  fleet.replaceInstances([{ instance_id: "dev_g1", role: "gateway" }, device("a"), device("b"), device("c", { uncertain: true }), device("d", { connection_id: "" })]);
  assert.deepEqual(["dev_g1", "dev_a", "dev_b", "dev_c", "dev_d"].map(shown), ["alive", "connected", "connected", "uncertain", "gone"]);
  fleet.setGateways([gateway("dev_g1"), gateway("dev_g2", "next")]);
  assert.equal(shown("dev_b"), "uncertain");
  fleet.apply(event("presence.upserted", { entry: device("b") }));
  assert.equal(shown("dev_b"), "uncertain", "an entry from before says nothing of its gateway");
  assert.equal(shown("dev_a"), "connected");
  fleet.awaitInstances();
  assert.equal(shown("dev_a"), "uncertain", "until it is listed");
  fleet.replaceInstances([device("a")]);
  assert.equal(shown("dev_a"), "connected");
  fleet.setDoubt("gone");
  assert.equal(shown("dev_a"), "uncertain");
});

test("another connection begins with nothing that the last one followed", () => {
  const fleet = live(row("a", "online", at(1)));
  fleet.replaceInstances([{ instance_id: "dev_a", role: "client", connection_id: "c-a", agent_id: "a" }]);
  fleet.begin();
  assert.equal(fleet.gateways, null);
  assert.equal(fleet.followsConnections, false);
  assert.equal(fleet.shownInstance({ instance_id: "dev_a", role: "client", connection_id: "c-a" }), "uncertain");
});

test("rows that lapsed go, but not those that changed since the question", () => {
  const fleet = live(row("old", "offline", at(1)), row("kept", "offline", at(1)), row("back", "offline", at(1)), row("on", "online", at(1)));
  fleet.apply(opened("comes", "c1"));
  const asked = fleet.offline();
  assert.deepEqual([...asked.keys()], ["old", "kept", "back"]);
  fleet.apply(opened("old", "c2"));
  fleet.apply(changed("young", "offline", at(0))); // whatever the clocks say
  fleet.apply(changed("back", "online", at(2)));
  fleet.apply(changed("back", "offline", at(3)));
  fleet.keepOffline(new Set(["kept"]), asked);
  assert.deepEqual(fleet.ids(), ["back", "comes", "kept", "old", "on", "young"]);
  fleet.apply(closed("old", "c2"));
  fleet.keepOffline(new Set(["kept"]), asked);
  assert.deepEqual(fleet.ids(), ["back", "comes", "kept", "on", "young"]);
});

test("a row that was asked for is not taken when it is older than what is known", () => {
  const fleet = live(row("a", "online", at(5)));
  fleet.replaceAgent(row("a", "working", at(4)));
  assert.equal(fleet.agents.get("a")?.status, "online");
  fleet.replaceAgent({ ...row("a", "online", at(5)), evidence: { seq: 7, event_id: "e", type: "connection.opened", at: at(5) } });
  assert.equal(fleet.agents.get("a")?.evidence?.seq, 7);
});

test("a row that was asked for does not take back connections that were learnt meanwhile", () => {
  const fleet = live(row("a", "online", at(5)));
  fleet.apply(opened("a", "c2"));
  fleet.replaceAgent({ ...row("a", "online", at(5)), evidence: { seq: 7, event_id: "e", type: "connection.opened", at: at(5) } });
  assert.deepEqual(connections(fleet, "a"), ["c-a", "c2"]);
  assert.equal(fleet.agents.get("a")?.evidence?.seq, 7);
  fleet.replaceAgent(row("fresh", "online", at(5)));
  assert.deepEqual(connections(fleet, "fresh"), ["c-fresh"]);
});

test("the inventory follows entries and prunings", () => {
  const fleet = live(row("a", "online", at(1)));
  fleet.apply(event("presence.upserted", { entry: { instance_id: "dev_a", role: "node", version: "2.0", agent_id: "a" } }));
  assert.equal(fleet.instances.get("dev_a")?.version, "2.0");
  assert.ok(matches(fleet, { ...everything, role: "node", version: "2.0" }, fleet.agents.get("a") as AgentRow));
  assert.ok(!matches(fleet, { ...everything, role: "client" }, fleet.agents.get("a") as AgentRow));
  fleet.apply(event("presence.pruned", { instance_id: "dev_a", reason: "ttl" }));
  assert.equal(fleet.instances.has("dev_a"), false);
});

test("filters select by what is shown, and survive an address", () => {
  const fleet = live(row("ada", "online", at(1)), row("bob", "working", at(1), "dev_g2"));
  assert.equal(select(fleet, everything), fleet.ids());
  assert.deepEqual(select(fleet, { ...everything, text: "AD" }), ["ada"]);
  assert.deepEqual(select(fleet, { ...everything, status: "working" }), ["bob"]);
  assert.deepEqual(select(fleet, { ...everything, gateway: "dev_g1" }), ["ada"]);
  fleet.setDoubt("gone");
  assert.deepEqual(select(fleet, { ...everything, status: "working" }), []);
  const filter = { text: "a b", status: "uncertain" as const, role: "node", gateway: "dev_g1", version: "1&2" };
  assert.deepEqual(readFilter(new URLSearchParams(writeFilter(filter))), filter);
});

test("what happens while a listing of the inventory is under way is newer than it", () => {
  const fleet = live();
  fleet.awaitInstances();
  fleet.apply(event("presence.upserted", { entry: { instance_id: "dev_new", role: "client", version: "2" } }));
  fleet.apply(event("presence.pruned", { instance_id: "dev_gone", reason: "ttl" }));
  fleet.replaceInstances([{ instance_id: "dev_gone", role: "client" }, { instance_id: "dev_new", role: "client", version: "1" }]);
  assert.equal(fleet.instances.get("dev_new")?.version, "2");
  assert.equal(fleet.instances.has("dev_gone"), false);
});
