import assert from "node:assert/strict";
import test from "node:test";
import { isOver, Leases, maxOver } from "../src/model/leases.ts";
import { LeaseListing, type Ask } from "../src/model/listing.ts";
import type { LeaseRow, Page } from "../src/model/types.ts";

/** inPage is how many rows the service gives at most, whatever was asked for. */
const inPage = 222;

function row(n: number, state: string): LeaseRow {
  const id = String(n).padStart(6, "0");
  const at = "2026-01-01T00:00:00Z";
  return { lease_id: id, agent_id: "agent-" + id, connection_id: "c", resource: "r", state, requested_at: at, ...(isOver(state) ? { ended_at: at } : {}) };
}

/** Service answers lease.list as the lease service does: by agent, a page at a time. */
class Service {
  asked = 0;
  /** down is how it fails; undefined while it does not. */
  down: Error | undefined;
  during: (() => void) | undefined;

  constructor(readonly rows: LeaseRow[]) {}

  ask: Ask = async (query) => {
    this.asked++;
    await null;
    if (this.down) throw this.down;
    assert.ok(Number(query.limit) >= 1 && Number(query.limit) <= 1000, String(query.limit));
    const all = this.rows.filter((r) => query.state === undefined || r.state === query.state);
    const from = all.filter((r) => r.agent_id > String(query.after ?? ""));
    const items = from.slice(0, Math.min(inPage, Number(query.limit)));
    this.during?.();
    const page: Page<LeaseRow> = { items, total: all.length };
    return from.length > items.length ? { ...page, next: items[items.length - 1]?.agent_id as string } : page;
  };
}

function page(service: Service): LeaseListing {
  return new LeaseListing(new Leases(), service.ask, () => undefined);
}

test("all leases that are not over are listed, however many there are before them", async () => {
  const service = new Service([]);
  for (let n = 0; n < 6000; n++) service.rows.push(row(n, "GRANTED"));
  for (let n = 6000; n < 9000; n++) service.rows.push(row(n, "CONSUMED"));
  service.rows.push(row(9000, "CLAIMED"), row(9001, "PENDING"), row(9002, "HOLD"), row(9003, "DENIED"));
  const listing = page(service);
  const said: string[] = [];
  service.during = () => void said.push(listing.progress);
  await listing.open();
  assert.equal(listing.error, "");
  assert.equal(listing.loaded, true);
  const counts = listing.leases.counts();
  for (const [state, n] of [["CLAIMED", 1], ["PENDING", 1], ["HOLD", 1], ["GRANTED", 6000], ["DENIED", 1]] as const) assert.equal(counts.get(state), n, state);
  const consumed = counts.get("CONSUMED") ?? 0;
  assert.ok(consumed > maxOver / 2 && consumed <= maxOver, String(consumed));
  assert.deepEqual([...listing.leases.cut.keys()], ["CONSUMED"], "what is cut says so, and nothing else");
  assert.ok(said.includes("GRANTED, 222 of 6000"), said.join());
  assert.equal(listing.progress, "");
  assert.deepEqual(listing.leases.sorted("", "").slice(0, 3).map((l) => l.state), ["CLAIMED", "PENDING", "HOLD"]);
});

test("every state that is over has its share, and a later listing that is whole says so", async () => {
  const service = new Service([]);
  for (const [n, state] of ["EXPIRED", "DENIED", "ABANDONED", "CONSUMED"].entries()) for (let i = 0; i < 600; i++) service.rows.push(row(n * 1000 + i, state));
  const listing = page(service);
  await listing.open();
  for (const state of ["EXPIRED", "DENIED", "ABANDONED", "CONSUMED"]) assert.equal(listing.leases.counts().get(state), maxOver / 4, state);
  assert.equal(listing.leases.cut.size, 4);
  service.rows.splice(0, service.rows.length, row(1, "CLAIMED"));
  await listing.connected();
  assert.equal(listing.leases.rows.size, 1);
  assert.equal(listing.leases.cut.size, 0);
});

test("leases are listed again after a failure until they are there, while somebody looks", async () => {
  const service = new Service([row(1, "CLAIMED")]);
  service.down = new Error("no lease process answered");
  const listing = page(service);
  await listing.again();
  assert.equal(service.asked, 0, "nobody looks");
  await listing.open();
  assert.equal(listing.error, "no lease process answered");
  assert.equal(listing.loaded, false);
  await Promise.all([listing.again(), listing.again()]);
  assert.equal(service.asked, 2, "one at a time");
  service.down = undefined;
  await listing.again();
  assert.equal(listing.error, "");
  assert.equal(listing.loaded, true);
  assert.equal(listing.leases.rows.size, 1);
  const asked = service.asked;
  await listing.again();
  assert.equal(service.asked, asked, "they are there");
  service.down = new Error("away");
  await listing.connected();
  listing.close();
  await listing.again();
  await listing.connected();
  assert.equal(service.asked, asked + 1, "nobody looks any more");
});

test("who may not list leases does not ask for them all the time", async () => {
  const service = new Service([]);
  service.down = Object.assign(new Error("the token lacks operator.read"), { code: "forbidden" });
  const listing = page(service);
  await listing.open();
  await listing.again();
  assert.equal(service.asked, 1);
  assert.equal(listing.error, "the token lacks operator.read");
  service.down = undefined;
  await listing.connected();
  assert.equal(listing.error, "", "a new connection may have another token");
});

test("a listing that another one overtakes, or that nobody waits for, changes nothing more", async () => {
  const service = new Service([row(1, "CLAIMED")]);
  const listing = page(service);
  const old = listing.open();
  service.rows.splice(0, 1, row(2, "CLAIMED"));
  await Promise.all([old, listing.connected()]);
  assert.deepEqual([...listing.leases.rows.keys()], ["000002"]);
  const asked = service.asked;
  const left = listing.open();
  listing.close();
  await left;
  assert.equal(service.asked, asked + 1, "it ends with the page that is under way");
});

test("a listing that does not go on is given up", async () => {
  const ask: Ask = async () => ({ items: [row(1, "CLAIMED")], total: 9, next: "agent-000001" });
  const listing = new LeaseListing(new Leases(), ask, () => undefined);
  await listing.open();
  assert.equal(listing.error, "the listing does not go on");
});

test("what happens to a lease while the pages come is kept", async () => {
  const service = new Service([row(1, "GRANTED")]);
  const listing = page(service);
  service.during = () => {
    service.during = undefined; // CLAIMED is listed: it is claimed now, and so GRANTED will not name it
    service.rows.length = 0;
    const claimed = { ...row(1, "CLAIMED"), fence: 1 };
    listing.leases.apply({ event_id: "e", type: "lease.claimed", occurred_at: "2026-01-01T00:00:01Z", scope: { kind: "agent" }, payload: { lease: claimed }, cursor: "" });
  };
  await listing.open();
  assert.equal(listing.leases.rows.get("000001")?.state, "CLAIMED");
});
