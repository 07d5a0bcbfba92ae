// Which agents a screen shows.

import type { Fleet, Shown } from "./fleet.ts";
import type { AgentRow } from "./types.ts";

export interface Filter {
  text: string;
  status: Shown | "";
  role: string;
  gateway: string;
  version: string;
}

export const everything: Filter = { text: "", status: "", role: "", gateway: "", version: "" };

const names = ["text", "status", "role", "gateway", "version"] as const;

/** readFilter takes a filter from an address. */
export function readFilter(query: URLSearchParams): Filter {
  const filter = { ...everything };
  for (const name of names) filter[name] = (query.get(name) ?? "") as never;
  return filter;
}

/** writeFilter is the address of a filter. */
export function writeFilter(filter: Filter): string {
  const query = new URLSearchParams();
  for (const name of names) if (filter[name] !== "") query.set(name, filter[name]);
  return query.toString();
}

/** matches says whether an agent passes. Role, gateway and version are those of any of its connections. */
export function matches(fleet: Fleet, filter: Filter, row: AgentRow): boolean {
  if (filter.text !== "" && !row.agent_id.includes(filter.text.toLowerCase())) return false;
  if (filter.status !== "" && fleet.shown(row) !== filter.status) return false;
  if (filter.gateway !== "" && !row.connections.some((c) => c.gateway_id === filter.gateway)) return false;
  if (filter.role === "" && filter.version === "") return true;
  return row.connections.some((c) => {
    const instance = fleet.instances.get(c.instance_id);
    return (
      instance !== undefined &&
      (filter.role === "" || instance.role === filter.role) &&
      (filter.version === "" || (instance.version ?? "") === filter.version)
    );
  });
}

/** select lists the agents that pass, in order. */
export function select(fleet: Fleet, filter: Filter): string[] {
  const ids = fleet.ids();
  if (writeFilter(filter) === "") return ids;
  return ids.filter((id) => matches(fleet, filter, fleet.agents.get(id) as AgentRow));
}

/** choices are the values that a filter may take at present. */
export function choices(fleet: Fleet): { gateways: string[]; versions: string[]; roles: string[] } {
  const gateways = new Set<string>();
  const versions = new Set<string>();
  const roles = new Set<string>();
  for (const row of fleet.instances.values()) {
    if (row.role === "gateway") gateways.add(row.instance_id);
    else {
      roles.add(row.role);
      if (row.version) versions.add(row.version);
    }
  }
  return { gateways: [...gateways].sort(), versions: [...versions].sort(), roles: [...roles].sort() };
}
