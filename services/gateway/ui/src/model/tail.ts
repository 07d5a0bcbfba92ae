// The tail of events: a ring of the newest, with a mark where some are missing.

import type { Event } from "./types.ts";

/** keep is how many events a page holds. */
export const keep = 1000;

/** Line is an event, or a gap: events that are not kept any more. */
export type Line = { event: Event; at: number } | { gap: string; at: number };

export class Tail {
  lines: Line[] = [];
  cursor = "";
  received = 0;
  version = 0;
  #seen = new Set<string>();
  #at = 0;

  /** add takes an event; one that was seen is dropped, because delivery is at least once. */
  add(event: Event): void {
    this.cursor = event.cursor;
    if (event.type === "resync") {
      this.#push({ gap: "Events that came before this place are not kept any more: the log does not reach back that far.", at: ++this.#at });
      return;
    }
    if (this.#seen.has(event.event_id)) return;
    this.#seen.add(event.event_id);
    this.received++;
    this.#push({ event, at: ++this.#at });
  }

  clear(): void {
    this.lines = [];
    this.#seen.clear();
    this.version++;
  }

  #push(line: Line): void {
    this.lines.push(line);
    if (this.lines.length > keep + keep / 10) {
      for (const old of this.lines.splice(0, this.lines.length - keep)) if ("event" in old) this.#seen.delete(old.event.event_id);
    }
    this.version++;
  }
}

/** readTypes takes patterns as somebody types them. The error says what is wrong with one. */
export function readTypes(text: string): { types: string[] } | { error: string } {
  const types = text.split(/[\s,]+/).filter((t) => t !== "");
  if (types.length === 0) return { types: ["*"] };
  if (types.length > 64) return { error: "at most 64 types" };
  for (const type of types) {
    if (!/^(\*|[a-z0-9_-]+(\.[a-z0-9_-]+)*(\.\*)?)$/.test(type)) return { error: `“${type}” is no type: run.started, run.* or *` };
  }
  return { types };
}
