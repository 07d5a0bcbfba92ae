// What happened to one agent: what is stored of it, read in pages, and what has come since. Where something may be missing
// between the two it says so.

import type { Event } from "./types.ts";

/** keepLive is how many events that came may stand before the stored ones are to be read anew. */
export const keepLive = 500;

/** Past is a page of what is stored, newest first. */
export interface Past {
  items: Event[];
  /** next is where the page of older ones begins; none on the last. */
  next?: string;
}

export class Timeline {
  /** live came since the stored ones were read, newest first. */
  live: Event[] = [];
  stored: Event[] = [];
  /** gap says that something may be missing between live and stored. */
  gap = false;
  /** next is where older ones begin; empty when there are none, or nobody knows. */
  next = "";
  /** error says why the last reading failed; empty when it did not. */
  error = "";

  #reads = 0;
  #taken = 0;
  /** #came holds the number of the last reading that was begun before each live event came. */
  #came = new Map<string, number>();
  #known = new Set<string>();

  /** known says that the stored ones were read at all. */
  get known(): boolean {
    return this.#taken > 0;
  }

  /** add takes an event, once, and reports whether the stored ones should be read anew. */
  add(event: Event): boolean {
    if (this.#came.has(event.event_id) || this.#known.has(event.event_id)) return false;
    this.live.unshift(event);
    this.#came.set(event.event_id, this.#reads);
    if (this.live.length > 2 * keepLive) {
      this.#came.delete(this.live.pop()?.event_id ?? "");
      this.gap = true;
    }
    return this.live.length % keepLive === 0;
  }

  /** resume is called when events come again after a time in which none did. */
  resume(): void {
    this.#store([...this.live, ...this.stored]);
    this.live = [];
    this.#came.clear();
    this.gap = this.stored.length > 0;
  }

  /** read begins a reading of the newest ones; its number goes to newest. */
  read(): number {
    return ++this.#reads;
  }

  /** newest takes the newest page. What came before it was asked for is on it, or older than it and to be had by next. */
  newest(page: Past, read: number): void {
    if (read < this.#taken) return;
    this.#taken = read;
    this.#store(page.items);
    this.next = page.next ?? "";
    this.gap = false;
    this.live = this.live.filter((e) => (this.#came.get(e.event_id) ?? 0) >= read && !this.#known.has(e.event_id));
    this.#came = new Map(this.live.map((e) => [e.event_id, this.#came.get(e.event_id) ?? 0]));
  }

  /** older takes the page behind next, if that is still where the stored ones end. */
  older(page: Past, next: string): void {
    if (next !== this.next) return;
    this.#store([...this.stored, ...page.items.filter((e) => !this.#known.has(e.event_id))]);
    this.next = page.next ?? "";
  }

  #store(events: Event[]): void {
    this.stored = events;
    this.#known = new Set(events.map((e) => e.event_id));
  }
}
