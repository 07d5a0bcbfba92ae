// The fleet as this page knows it: a snapshot and what has happened since. No clock, no I/O: everything comes in.

import { compareTimes } from "./time.ts";
import type { AgentRow, Connection, Event, GatewayAlive, InstanceRow, LeaseRow, Status } from "./types.ts";

/** Shown is what a screen may say of an agent: its status, or that nobody knows. */
export type Shown = Status | "uncertain";

/** InstanceShown is the same of a gateway or a device. */
export type InstanceShown = "alive" | "connected" | "gone" | "uncertain";

/** Doubt is why the whole page cannot vouch for what it shows; null when it can. */
export type Doubt = string | null;

export type Counts = Record<Shown, number>;

export class Fleet {
  readonly agents = new Map<string, AgentRow>();
  readonly instances = new Map<string, InstanceRow>();
  /** gateways are those that are alive by their own row, with the incarnation that runs; null while that is unknown. */
  gateways: Map<string, string> | null = null;
  /** followsConnections says that openings and closings come in, so that the rows' connections are current. */
  followsConnections = false;
  doubt: Doubt = "not connected yet";
  /** inventoried says that the instances are as a listing on this connection, with these gateways, has them. */
  inventoried = false;
  /** #meanwhile holds what events told of instances while a listing is under way; null of one that was pruned. */
  #meanwhile: Map<string, InstanceRow | null> | null = null;

  /** version grows with every change; members with every agent that comes or goes. */
  version = 0;
  members = 0;
  /** changed holds the agents whose look may differ since it was last cleared. */
  readonly changed = new Set<string>();

  #sorted: string[] | null = null;

  /** ids are all agents in order. */
  ids(): string[] {
    this.#sorted ??= [...this.agents.keys()].sort();
    return this.#sorted;
  }

  /** begin forgets what another connection followed: nothing of it is current any more. */
  begin(): void {
    this.followsConnections = false;
    this.gateways = null;
    this.inventoried = false;
    this.#touchAll();
  }

  /** snapshot replaces what is known of agents: whoever is not in it is gone. */
  snapshot(rows: AgentRow[]): void {
    this.agents.clear();
    for (const row of rows) this.agents.set(row.agent_id, row);
    this.#joined();
    this.#touchAll();
  }

  /** awaitInstances is called before a listing is asked for: what happens to the inventory from then on is newer. */
  awaitInstances(): void {
    this.#meanwhile = new Map();
    this.inventoried = false;
    this.version++;
  }

  /** replaceInstances takes a listing of the inventory. */
  replaceInstances(rows: InstanceRow[]): void {
    this.instances.clear();
    for (const row of rows) this.instances.set(row.instance_id, row);
    for (const [id, row] of this.#meanwhile ?? []) {
      if (row) this.instances.set(id, row);
      else this.instances.delete(id);
    }
    this.#meanwhile = null;
    this.inventoried = true;
    this.#touchAll();
  }

  /** listGateways takes a listing of the gateways' rows. */
  listGateways(rows: InstanceRow[]): void {
    const listed = new Set(rows.map((row) => row.instance_id));
    for (const [id, row] of this.instances) if (row.role === "gateway" && !listed.has(id)) this.instances.delete(id);
    for (const row of rows) this.instances.set(row.instance_id, row);
    this.version++;
  }

  /** setGateways takes which gateways are alive, and reports whether they are others than before. */
  setGateways(alive: GatewayAlive[]): boolean {
    const before = this.gateways;
    this.gateways = new Map(alive.map((g) => [g.instance_id, g.incarnation]));
    if (before !== null && before.size === this.gateways.size && alive.every((g) => before.get(g.instance_id) === g.incarnation)) return false;
    this.#touchAll();
    return true;
  }

  /** answers says whether the gateway of a connection runs, as the incarnation that holds it. True while that is unknown. */
  answers(c: { gateway_id: string; incarnation: string }): boolean {
    return this.gateways === null || this.gateways.get(c.gateway_id) === c.incarnation;
  }

