// How far what is shown may be believed. No clock, no I/O: everything comes in.

import type { Doubt } from "./fleet.ts";
import { span } from "./time.ts";

/** tooLate is how far presence may be behind before statuses are no longer certain. */
const tooLate = 10_000;
/** tooOld is for how long the answer of /status is good. */
const tooOld = 10_000;

/** Standing is what this page knows of its way to the rows. */
export interface Standing {
  link: { phase: string; hushed: boolean; why: string };
  /** status is the answer of /status; null while there is none. */
  status: any;
  /** statusError says why there is none; empty while it was not asked for. */
  statusError: string;
  ready: { status: number; text: string } | null;
  /** age is how long ago both were asked for. */
  age: number;
}

/** judge says why nothing is certain; null when the page can vouch for what it shows. */
export function judge({ link, status, statusError, ready, age }: Standing): Doubt {
  if (link.hushed) return "the gateway has not answered for a while";
  if (link.phase !== "open") return link.why || "not connected yet";
  if (status === null || typeof status.presence?.mode !== "string") {
    if (ready?.status === 503 && /nats|view|row/.test(ready.text)) return "the gateway has lost NATS";
    return statusError === "" ? "how presence is, is not known yet" : "how presence is, is not known";
  }
  if (age > tooOld) return `how presence is was last told ${span(age)} ago`;
  const { presence, nats, tenant } = status;
  if (nats?.connected === false) return "the gateway has lost NATS";
  if (presence.mode === "absent") return "no presence process is running";
  if (presence.lag_ms > tooLate) return `presence is ${span(presence.lag_ms)} behind`;
  // The brake, and a NATS that is less than was asked for, degrade a gateway too and leave rows certain.
  const explained = presence.brake || nats?.faults?.length > 0;
  const agents = Object.values<number>(tenant?.agents ?? {}).reduce((sum, n) => sum + n, 0);
  if (explained ? agents > 0 && tenant.uncertain === agents : status.status === "degraded") return "the gateway does not vouch for its rows";
  return null;
}
