// What the screens share: the socket, what it brought, and how far it may be believed.

import { judge } from "./model/doubt.ts";
import { Fleet } from "./model/fleet.ts";
import { Leases } from "./model/leases.ts";
import { LeaseListing } from "./model/listing.ts";
import { addSample, merge, readSamples, sampleEvery, type Counted, type Sample } from "./model/strip.ts";
import { Tail } from "./model/tail.ts";
import { Timeline, type Past } from "./model/timeline.ts";
import type { AgentRow, Event, GatewayAlive, InstanceRow, LeaseRow, Page, Welcome } from "./model/types.ts";
import { ask, probe, Refused, signIn, signOut } from "./wire/http.ts";
import { Link, Problem } from "./wire/link.ts";

/** follows are the events that keep the fleet, the inventory and the leases current; presence.changed comes by presence.subscribe. */
const follows = ["presence.upserted", "presence.pruned", "connection.opened", "connection.closed", "lease.*"];

/** paint is the least time between two updates of the page. */
const paint = 100;
const pageSize = 1000;
/** pastSize is how much of an agent's past is read at once. */
const pastSize = 200;
/** healthWait is how long the gateway has to say how it is. */
const healthWait = 5_000;

export interface Health {
  /** status is the answer of /status; null while there is none. */
  status: any;
  statusError: string;
  ready: { status: number; text: string } | null;
}

export class App {
  readonly fleet = new Fleet();
  readonly leases = new Leases();
  readonly tail = new Tail();
  /** painters are the maps on the page, which take what fleet.changed holds. */
  painters = 0;
  samples: Sample[] = [];
  welcome: Welcome | null = null;
  health: Health = { status: null, statusError: "", ready: null };
  /** healthAt is when health was asked for. */
  healthAt = 0;
  /** seenAt is when the gateway last said anything while this page was certain. */
  seenAt = 0;
  everLive = false;
  /** noEvents says why openings, closings and leases do not come in; empty when they do. */
  noEvents = "";
  /** watched is the agent whose page is open, with what happened to it meanwhile. */
  watched = "";
  timeline = new Timeline();

  tailPaused = false;
  tailTypes: string[] = ["*"];
  tailError = "";