  /** setDoubt says whether the page can vouch for what it shows. */
  setDoubt(doubt: Doubt): void {
    if (this.doubt === doubt) return;
    const turned = (this.doubt === null) !== (doubt === null);
    this.doubt = doubt;
    if (turned) this.#touchAll();
    else this.version++;
  }

  /** offline are the agents that read offline, with since when. One that has connected is about to be something else. */
  offline(): Map<string, string | undefined> {
    const out = new Map<string, string | undefined>();
    for (const [id, row] of this.agents) if (row.status === "offline" && row.connections.length === 0) out.set(id, row.since);
    return out;
  }

  /** keepOffline drops agents that read offline, as they did when a listing was asked for, and that it does not hold. */
  keepOffline(listed: Set<string>, asked: Map<string, string | undefined>): void {
    for (const [id, since] of asked) {
      const row = this.agents.get(id);
      if (row?.status !== "offline" || row.connections.length > 0 || row.since !== since || listed.has(id)) continue;
      this.agents.delete(id);
      this.changed.add(id);
      this.#joined();
      this.version++;
    }
  }

  /** replaceAgent takes one agent's row as it is listed now. A row that is older than what is known is not taken. */
  replaceAgent(row: AgentRow): void {
    const known = this.agents.get(row.agent_id);
    if (known && compareTimes(row.since, known.since) < 0) return;
    if (!known) this.#joined();
    // Openings and closings are known here before presence has put them into the row.
    this.agents.set(row.agent_id, known && this.followsConnections ? { ...row, connections: known.connections } : row);
    this.#touch(row.agent_id);
  }

  /** apply takes an event and reports whether anything here follows from it. */
  apply(event: Event): boolean {
    const p = event.payload;
    switch (event.type) {
      case "presence.changed":
        return this.#status(p);
      case "presence.upserted":
        this.instances.set(p.entry.instance_id, p.entry as InstanceRow);
        this.#meanwhile?.set(p.entry.instance_id, p.entry as InstanceRow);
        this.#touchOwner(p.entry.agent_id);
        return true;
      case "presence.pruned": {
        const row = this.instances.get(p.instance_id);
        this.instances.delete(p.instance_id);
        this.#meanwhile?.set(p.instance_id, null);
        this.#touchOwner(row?.agent_id);
        return true;
      }
      case "connection.opened":
        return event.scope.kind === "agent" && this.#opened(event.scope.id ?? "", event.occurred_at, p);
      case "connection.closed":
        return event.scope.kind === "agent" && this.#closed(event.scope.id ?? "", p.connection_id);
      case "lease.granted":
        return this.#lease(p.lease as LeaseRow, true);
      case "lease.consumed":
      case "lease.expired":
        return this.#lease(p.lease as LeaseRow, false);
      default:
        return false;
    }
  }

  /** shown is what may be said of an agent. */
  shown(row: AgentRow): Shown {
    return this.doubtOf(row) === null ? row.status : "uncertain";
  }

  /** doubtOf is why nothing certain can be said of an agent. */
  doubtOf(row: AgentRow): Doubt {
    if (this.doubt !== null) return this.doubt;
    if (row.status === "offline") return null;
    if (!this.followsConnections || this.gateways === null) return row.uncertain ? "the gateway does not vouch for it" : null;
    if (row.connections.length === 0) return "no connection of it is known";
    return row.connections.every((c) => this.answers(c)) ? null : "a gateway that it is connected to does not answer";
  }

  /** shownInstance is what may be said of a gateway or a device. */
  shownInstance(row: InstanceRow): InstanceShown {
    if (this.doubt !== null) return "uncertain";
    if (row.role === "gateway") return this.gateways?.has(row.instance_id) ? "alive" : "uncertain";
    if (!this.inventoried) return "uncertain";
    if (!row.connection_id) return "gone";
    // What came since the listing says nothing of gateways; the connections of its agent do.
    const held = this.agents.get(row.agent_id ?? "")?.connections.find((c) => c.connection_id === row.connection_id);
    return row.uncertain || (held && !this.answers(held)) ? "uncertain" : "connected";
  }

