import assert from "node:assert/strict";
import test from "node:test";
import { describe } from "../src/model/describe.ts";
import { delay } from "../src/model/backoff.ts";
import { arrange, hit, move, place } from "../src/model/layout.ts";
import { entered, Leases, maxOver, readMinutes } from "../src/model/leases.ts";
import { addSample, hour, merge, readSamples, runs, sampleEvery, words, type Counted, type Sample } from "../src/model/strip.ts";
import { keep, readTypes, Tail } from "../src/model/tail.ts";
import { age, compareTimes, moment } from "../src/model/time.ts";
import type { Event, LeaseRow } from "../src/model/types.ts";
import { base32, base64url } from "../src/wire/key.ts";

test("times compare by all their digits", () => {
  const order = ["2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000001Z", "2026-01-01T00:00:00.05Z", "2026-01-01T00:00:00.5Z", "2026-01-01T00:00:01Z"];
  for (let i = 0; i < order.length; i++)
    for (let j = 0; j < order.length; j++) assert.equal(compareTimes(order[i], order[j]), Math.sign(i - j), `${order[i]} ${order[j]}`);
  assert.equal(compareTimes("2026-01-01T00:00:00.10Z", "2026-01-01T00:00:00.1Z"), 0);
  assert.equal(compareTimes(undefined, order[0]), -1);
  assert.equal(age("2026-01-01T00:00:00Z", Date.parse("2026-01-01T02:03:00Z")), "2 h 3 min");
});

test("an event says in a few words what it is about, and one of another version breaks nothing", () => {
  const of = (type: string, payload: unknown) => describe({ event_id: "e", type, occurred_at: "", scope: { kind: "global" }, payload, cursor: "" });
  assert.equal(of("presence.changed", { previous: "online", status: "offline", reason: "gateway_lost" }), "online → offline, gateway_lost");
  assert.equal(of("presence.upserted", { entry: { agent_id: "a1", reason: "connected" } }), "a1, connected");
  assert.equal(of("lease.expired", { lease: { resource: "deploy/x", reason: "timeout" } }), "deploy/x, timeout");
  assert.equal(of("connection.closed", { reason: "client_closed" }), "client_closed");
  assert.equal(of("run.started", { run_id: "r", agent_id: "a1", title: "test" }), "a1, test");
  for (const type of ["presence.upserted", "presence.pruned", "connection.closed", "lease.x", "run.x", "other.thing"]) assert.equal(of(type, {}), "", type);
  assert.equal(moment("2026-01-02T03:04:05.000000006Z"), "2026-01-02 03:04:05 UTC");
});

test("cells fit where they can, and every cell is found where it was placed", () => {
  for (const [count, width, height] of [[0, 300, 200], [1, 300, 200], [2000, 1200, 500], [10_000, 1240, 600], [10_000, 280, 400], [7, 5, 5]] as const) {
    const l = arrange(count, width, height);
    assert.ok(l.cell >= 8 && l.cell <= 28);
    assert.ok(l.width <= Math.max(width, l.cell), "never wider than its box");
    assert.ok(l.columns * l.rows >= count);
    if (l.cell > 8) assert.ok(l.height <= height || l.rows === 1);
    for (const i of [0, 1, Math.floor(count / 2), count - 1]) {
      if (i < 0 || i >= count) continue;
      const { x, y } = place(l, i);
      assert.equal(hit(l, count, x + 1, y + 1), i);
      assert.equal(hit(l, count, x + l.cell - 1, y + l.cell - 1), i);
    }
    assert.equal(hit(l, count, l.width + 1, 1), -1);
    assert.equal(hit(l, count, 1, l.height + 1), -1);
  }
});

test("keys move within the cells", () => {
  const l = arrange(100, 280, 1000);
  assert.equal(l.columns, 10);
  assert.equal(move(l, 100, 5, "ArrowDown"), 15);
  assert.equal(move(l, 100, 95, "ArrowDown"), 99);
  assert.equal(move(l, 100, 0, "ArrowLeft"), 0);
  assert.equal(move(l, 100, 50, "End"), 99);
  assert.equal(move(l, 100, -1, "ArrowRight"), 0);
  assert.equal(move(l, 100, 5, "x"), undefined);
  assert.equal(move(l, 0, -1, "Home"), undefined);
});

test("samples are one per interval and an hour at most; gaps stay gaps", () => {
  const counts = { working: 1, online: 2, offline: 3, uncertain: 0 };
  let samples: Sample[] = [];
  for (let t = 0; t <= 2 * hour; t += 3000) samples = addSample(samples, t, counts);
  assert.ok(samples.length <= hour / sampleEvery + 1, String(samples.length));
  assert.equal(runs(samples).length, 1);
  samples = addSample(samples, 2 * hour + 600_000, counts);
  assert.equal(runs(samples).length, 2);
  assert.deepEqual(readSamples(JSON.stringify(samples), 2 * hour + 600_000), samples.filter(([t]) => t > hour + 600_000));
  assert.deepEqual(readSamples("[[1,2],null]", 5), []);
  assert.deepEqual(readSamples("{", 5), []);
});

