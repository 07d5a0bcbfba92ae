import assert from "node:assert/strict";
import test from "node:test";
import { judge, type Standing } from "../src/model/doubt.ts";

const open = { phase: "open", hushed: false, why: "" };

function status(more: Record<string, unknown> = {}) {
  return {
    status: "ok",
    nats: { connected: true },
    presence: { mode: "per-agent", lag_ms: 3, brake: false },
    tenant: { agents: { working: 1, online: 2, offline: 1 }, uncertain: 0 },
    ...more,
  };
}

function doubt(more: Partial<Standing>) {
  return judge({ link: open, status: status(), statusError: "", ready: { status: 200, text: "" }, age: 1000, ...more });
}

test("a page is certain when its gateway answers and vouches for its rows", () => {
  assert.equal(doubt({}), null);
  assert.equal(doubt({ ready: null }), null, "/status says more than /readyz");
});

test("a page that is cut off says why, whatever it last knew", () => {
  assert.equal(doubt({ link: { phase: "connecting", hushed: false, why: "" } }), "not connected yet");
  assert.equal(doubt({ link: { phase: "waiting", hushed: false, why: "the connection was lost" } }), "the connection was lost");
  assert.match(String(doubt({ link: { ...open, hushed: true } })), /has not answered/);
});

test("without an answer of /status nothing is certain, whatever /readyz says", () => {
  assert.equal(doubt({ status: null, ready: null }), "how presence is, is not known yet");
  assert.equal(doubt({ status: null, statusError: "not available: too slow" }), "how presence is, is not known");
  assert.equal(doubt({ status: null, ready: { status: 503, text: `{"failing":{"nats":"unreachable"}}` } }), "the gateway has lost NATS");
  assert.equal(doubt({ status: {} }), "how presence is, is not known yet", "an answer that says nothing of presence is none");
  assert.match(String(doubt({ age: 60_000 })), /last told 1 min ago/);
});

test("presence that is away or behind makes all uncertain", () => {
  assert.equal(doubt({ status: status({ nats: { connected: false } }) }), "the gateway has lost NATS");
  assert.equal(doubt({ status: status({ presence: { mode: "absent", lag_ms: 0 } }) }), "no presence process is running");
  assert.equal(doubt({ status: status({ presence: { mode: "per-agent", lag_ms: 11_000 } }) }), "presence is 11 s behind");
});

test("a gateway that does not vouch for its rows is believed, and neither the brake alone nor faults of NATS are doubt", () => {
  assert.match(String(doubt({ status: status({ status: "degraded" }) })), /does not vouch/);
  const braked = { mode: "per-agent", lag_ms: 3, brake: true };
  const tenant = { agents: { working: 1, online: 2, offline: 1 }, uncertain: 3 };
  assert.equal(doubt({ status: status({ status: "degraded", presence: braked, tenant }) }), null);
  const faulty = { connected: true, faults: ["KV_LEASES has 1 replicas, not 3"] };
  assert.equal(doubt({ status: status({ status: "degraded", nats: faulty, tenant }) }), null);
  assert.match(String(doubt({ status: status({ status: "degraded", nats: faulty, tenant: { ...tenant, uncertain: 4 } }) })), /does not vouch/);
  assert.match(String(doubt({ status: status({ status: "degraded", presence: braked, tenant: { ...tenant, uncertain: 4 } }) })), /does not vouch/);
});
