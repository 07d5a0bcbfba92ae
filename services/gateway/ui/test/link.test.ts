import assert from "node:assert/strict";
import test, { afterEach, beforeEach, mock } from "node:test";
import type { Event } from "../src/model/types.ts";
import { Link, Problem } from "../src/wire/link.ts";
import { gateway, page, pass, turns, until } from "./browser.ts";

const { document } = page();
const start = Date.parse("2026-01-01T00:00:00Z");
let link: Link;
let opened: string[];
let events: Event[];
let looks: string[];

beforeEach(() => {
  mock.timers.enable({ apis: ["setTimeout", "setInterval", "Date"], now: start });
  gateway.reset();
  opened = [];
  events = [];
  looks = [];
  link = new Link({
    onOpen: async (welcome) => void opened.push(`${welcome.client_id} while ${link.phase}`),
    onEvent: (event) => events.push(event),
    onChange: () => {
      const look = link.phase + (link.hushed ? " hushed" : "");
      if (looks.at(-1) !== look) looks.push(look);
    },
  });
});

afterEach(() => {
  link.stop();
  mock.timers.reset();
});

async function open(): Promise<void> {
  link.start();
  await until("open", () => link.phase === "open");
}

test("a link is open once there is nothing left to say on a fresh connection", async () => {
  await open();
  assert.deepEqual(opened, ["c1 while connecting"]);
  assert.deepEqual(looks, ["connecting", "open"]);
  assert.deepEqual(gateway.asked.map((a) => a.type), ["connect.init", "connect.proof"]);
  assert.equal(gateway.asked[0]?.payload.protocol_rev, 2);
});

test("a gateway that owes an answer for three seconds is hushed, and given up ten seconds after a ping", async () => {
  await open();
  gateway.frozen = true;
  const answer = link.request("presence.list", {}, 60_000).catch((error: Problem) => error.code);
  await pass(2000);
  assert.equal(link.hushed, false, "two seconds are no time");
  await pass(2000);
  assert.equal(link.hushed, true);
  assert.equal(link.phase, "open");
  await pass(10_000);
  assert.equal(link.phase, "open", "a ping after five seconds has ten");
  await pass(3000);
  assert.equal(gateway.times("ping"), 1);
  assert.ok(link.phase !== "open");
  assert.equal(link.why, "the gateway does not answer");
  assert.equal(link.hushed, false);
  assert.equal(await answer, "unavailable");
});

test("a gateway that is not asked anything is pinged, and hushed when it does not answer that", async () => {
  await open();
  await pass(20_000);
  const pings = gateway.times("ping");
  assert.ok(pings >= 3 && pings <= 4, `${pings} pings in 20 s`);
  assert.deepEqual(looks, ["connecting", "open"]);
  gateway.frozen = true;
  await pass(10_000);
  assert.deepEqual(looks, ["connecting", "open", "open hushed"]);
});

test("whatever the gateway says ends the hush", async () => {
  await open();
  gateway.owes.add("lease.resolve");
  const answer = link.request("lease.resolve", {}).catch((error: Problem) => error.code);
  await pass(4000);
  assert.equal(link.hushed, true);
  gateway.socket().say({ event_id: "e1", type: "run.started" });
  assert.equal(link.hushed, false);
  assert.equal(events.length, 1);
  for (let i = 0; i < 10; i++) {
    await pass(1000);
    gateway.socket().say({ event_id: "e", type: "run.started" });
  }
  assert.deepEqual(looks, ["connecting", "open", "open hushed", "open"], "who speaks is there, though one answer takes its time");
  await pass(2000);
  assert.equal(await answer, "timeout");
});

test("a machine that slept believes nothing until the gateway has said something", async () => {
  await open();
  gateway.owes.add("ping");
  mock.timers.setTime(Date.now() + 60_000);
  await pass(1000);
  assert.equal(link.hushed, true);
  assert.equal(link.phase, "open");
  assert.equal(gateway.times("ping"), 1);
  gateway.socket().say({ event_id: "e1", type: "run.started" });
  assert.equal(link.hushed, false);
});

test("a link that is lost waits, comes back, and says everything again", async () => {
  await open();
  gateway.owes.add("x");
  const asked = link.request("x", {}).catch((error: Problem) => error.code);
  gateway.reachable = false;
  gateway.socket().end(1006, "");
  assert.equal(await asked, "unavailable");
  assert.equal(link.phase, "waiting");
  assert.ok(link.nextAt > Date.now() && link.nextAt <= Date.now() + 500);
  assert.equal(await link.request("x", {}).catch((error: Problem) => error.code), "unavailable");
  await pass(20_000);
  const tries = gateway.sockets.length;
  assert.ok(tries >= 4 && tries <= 10, `${tries} tries in 20 s`);
  gateway.reachable = true;
  await pass(15_000);
  await until("open again", () => link.phase === "open");
  assert.equal(opened.length, 2);
  assert.equal(link.why, "");
});

test("a page that is seen again does not wait for long", async () => {
  await open();
  gateway.reachable = false;
  gateway.socket().end(1001, "going away");
  await pass(20_000);
  await until("waiting", () => link.phase === "waiting");
  assert.match(link.why, /lost/);
  gateway.reachable = true;
  document.dispatchEvent(new globalThis.Event("visibilitychange"));
  await pass(500);
  await until("open again", () => link.phase === "open");
});

test("a refusal that is final is not tried again", async () => {
  await open();
  gateway.socket().end(4001, "token expired");
  assert.equal(link.phase, "refused");
  assert.match(link.why, /token/);
  await pass(30_000);
  assert.equal(gateway.sockets.length, 1);
  await open();
  gateway.serves["connect.init"] = () => assert.fail("not for you");
  gateway.socket().end(1006, "");
  await pass(1000);
  await until("refused", () => link.phase === "refused");
  assert.equal(link.why, "not for you");
});

test("a link that is stopped while its socket opens closes it then", async () => {
  link.start();
  await until("a socket", () => gateway.sockets.length === 1);
  assert.equal(gateway.socket().readyState, WebSocket.CONNECTING);
  link.stop();
  await until("closed", () => gateway.socket().readyState === 3);
  assert.deepEqual(gateway.asked, []);
  assert.deepEqual(opened, []);
});

test("a link that was stopped stays so", async () => {
  await open();
  link.stop();
  const { length } = gateway.sockets;
  await pass(30_000);
  await turns();
  assert.equal(link.phase, "stopped");
  assert.equal(gateway.sockets.length, length);
});