test("what the gateway counted fills what this page did not see, and corrects what it could not be sure of", () => {
  const start = Date.parse("2026-01-01T00:00:00Z");
  const now = start + 100_000;
  const counted = (s: number, working: number, uncertain = 0): Counted => ({ at: new Date(start + s * 1000).toISOString(), working, online: 0, offline: 0, uncertain });
  const own: Sample[] = [[start + 20_000, 0, 0, 0, 5], [start + 30_000, 2, 0, 0, 0], [start + 40_000, 3, 0, 0, 0]];
  const merged = merge(own, [counted(3, 1), counted(21, 5), counted(33, 0, 5), counted(-4000, 9), counted(500, 9)], 0, now);
  assert.deepEqual(merged, [[start, 1, 0, 0, 0], [start + 20_000, 5, 0, 0, 0], [start + 30_000, 2, 0, 0, 0], [start + 40_000, 3, 0, 0, 0]]);
  assert.deepEqual(merge([], [counted(0, 1)], 10_000, now), [[start + 10_000, 1, 0, 0, 0]], "by this browser's clock");
  assert.deepEqual(merge(own, [], 0, now), own);
  assert.deepEqual(merge([], [{ at: "?" } as Counted], 0, now), []);
});

test("the strip says how much of the hour it does not know", () => {
  assert.equal(words([]), "nothing is known yet");
  const at = (n: number, working: number): Sample => [n * sampleEvery, working, 0, 0, 0];
  assert.equal(words([at(0, 2)]), "2 working in the minute that is known; hatched: not known");
  assert.equal(words(Array.from({ length: 72 }, (_, n) => at(n, n % 3))), "0 to 2 working in the 12 minutes that are known; hatched: not known");
  assert.equal(words(Array.from({ length: 360 }, (_, n) => at(n, 4))), "4 working");
});

function lease(id: string, state: string, more: Partial<LeaseRow> = {}): LeaseRow {
  return { lease_id: id, agent_id: "a", connection_id: "c", resource: "r/" + id, state, requested_at: "2026-01-01T00:00:00Z", ...more };
}

/** told is a lease's event, as the socket brings it. */
function told(row: LeaseRow, at = ""): Event {
  return { event_id: "e", type: "lease.x", occurred_at: at, scope: { kind: "agent" }, payload: { lease: row }, cursor: "" };
}

const second = (n: number) => `2026-01-01T00:00:0${n}Z`;

/** list takes a listing that was asked for then; now where nothing is said. */
function list(leases: Leases, rows: LeaseRow[], asked = leases.ask()): void {
  leases.answer(rows, asked);
  leases.listed(asked, new Set());
}

test("what happens while leases are listed is kept, though the listing is older", () => {
  const leases = new Leases();
  leases.apply(told(lease("lapsed", "CONSUMED", { ended_at: "2026-01-01T00:00:01Z" })));
  const asked = leases.ask();
  leases.apply(told(lease("new", "PENDING")));
  list(leases, [lease("old", "CLAIMED")], asked);
  assert.deepEqual([...leases.rows.keys()].sort(), ["new", "old"], "what came before it was asked for is as the listing says");
});

test("claimed leases come first and the oldest of them first; ended ones come last, newest first", () => {
  const leases = new Leases();
  list(leases, [
    lease("g", "GRANTED"),
    lease("c2", "CLAIMED", { claimed_at: "2026-01-01T00:00:09Z" }),
    lease("e1", "CONSUMED", { ended_at: "2026-01-01T00:00:01Z" }),
    lease("c1", "CLAIMED", { claimed_at: "2026-01-01T00:00:08Z" }),
    lease("p", "PENDING"),
    lease("e2", "CONSUMED", { ended_at: "2026-01-01T00:00:02Z" }),
  ]);
  assert.deepEqual(leases.sorted("", "").map((l) => l.lease_id), ["c1", "c2", "p", "g", "e2", "e1"]);
  assert.deepEqual(leases.sorted("CLAIMED", "a").map((l) => l.lease_id), ["c1", "c2"]);
  assert.deepEqual(leases.sorted("", "nobody"), []);
  assert.equal(entered(lease("x", "HOLD", { resolved_at: "2026-01-01T00:00:05Z" })), "2026-01-01T00:00:05Z");
});

test("a lease that is given back is granted again, though its row forgets when it was claimed", () => {
  const granted = lease("a", "GRANTED", { resolved_at: second(1) });
  const claimed = lease("a", "CLAIMED", { resolved_at: second(1), claimed_at: second(2), fence: 1 });
  const back = lease("a", "GRANTED", { resolved_at: second(1), fence: 1, reason: "not now" });
  for (const known of ["by an event", "by a listing"]) {
    const leases = new Leases();
    if (known === "by an event") {
      leases.apply(told(granted, second(1)));
      leases.apply(told(claimed, second(2)));
    } else list(leases, [claimed]);
    assert.equal(leases.apply(told(back, second(3))), true, known);
    assert.equal(leases.rows.get("a")?.state, "GRANTED", known);
    assert.equal(leases.apply(told({ ...claimed, claimed_at: second(4), fence: 2 }, second(4))), true, known);
    assert.equal(leases.rows.get("a")?.fence, 2, known);
  }
});

