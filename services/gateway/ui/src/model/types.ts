// What a gateway says, as far as the screens use it. Rows may gain keys; what is not named here is ignored.

export type Status = "working" | "online" | "offline";

export interface Connection {
  connection_id: string;
  instance_id: string;
  gateway_id: string;
  incarnation: string;
  connected_at: string;
  leases: string[];
}

export interface Evidence {
  seq: number;
  event_id: string;
  type: string;
  at: string;
}

export interface AgentRow {
  agent_id: string;
  status: Status;
  since?: string;
  reason?: string;
  connections: Connection[];
  last_seen_at?: string;
  evidence?: Evidence;
  /** uncertain says that the gateway could not vouch for the row when it answered. */
  uncertain?: boolean;
}

export interface InstanceRow {
  instance_id: string;
  role: string;
  host?: string;
  ip?: string;
  version?: string;
  mode?: string;
  agent_id?: string;
  connection_id?: string;
  connected_at?: string;
  last_seen_at?: string;
  expires_at?: string;
  last_input_seconds?: number;
  reason?: string;
  metadata?: unknown;
  reported?: { host?: string; ip?: string };
  /** uncertain says that the gateway could not vouch for the row when it answered. */
  uncertain?: boolean;
}

/** GatewayAlive is a gateway that runs, as /status names it. */
export interface GatewayAlive {
  instance_id: string;
  incarnation: string;
}

export interface LeaseRow {
  lease_id: string;
  agent_id: string;
  connection_id: string;
  resource: string;
  state: string;
  verdict?: { decision: string; reason?: string; by: string };
  fence?: number;
  requested_at: string;
  resolved_at?: string;
  claimed_at?: string;
  ended_at?: string;
  expires_at?: string;
  claim_expires_at?: string;
  message_id?: string;
  metadata?: unknown;
  reason?: string;
}

export interface Event {
  event_id: string;
  type: string;
  occurred_at: string;
  scope: { kind: string; id?: string };
  payload: any;
  cursor: string;
}

export interface Page<T> {
  items: T[];
  total: number;
  next?: string;
  cursor?: string;
}

export interface Welcome {
  client_id: string;
  device_id: string;
  role: string;
  tenant_id: string;
  agent_id?: string;
  /** scopes are what the token may do; a gateway of another version may not say. */
  scopes?: string[];
  gateway: { instance_id: string; incarnation: string; version: string };
  ping_ms: number;
  cursor: string;
}
