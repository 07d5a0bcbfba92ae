// The leases of a tenant: a listing and what has happened since.

import { compareTimes } from "./time.ts";
import type { Event, LeaseRow } from "./types.ts";

/** states in the order an operator wants them: what is being done first, what waits for a verdict next, what is over last. */
export const states = ["CLAIMED", "PENDING", "HOLD", "GRANTED", "EXPIRED", "DENIED", "ABANDONED", "CONSUMED"] as const;

const over = new Set(["EXPIRED", "DENIED", "ABANDONED", "CONSUMED"]);

/** maxOver bounds how many leases that are over a page keeps. */
export const maxOver = 1000;

export function isOver(state: string): boolean {
  return over.has(state);
}

/** entered is when a lease came to its state. */
export function entered(lease: LeaseRow): string {
  if (isOver(lease.state)) return lease.ended_at ?? lease.resolved_at ?? lease.requested_at;
  if (lease.state === "CLAIMED") return lease.claimed_at ?? lease.requested_at;
  if (lease.state === "PENDING") return lease.requested_at;
  return lease.resolved_at ?? lease.requested_at;
}

function newest(lease: LeaseRow): string {
  return [lease.requested_at, lease.resolved_at, lease.claimed_at, lease.ended_at].reduce<string>(
    (a, b) => (b && compareTimes(b, a) > 0 ? b : a),
    lease.requested_at,
  );
}

export class Leases {
  readonly rows = new Map<string, LeaseRow>();
  version = 0;

  // What has happened since a listing was asked for, which may be older than that.
  #heard: LeaseRow[] = [];

  /** ask begins a listing. */
  ask(): void {
    this.#heard = [];
  }

  /** list replaces everything by a listing, but for what has happened since it was asked for. */
  list(rows: LeaseRow[]): void {
    const heard = this.#heard;
    this.#heard = [];
    this.rows.clear();
    for (const row of rows) this.rows.set(row.lease_id, row);
    for (const row of heard) this.take(row);
    this.#trim();
    this.version++;
  }

  /** apply takes an event; one that the listing was ahead of changes nothing. */
  apply(event: Event): boolean {
    if (!event.type.startsWith("lease.")) return false;
    return this.take(event.payload.lease as LeaseRow);
  }

  /** take takes one row. */
  take(row: LeaseRow): boolean {
    this.#heard.push(row);
    if (this.#heard.length > maxOver) this.#heard.shift();
    const known = this.rows.get(row.lease_id);
    if (known && (compareTimes(newest(row), newest(known)) < 0 || (isOver(known.state) && !isOver(row.state)))) return false;
    this.rows.set(row.lease_id, row);
    this.#trim();
    this.version++;
    return true;
  }

  /** sorted lists by state, oldest first; what is over newest first. */
  sorted(state: string, agent: string): LeaseRow[] {
    const rank = new Map<string, number>(states.map((s, i) => [s, i]));
    return [...this.rows.values()]
      .filter((l) => (state === "" || l.state === state) && (agent === "" || l.agent_id === agent))
      .sort((a, b) => {
        const byState = (rank.get(a.state) ?? states.length) - (rank.get(b.state) ?? states.length);
        if (byState !== 0) return byState;
        const byAge = compareTimes(entered(a), entered(b)) || (a.lease_id < b.lease_id ? -1 : 1);
        return isOver(a.state) ? -byAge : byAge;
      });
  }

  /** counts counts by state. */
  counts(): Map<string, number> {
    const counts = new Map<string, number>();
    for (const lease of this.rows.values()) counts.set(lease.state, (counts.get(lease.state) ?? 0) + 1);
    return counts;
  }

  // The server lets what is over lapse after a while; here the oldest make room.
  #trim(): void {
    let n = 0;
    for (const lease of this.rows.values()) if (isOver(lease.state)) n++;
    if (n <= maxOver) return;
    const gone = [...this.rows.values()].filter((l) => isOver(l.state)).sort((a, b) => compareTimes(entered(a), entered(b)));
    for (const lease of gone.slice(0, n - maxOver + maxOver / 10)) this.rows.delete(lease.lease_id);
  }
}
