// The leases of a tenant: a listing and what has happened since.

import { compareTimes, key } from "./time.ts";
import type { Event, LeaseRow } from "./types.ts";

/** states in the order an operator wants them: what is being done first, what waits for a verdict next, what is over last. */
export const states = ["CLAIMED", "PENDING", "HOLD", "GRANTED", "EXPIRED", "DENIED", "ABANDONED", "CONSUMED"] as const;

const rank = new Map<string, number>(states.map((state, n) => [state, n]));

const over = new Set(["EXPIRED", "DENIED", "ABANDONED", "CONSUMED"]);

/** maxOver bounds how many leases that are over a page keeps. All others are kept, however many there are. */
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

/** mostMinutes is the longest that a lease is granted or held for: a day. */
const mostMinutes = 1440;

/** readMinutes takes a time as somebody types it, which may be left out. The error says what is wrong with it. */
export function readMinutes(text: string): { ms?: number } | { error: string } {
  if (text.trim() === "") return {};
  const ms = /^\d+([.,]\d+)?$/.test(text.trim()) ? Math.round(Number(text.trim().replace(",", ".")) * 60_000) : 0;
  if (ms < 1 || ms > mostMinutes * 60_000) return { error: `must be a number of minutes above 0 and at most ${mostMinutes}` };
  return { ms };
}

function newest(lease: LeaseRow): string {
  return [lease.requested_at, lease.resolved_at, lease.claimed_at, lease.ended_at].reduce<string>((a, b) => later(a, b), lease.requested_at);
}

function later(a: string, b: string | undefined): string {
  return b && compareTimes(b, a) > 0 ? b : a;
}

/** Known is how a row came to be known. */
interface Known {
  /** at is the newest time at which something certainly had happened to the lease. */
  at: string;
  /** heard and answered are the turns of the last event, and of the question whose answer was taken last; 0 for none. */
  heard: number;
  answered: number;
}

/** Place is where a row comes among all others, worked out once: the page may sort thousands of them ten times a second. */
interface Place {
  row: LeaseRow;
  rank: number;
  entered: string;
}

function compare(a: Place, b: Place): number {
  if (a.rank !== b.rank) return a.rank - b.rank;
  const byAge = a.entered !== b.entered ? (a.entered < b.entered ? -1 : 1) : a.row.lease_id < b.row.lease_id ? -1 : 1;
  return isOver(a.row.state) ? -byAge : byAge;
}

export class Leases {
  readonly rows = new Map<string, LeaseRow>();
  /** cut are the states of which not all leases are here, each with the turn since when. */
  readonly cut = new Map<string, number>();
  version = 0;

  #known = new Map<string, Known>();
  #places = new Map<string, Place>();
  #over = 0;
  #last: { version: number; state: string; agent: string; rows: LeaseRow[] } = { version: -1, state: "", agent: "", rows: [] };
  // Counts questions and events, so that it is known which was first.
  #turn = 0;

  /** ask begins a question; its answer is no older than that. */
  ask(): number {
    return ++this.#turn;
  }

  /**
   * answer takes rows that were asked for. An event that came meanwhile may be newer than they are, and stays: where they
   * are newer than it, the events that made them so are still to come.
   */
  answer(rows: LeaseRow[], asked: number): void {
    for (const row of rows) {
      const known = this.#known.get(row.lease_id);
      if (known && Math.max(known.heard, known.answered) > asked) continue;
      this.#put(row, { at: later(newest(row), known?.at), heard: known?.heard ?? 0, answered: asked });
    }
    this.#trim();
    this.version++;
  }

  /**
   * listed ends a listing that began with that question: what it did not name and nothing has happened to since is gone.
   * Of the states in cut it did not name all.
   */
  listed(began: number, cut: ReadonlySet<string>): void {
    for (const [state, since] of this.cut) if (since < began) this.cut.delete(state);
    for (const state of cut) this.cut.set(state, this.#turn);
    for (const [id, known] of this.#known) {
      if (Math.max(known.heard, known.answered) < began && !cut.has((this.rows.get(id) as LeaseRow).state)) this.#forget(id);
    }
    this.version++;
  }

  /** apply takes an event; one that an answer was ahead of changes nothing. */
  apply(event: Event): boolean {
    if (!event.type.startsWith("lease.")) return false;
    const row = event.payload.lease as LeaseRow;
    const known = this.#known.get(row.lease_id);
    const at = later(newest(row), event.occurred_at);
    if (known && this.#ahead(known, row, at)) return false;
    this.#put(row, { at, heard: ++this.#turn, answered: known?.answered ?? 0 });
    this.#trim();
    this.version++;
    return true;
  }

  // Times alone do not tell: giving back clears when a lease was claimed, retrying when it was resolved, and they are those
  // of whichever process of the lease service did it. Events come in their order, so one is never older than another
  // before it; only an answer can be ahead.
  #ahead(known: Known, row: LeaseRow, at: string): boolean {
    const as = this.rows.get(row.lease_id) as LeaseRow;
    if (isOver(as.state) !== isOver(row.state)) return isOver(as.state);
    const fence = as.fence ?? 0;
    if (fence !== (row.fence ?? 0)) return fence > (row.fence ?? 0);
    // With one fence a lease is claimed and then given back, never the other way round.
    if (fence > 0 && as.state !== row.state && !isOver(as.state)) return as.state === "GRANTED";
    return known.answered > known.heard && compareTimes(at, known.at) < 0;
  }

  /** sorted lists by state, oldest first; what is over newest first. */
  sorted(state: string, agent: string): readonly LeaseRow[] {
    const { version } = this;
    if (this.#last.version !== version || this.#last.state !== state || this.#last.agent !== agent) {
      const places = [...this.#places.values()].filter(({ row }) => (state === "" || row.state === state) && (agent === "" || row.agent_id === agent));
      this.#last = { version, state, agent, rows: places.sort(compare).map(({ row }) => row) };
    }
    return this.#last.rows;
  }

  /** counts counts by state. */
  counts(): Map<string, number> {
    const counts = new Map<string, number>();
    for (const lease of this.rows.values()) counts.set(lease.state, (counts.get(lease.state) ?? 0) + 1);
    return counts;
  }

  #put(row: LeaseRow, known: Known): void {
    this.#forget(row.lease_id);
    this.rows.set(row.lease_id, row);
    this.#known.set(row.lease_id, known);
    this.#places.set(row.lease_id, { row, rank: rank.get(row.state) ?? states.length, entered: key(entered(row)) });
    if (isOver(row.state)) this.#over++;
  }

  #forget(id: string): void {
    const row = this.rows.get(id);
    if (row && isOver(row.state)) this.#over--;
    this.rows.delete(id);
    this.#known.delete(id);
    this.#places.delete(id);
  }

  // The server lets what is over lapse after a while; here the oldest make room.
  #trim(): void {
    if (this.#over <= maxOver) return;
    const gone = [...this.rows.values()].filter((l) => isOver(l.state)).sort((a, b) => compareTimes(entered(a), entered(b)));
    for (const lease of gone.slice(0, this.#over - maxOver + maxOver / 10)) {
      this.#forget(lease.lease_id);
      this.cut.set(lease.state, this.#turn);
    }
  }
}
