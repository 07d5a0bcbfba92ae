import assert from "node:assert/strict";
import test from "node:test";
import { keepLive, Timeline } from "../src/model/timeline.ts";
import type { Event } from "../src/model/types.ts";

function events(...ids: (number | string)[]): Event[] {
  return ids.map((id) => ({ event_id: String(id), type: "run.x", occurred_at: "", scope: { kind: "agent" }, payload: {}, cursor: "" }));
}

function add(timeline: Timeline, ...ids: (number | string)[]): void {
  for (const event of events(...ids)) timeline.add(event);
}

function shown(timeline: Timeline): string {
  return [...timeline.live.map((e) => e.event_id), ...(timeline.gap ? ["gap"] : []), ...timeline.stored.map((e) => e.event_id), ...(timeline.next === "" ? [] : ["more"])].join(" ");
}

test("what came and what is stored is one list, and nothing is in it twice", () => {
  const t = new Timeline();
  const read = t.read();
  add(t, 4, 5);
  assert.equal(t.known, false);
  t.newest({ items: events(4, 3, 2), next: "n2" }, read);
  assert.equal(t.known, true);
  add(t, 4, 6, 6);
  assert.equal(shown(t), "6 5 4 3 2 more");
});

test("what happened in an outage is marked as missing until it has been read", () => {
  const t = new Timeline();
  t.newest({ items: events(2, 1) }, t.read());
  add(t, 3);
  t.resume();
  add(t, 7);
  assert.equal(shown(t), "7 gap 3 2 1");
  const read = t.read();
  add(t, 8);
  t.newest({ items: events(7, 6, 5, 4, 3, 2, 1) }, read);
  assert.equal(shown(t), "8 7 6 5 4 3 2 1");
});

test("an outage that is longer than a page leaves what is older to be asked for, not a hole", () => {
  const t = new Timeline();
  t.newest({ items: events(2, 1) }, t.read());
  add(t, 3);
  t.resume();
  t.newest({ items: events(9, 8), next: "n8" }, t.read());
  assert.equal(shown(t), "9 8 more");
  t.older({ items: events(7, 6), next: "n6" }, "n8");
  t.older({ items: events(7, 6), next: "n6" }, "n8"); // asked for twice
  assert.equal(shown(t), "9 8 7 6 more");
  t.older({ items: events(5) }, "n6");
  assert.equal(shown(t), "9 8 7 6 5");
});

test("a reading that is overtaken by a later one is not taken", () => {
  const t = new Timeline();
  const [first, second] = [t.read(), t.read()];
  t.newest({ items: events(5, 4) }, second);
  t.newest({ items: events(3, 2) }, first);
  assert.equal(shown(t), "5 4");
});

test("an outage before anything was known leaves no gap", () => {
  const t = new Timeline();
  t.resume();
  add(t, 1);
  assert.equal(shown(t), "1");
});

test("so many that came ask for a reading, and without one they are bounded and the hole is marked", () => {
  const t = new Timeline();
  t.newest({ items: events("old") }, t.read());
  let asked = 0;
  for (let i = 0; i < 2 * keepLive + 1; i++) if (t.add(events(i)[0] as Event)) asked++;
  assert.ok(asked >= 2);
  assert.equal(t.live.length, 2 * keepLive);
  assert.ok(t.gap);
  t.newest({ items: events(2 * keepLive, 2 * keepLive - 1), next: "n" }, t.read());
  assert.equal(shown(t), `${2 * keepLive} ${2 * keepLive - 1} more`);
});
