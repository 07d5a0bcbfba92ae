// Listing leases, as often as it takes: all that are not over, and of those that are as many as a page keeps.

import { isOver, Leases, maxOver, states } from "./leases.ts";
import type { LeaseRow, Page } from "./types.ts";

/** pageSize is how many rows to ask for at once. The lease service may give fewer: its pages are bounded in bytes too. */
const pageSize = 1000;

/** Ask is a question to the lease service, lease.list. */
export type Ask = (query: Record<string, unknown>) => Promise<Page<LeaseRow>>;

/** LeaseListing lists leases while a page shows them: when it opens, on every new connection, and again after a failure. */
export class LeaseListing {
  /** error is why the last attempt failed; empty when it did not. */
  error = "";
  /** loaded says that they were listed once. */
  loaded = false;
  /** progress is how far a listing has come that takes more than a few pages. */
  progress = "";

  #wanted = false;
  #refused = false;
  // Whatever begins or ends a listing ends the one before it.
  #run = 0;
  #running = false;

  constructor(
    readonly leases: Leases,
    readonly ask: Ask,
    readonly changed: () => void,
  ) {}

  /** open lists them, and has them listed until close. */
  open(): Promise<void> {
    this.#wanted = true;
    return this.#list();
  }

  /** close stops that. */
  close(): void {
    this.#wanted = false;
    this.#run++;
    this.#running = false;
    this.progress = "";
  }

  /** connected lists them anew: nothing was heard between two connections. */
  connected(): Promise<void> {
    return this.#wanted ? this.#list() : Promise.resolve();
  }

  /** again lists them after a failure, but for one that will not pass. */
  again(): Promise<void> {
    return this.#wanted && !this.#running && this.error !== "" && !this.#refused ? this.#list() : Promise.resolve();
  }

  async #list(): Promise<void> {
    const run = ++this.#run;
    this.#running = true;
    this.#refused = false;
    try {
      if (!(await this.#pages(run))) return;
      this.loaded = true;
      this.error = "";
    } catch (error) {
      if (run !== this.#run) return;
      this.error = (error as Error).message;
      this.#refused = (error as { code?: string }).code === "forbidden";
    }
    this.#running = false;
    this.progress = "";
    this.changed();
  }

  // #pages lists state by state, in the order an operator wants them, and is true at the end. Between two pages the browser
  // does what else there is to do. A lease that changes its state meanwhile may be in none of the pages; an event tells.
  async #pages(run: number): Promise<boolean> {
    const { leases } = this;
    const began = leases.ask();
    const cut = new Set<string>();
    let room = maxOver;
    for (const [n, state] of states.entries()) {
      // What one state leaves is for those after it.
      let left = isOver(state) ? Math.max(1, Math.ceil(room / (states.length - n))) : Infinity;
      let taken = 0;
      let after: string | undefined;
      for (;;) {
        const asked = leases.ask();
        const page: Page<LeaseRow> = await this.ask({ state, limit: Math.min(pageSize, left), ...(after ? { after } : {}) });
        if (run !== this.#run) return false;
        leases.answer(page.items, asked);
        taken += page.items.length;
        left -= page.items.length;
        if (!page.next) break;
        if (left <= 0) {
          cut.add(state);
          break;
        }
        if (after !== undefined && page.next <= after) throw new Error("the listing does not go on");
        after = page.next;
        this.progress = `${state}, ${taken} of ${page.total}`;
        this.changed();
      }
      if (isOver(state)) room -= taken;
    }
    leases.listed(began, cut);
    return true;
  }
}