  readonly link = new Link({
    onOpen: (welcome) => this.#opened(welcome),
    onEvent: (event) => this.#event(event),
    onChange: () => this.#judge(),
  });
  /** tailLink has a socket of its own: a tail that cannot keep up is closed, and the fleet must not be closed with it. */
  readonly tailLink = new Link({
    onOpen: (welcome) => {
      if (!this.#isOurs(welcome.tenant_id)) throw new Error("the page is another tenant's");
      return this.#subscribeTail();
    },
    onEvent: (event) => this.#tailEvent(event),
    onChange: () => this.changed(),
  });

  readonly leaseListing = new LeaseListing(
    this.leases,
    (query) => this.link.request<Page<LeaseRow>>("lease.list", query),
    () => this.changed(),
  );

  #listeners = new Set<() => void>();
  #painted = 0;
  #scheduled = false;
  #polling = false;
  #polls = 0;
  #nudged = false;
  /** #asked counts the questions of how the gateway is: only the answer to the last one counts. */
  #asked = 0;
  #listing = false;
  /** #relist says that the inventory has to be listed again. */
  #relist = false;
  #refetch = 0;
  #subscription = "";

  constructor() {
    setInterval(() => void this.#poll(), 2000);
    setInterval(() => this.#sample(), sampleEvery / 2);
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && void this.#seen());
    this.link.start();
  }

  /** listen calls f after changes, at most once per paint. */
  listen(f: () => void): () => void {
    this.#listeners.add(f);
    return () => this.#listeners.delete(f);
  }

  /** changed makes the page draw itself again, soon. */
  changed(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const wait = Math.max(0, this.#painted + paint - performance.now());
    const draw = () => {
      this.#scheduled = false;
      this.#painted = performance.now();
      for (const f of this.#listeners) f();
      // Listeners draw after this has returned. Whoever paints changed agents forgets them when it has; without a
      // painter nobody would.
      if (this.painters === 0) this.fleet.changed.clear();
    };
    // A hidden page gets no frames, and has nothing to draw until it is seen again.
    if (wait === 0) requestAnimationFrame(draw);
    else setTimeout(() => requestAnimationFrame(draw), wait);
  }

  async signIn(token: string): Promise<void> {
    await signIn(token);
    this.link.start();
  }

  async signOut(): Promise<void> {
    this.link.stop();
    this.tailLink.stop();
    await signOut().catch(() => undefined);
    location.reload();
  }

  async #opened(welcome: Welcome): Promise<void> {
    const { link, fleet } = this;
    if (!this.#isOurs(welcome.tenant_id)) throw new Error("the page is another tenant's");
    this.welcome = welcome;
    fleet.begin();
    const health = this.#askHealth();
    const snapshot = await link.request<{ statuses: AgentRow[]; cursor: string }>("presence.subscribe", { all: true }, 60_000);
    fleet.snapshot(snapshot.statuses);
    if (this.samples.length === 0) this.samples = readSamples(localStorage.getItem(this.#place()), Date.now());
    try {
      await link.request("events.subscribe", { types: follows, cursor: snapshot.cursor });
      fleet.followsConnections = true;
      this.noEvents = "";
    } catch (error) {
      if (!(error instanceof Problem) || error.code !== "forbidden") throw error;
      this.noEvents = error.message;
    }
    await health; // nothing is certain before
    // The statuses are to be seen first: a large inventory keeps the page busy for a moment.
    setTimeout(() => void this.#inventory(), 250);
    setTimeout(() => void this.#lastHour(), 50);
    void this.leaseListing.connected();
    if (this.watched !== "") {
      this.timeline.resume();
      void this.readPast();
      void this.fetchAgent(this.watched);
    }
    this.everLive = true;
  }

  // A cookie may have become another tenant's, in this tab or the next. Nothing of the last one may stay on the page.
  #isOurs(tenant: string): boolean {
    if (this.welcome === null || this.welcome.tenant_id === tenant) return true;
    this.link.stop();
    this.tailLink.stop();
    location.reload();
    return false;
  }

  #event(event: Event): void {
    if (event.type === "resync") {
      this.link.again("events were missed");
      return;
    }
    const relevant = this.fleet.apply(event);
    const lease = this.leases.apply(event);
    if (event.scope.kind === "agent" && event.scope.id === this.watched && this.watched !== "") {
      if (this.timeline.add(event)) void this.readPast();
      clearTimeout(this.#refetch);
      const agent = this.watched;
      this.#refetch = window.setTimeout(() => void this.fetchAgent(agent), 250);
      this.changed();
    }
    // A gateway that is new is certain once it has been asked for.
    if (event.type === "connection.opened" && !this.fleet.answers(event.payload)) this.#nudge();
    if (relevant || lease) this.changed();
  }

  #nudge(): void {
    if (this.#nudged) return;
    this.#nudged = true;
    setTimeout(() => {
      this.#nudged = false;
      void this.#poll();
    }, 300);
  }

  /** watch keeps what happens to one agent while its page is open. */
  watch(agent: string): void {
    this.watched = agent;
    this.timeline = new Timeline();
    void this.readPast();
    void this.fetchAgent(agent);
  }

  /** unwatch ends that. The next agent's page may have begun before the last one's has ended. */
  unwatch(agent: string): void {
    if (this.watched === agent) this.watched = "";
  }

  /** readPast asks for what is stored of the watched agent: the newest, or what is older than that which is shown. */
  async readPast(older = false): Promise<void> {
    const { timeline, watched } = this;
    const { next } = timeline;
    const read = older ? 0 : timeline.read();
    try {
      const page = await ask<Past>(`/agents/${encodeURIComponent(watched)}/history?include=all&limit=${pastSize}${older ? "&before=" + encodeURIComponent(next) : ""}`);
      if (older) timeline.older(page, next);
      else timeline.newest(page, read);
      timeline.error = "";
    } catch (error) {
      timeline.error = missing(error);
    }
    this.changed();
  }

  /** fetchAgent asks for an agent's row, which names the evidence. */
  async fetchAgent(agent: string): Promise<void> {
    try {
      const page = await this.link.request<Page<AgentRow>>("presence.list", { prefix: agent, limit: 1 });
      const row = page.items[0];
      if (row?.agent_id === agent) this.fleet.replaceAgent(row);
      this.changed();
    } catch {
      // The page says that it is not connected; the next connection asks again.
    }
  }

  async #inventory(): Promise<void> {
    if (this.#listing) return;
    this.#listing = true;
    this.#relist = false;
    const { fleet } = this;
    try {
      fleet.awaitInstances();
      fleet.replaceInstances(await this.#pages<InstanceRow>("presence.list", { kind: "instances" }, 200));
      await this.#gateways();
      // Who follows no connections has nothing else to tell by whose gateway is gone.
      if (!fleet.followsConnections) for (const row of await this.#pages<AgentRow>("presence.list", {}, 200)) fleet.replaceAgent(row);
    } catch {
      this.#relist = true; // by the next poll, or the next connection
    } finally {
      this.#listing = false;
    }
    this.changed();
  }

  async #gateways(): Promise<void> {
    const page = await this.link.request<Page<InstanceRow>>("presence.list", { kind: "instances", role: "gateway", limit: pageSize });
    this.fleet.listGateways(page.items);
  }

  async #pages<T>(type: string, query: Record<string, unknown>, most: number): Promise<T[]> {
    const all: T[] = [];
    let after: string | undefined;
    for (let n = 0; n < most; n++) {
      const page: Page<T> = await this.link.request<Page<T>>(type, { ...query, limit: pageSize, ...(after ? { after } : {}) });
      all.push(...page.items);
      after = page.next;
      if (!after) break;
    }
    return all;
  }

  /** cannotDecide is why no verdict can be given here; empty when one can. The gateway decides in any case. */
  cannotDecide(): string {
    const scopes = this.welcome?.scopes;
    if (scopes && !scopes.includes("operator.write")) return "Verdicts take a token with the scope operator.write; you are signed in with one that only reads.";
    if (this.link.phase !== "open") return "No verdict can be given while the gateway is away.";
    return "";
  }

  /** resolve gives a verdict on a lease, with what of lease.resolve is left to choose. */
  async resolve(lease: LeaseRow, verdict: string, chosen: { reason?: string; timeout_ms?: number; hold_ms?: number }): Promise<void> {
    const asked = this.leases.ask();
    const answer = await this.link.request<{ lease: LeaseRow }>("lease.resolve", {
      lease_id: lease.lease_id,
      agent_id: lease.agent_id,
      verdict,
      ...chosen,
    });
    this.leases.answer([answer.lease], asked);
    this.changed();
  }

  // #judge works out how far what is shown may be believed.
  #judge(): void {
    const { link, fleet, health } = this;
    fleet.setDoubt(judge({ link, ...health, age: Date.now() - this.healthAt }));
    if (fleet.doubt === null) {
      const first = this.seenAt === 0;
      this.seenAt = this.link.heard;
      if (first) this.#sample();
    }
    this.changed();
  }

  // The socket and HTTP are asked side by side: whether the gateway answers on its socket is the link's to find out, and
  // it does by questions that are open.
  async #poll(): Promise<void> {
    if (this.link.phase !== "open") {
      this.changed(); // countdowns go on
      return;
    }
    void this.leaseListing.again();
    if (!this.#polling) {
      this.#polling = true;
      try {
        await Promise.all([this.#gateways(), this.#askHealth()]);
        if (this.#polls++ % 30 === 29) await this.#dropLapsed();
      } catch {
        // The link says so, or the next poll asks again.
      } finally {
        this.#polling = false;
      }
      if (this.#relist) void this.#inventory();
    }
    this.#judge();
  }

  async #askHealth(): Promise<void> {
    const asked = ++this.#asked;
    const at = Date.now();
    const health: Health = { status: null, statusError: "", ready: null };
    const ready = probe("/readyz", healthWait).catch(() => null);
    try {
      health.status = await ask<any>("/status", healthWait);
    } catch (error) {
      health.statusError = missing(error);
    }
    health.ready = await ready;
    if (asked !== this.#asked) return;
    const tenant = health.status?.tenant?.tenant_id;
    if (tenant !== undefined && !this.#isOurs(tenant)) return;
    this.health = health;
    this.healthAt = at;
    if (Array.isArray(health.status?.gateways) && this.fleet.setGateways(health.status.gateways as GatewayAlive[])) this.#relist = true;
  }

  // What the gateway counted while this page was not there, or was cut off.
  async #lastHour(): Promise<void> {
    try {
      const counts = await ask<{ generated_at: string; items: Counted[] }>("/presence/counts");
      const now = Date.now();
      this.samples = merge(this.samples, counts.items, now - Date.parse(counts.generated_at), now);
      this.#keepSamples();
    } catch {
      // Then there is what this page saw; the strip says how much that is.
    }
  }

  // A page that was hidden had its timers held back: it asked for little, and took few samples.
  async #seen(): Promise<void> {
    this.#judge();
    await this.#poll();
    if (this.link.phase === "open") await this.#lastHour();
  }

  // Rows of agents that are gone lapse on the server, and no event says so.
  async #dropLapsed(): Promise<void> {
    const asked = this.fleet.offline();
    const rows = await this.#pages<AgentRow>("presence.list", { status: "offline" }, 200);
    this.fleet.keepOffline(new Set(rows.map((row) => row.agent_id)), asked);
  }

  #place(): string {
    return "strip:" + (this.welcome?.tenant_id ?? "");
  }

  #sample(): void {
    if (!this.everLive) return;
    this.samples = addSample(this.samples, Date.now(), this.fleet.counts());
    this.#keepSamples();
  }

  #keepSamples(): void {
    try {
      localStorage.setItem(this.#place(), JSON.stringify(this.samples));
    } catch {
      // A browser that keeps nothing forgets the strip with the page.
    }
    this.changed();
  }

  /** openTail begins or goes on with the tail, from where it was. */
  openTail(): void {
    if (!this.tailPaused) this.tailLink.start();
  }

  /** leaveTail stops the tail; it goes on from there when it is opened again. */
  leaveTail(): void {
    this.tailLink.stop();
  }

  pauseTail(paused: boolean): void {
    this.tailPaused = paused;
    if (paused) this.tailLink.stop();
    else this.tailLink.start();
    this.changed();
  }

  /** skipTail forgets what was missed and goes on with what happens now. */
  skipTail(): void {
    if (this.tailLink.phase === "open") void this.#resubscribeTail(false);
    else {
      this.tail.clear();
      this.tail.cursor = "";
    }
    this.changed();
  }

  filterTail(types: string[]): void {
    this.tailTypes = types;
    if (this.tailLink.phase === "open") void this.#resubscribeTail(true);
    else this.tail.clear();
    this.changed();
  }

  // What was asked for before may still come until the gateway has answered, so the list is emptied then.
  async #resubscribeTail(resume: boolean): Promise<void> {
    try {
      if (this.#subscription !== "") await this.tailLink.request("events.unsubscribe", { subscription_id: this.#subscription });
      this.tail.clear();
      if (!resume) this.tail.cursor = "";
      await this.#subscribeTail();
    } catch (error) {
      this.tailLink.again((error as Error).message);
    }
  }

  async #subscribeTail(): Promise<void> {
    this.#subscription = "";
    try {
      const answer = await this.tailLink.request<{ subscription_id: string; cursor: string }>("events.subscribe", {
        types: this.tailTypes,
        ...(this.tail.cursor === "" ? {} : { cursor: this.tail.cursor }),
      });
      this.#subscription = answer.subscription_id;
      if (this.tail.cursor === "") this.tail.cursor = answer.cursor;
      this.tailError = "";
    } catch (error) {
      this.tailError = (error as Error).message;
      throw error;
    }
  }

  #tailEvent(event: Event): void {
    if (event.type === "draining" || event.type === "error") return;
    this.tail.add(event);
    this.changed();
  }
}

/** missing words why something was not to be had. */
export function missing(error: unknown): string {
  if (error instanceof Refused && error.status === 404) return "not available: this gateway has no such address";
  return "not available: " + (error as Error).message;
}