  /** counts counts the agents by what may be said of them. */
  counts(): Counts {
    const counts: Counts = { working: 0, online: 0, offline: 0, uncertain: 0 };
    for (const row of this.agents.values()) counts[this.shown(row)]++;
    return counts;
  }

  /** known counts by the last known status, certain or not. */
  known(): Record<Status, number> {
    const counts = { working: 0, online: 0, offline: 0 };
    for (const row of this.agents.values()) counts[row.status]++;
    return counts;
  }

  // A change is told once, and in order. One that is older than the row comes from a snapshot that was newer.
  #status(p: { agent_id: string; status: Status; reason: string; since: string; connections: number }): boolean {
    const row = this.agents.get(p.agent_id);
    if (row && compareTimes(p.since, row.since) < 0) return false;
    if (!row) this.#joined();
    const { evidence: _, uncertain: __, ...rest } = row ?? { agent_id: p.agent_id, connections: [] as Connection[] };
    // What proved the last status does not prove this one; the agent's own page asks for the new evidence.
    this.agents.set(p.agent_id, {
      ...rest,
      status: p.status,
      reason: p.reason,
      since: p.since,
      last_seen_at: compareTimes(row?.last_seen_at, p.since) > 0 ? (row?.last_seen_at ?? p.since) : p.since,
      connections: this.#left(rest.connections, p),
    });
    this.#touch(p.agent_id);
    return true;
  }

  // An end is often told after the opening that followed it: who follows closings takes connections away by those only.
  #left(connections: Connection[], p: { status: Status; since: string }): Connection[] {
    if (p.status !== "offline" || this.followsConnections) return connections;
    return connections.filter((c) => compareTimes(c.connected_at, p.since) > 0);
  }

  #opened(agent: string, at: string, p: { connection_id: string; instance_id: string; gateway_id: string; incarnation: string }): boolean {
    const row = this.agents.get(agent);
    if (row?.connections.some((c) => c.connection_id === p.connection_id)) return false;
    const connection: Connection = {
      connection_id: p.connection_id,
      instance_id: p.instance_id,
      gateway_id: p.gateway_id,
      incarnation: p.incarnation,
      connected_at: at,
      leases: [],
    };
    // The opening comes before presence has reduced it: until then the agent is what it was.
    if (!row) this.#joined();
    const before: AgentRow = row ?? { agent_id: agent, status: "offline", connections: [] };
    this.agents.set(agent, { ...before, connections: [...before.connections, connection] });
    this.#touch(agent);
    return true;
  }

  #closed(agent: string, connection: string): boolean {
    const row = this.agents.get(agent);
    if (!row?.connections.some((c) => c.connection_id === connection)) return false;
    this.agents.set(agent, { ...row, connections: row.connections.filter((c) => c.connection_id !== connection) });
    this.#touch(agent);
    return true;
  }

  #lease(lease: LeaseRow, begins: boolean): boolean {
    const row = this.agents.get(lease.agent_id);
    const at = row?.connections.findIndex((c) => c.connection_id === lease.connection_id) ?? -1;
    const connection = row?.connections[at];
    if (!row || !connection || connection.leases.includes(lease.lease_id) === begins) return false;
    const leases = begins ? [...connection.leases, lease.lease_id] : connection.leases.filter((id) => id !== lease.lease_id);
    this.agents.set(lease.agent_id, { ...row, connections: row.connections.with(at, { ...connection, leases }) });
    this.#touch(lease.agent_id);
    return true;
  }

  #joined(): void {
    this.#sorted = null;
    this.members++;
  }

  #touch(id: string): void {
    this.changed.add(id);
    this.version++;
  }

  #touchOwner(agent: string | undefined): void {
    if (agent) this.changed.add(agent);
    this.version++;
  }

  #touchAll(): void {
    for (const id of this.agents.keys()) this.changed.add(id);
    this.version++;
  }
}