test("a lease that was on hold waits for a verdict again, though its row forgets the one it had", () => {
  const held = lease("a", "HOLD", { resolved_at: second(2), verdict: { decision: "hold", by: "o" } });
  for (const known of ["by an event", "by a listing"]) {
    const leases = new Leases();
    if (known === "by an event") leases.apply(told(held, second(2)));
    else list(leases, [held]);
    assert.equal(leases.apply(told(lease("a", "PENDING"), second(3))), true, known);
    assert.equal(leases.rows.get("a")?.state, "PENDING", known);
    assert.deepEqual(leases.sorted("PENDING", "").map((l) => l.lease_id), ["a"]);
  }
});

test("a lease that is renewed has its new deadline", () => {
  const leases = new Leases();
  const claimed = lease("a", "CLAIMED", { claimed_at: second(1), claim_expires_at: second(5), fence: 1 });
  list(leases, [claimed]);
  assert.equal(leases.apply(told({ ...claimed, claim_expires_at: second(9) }, second(4))), true);
  assert.equal(leases.rows.get("a")?.claim_expires_at, second(9));
});

test("an event that a listing was ahead of changes nothing", () => {
  const leases = new Leases();
  list(leases, [lease("a", "CLAIMED", { resolved_at: "2026-01-01T00:00:01Z", claimed_at: "2026-01-01T00:00:02Z" })]);
  assert.equal(leases.apply(told(lease("a", "GRANTED", { resolved_at: "2026-01-01T00:00:01Z" }))), false);
  assert.equal(leases.apply(told(lease("a", "CONSUMED", { claimed_at: "2026-01-01T00:00:02Z", ended_at: "2026-01-01T00:00:03Z" }))), true);
  assert.equal(leases.apply(told(lease("a", "CLAIMED", { claimed_at: "2026-01-01T00:00:04Z" }))), false, "what is over stays over");
});

test("minutes are read as they are typed", () => {
  assert.deepEqual(readMinutes("  "), {});
  assert.deepEqual(readMinutes("15"), { ms: 900_000 });
  assert.deepEqual(readMinutes(" 0.5 "), { ms: 30_000 });
  assert.deepEqual(readMinutes("1,5"), { ms: 90_000 });
  assert.deepEqual(readMinutes("1440"), { ms: 86_400_000 });
  for (const bad of ["0", "0.000001", "1440.1", "-1", "1e2", "5 min", "1.5.2", "NaN"]) {
    const read = readMinutes(bad);
    assert.equal("error" in read && read.error, "must be a number of minutes above 0 and at most 1440", bad);
  }
});

test("ended leases are bounded, live ones are kept", () => {
  const leases = new Leases();
  leases.apply(told(lease("live", "CLAIMED")));
  for (let i = 0; i < 2 * maxOver; i++) leases.apply(told(lease("l" + i, "CONSUMED", { ended_at: new Date(i * 1000).toISOString() })));
  assert.ok(leases.rows.size <= maxOver + 1);
  assert.ok(leases.rows.has("live"));
  assert.ok(leases.rows.has("l" + (2 * maxOver - 1)), "the newest is kept");
});

test("the tail drops what it has seen, keeps so many, and marks a gap", () => {
  const tail = new Tail();
  const event = (id: number, type = "run.started"): Event => ({ event_id: String(id), type, occurred_at: "", scope: { kind: "global" }, payload: {}, cursor: "c" + id });
  tail.add(event(1));
  tail.add(event(1));
  assert.equal(tail.lines.length, 1);
  tail.add(event(2, "resync"));
  assert.ok("gap" in (tail.lines[1] as object));
  for (let i = 3; i < 5000; i++) tail.add(event(i));
  assert.ok(tail.lines.length <= keep * 1.1);
  assert.equal(tail.cursor, "c4999");
  assert.equal(tail.received, 4998);
});

test("types are read as they are typed", () => {
  assert.deepEqual(readTypes(""), { types: ["*"] });
  assert.deepEqual(readTypes(" run.*, presence.changed *"), { types: ["run.*", "presence.changed", "*"] });
  for (const bad of ["run.", "Run", "*.x", "a.**"]) assert.ok("error" in readTypes(bad), bad);
});

test("waits grow, are spread and end somewhere", () => {
  for (let n = 0; n < 40; n++) {
    assert.ok(delay(n, 0) >= 250 && delay(n, 0.999) <= 15_000);
    assert.ok(delay(n, 0.999) > delay(n, 0));
  }
  assert.ok(delay(5, 0) > delay(0, 0.999));
});

test("ids are encoded as the gateway does", () => {
  // RFC 4648, in lower case and without padding.
  assert.equal(base32(new TextEncoder().encode("foobar")), "mzxw6ytboi");
  assert.equal(base32(new TextEncoder().encode("foo")), "mzxw6");
  assert.equal(base64url(new Uint8Array([251, 255, 254])), "-__-");
});
