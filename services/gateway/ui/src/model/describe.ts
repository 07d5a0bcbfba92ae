// What an event says, in a few words.

import type { Event } from "./types.ts";

/** describe is the gist of an event; empty for one whose type says it all, or that is nobody's here. */
export function describe(e: Event): string {
  const p = e.payload;
  if (e.type === "presence.changed") return `${p.previous} → ${p.status}, ${p.reason}`;
  if (e.type === "presence.upserted") return [p.entry?.agent_id, p.entry?.reason].filter(Boolean).join(", ");
  if (e.type === "presence.pruned" || e.type === "connection.closed") return p.reason ?? "";
  if (e.type === "connection.opened") return `from ${p.ip}`;
  if (e.type.startsWith("lease.") && p.lease) return [p.lease.resource, p.lease.reason].filter(Boolean).join(", ");
  if (e.type.startsWith("run.")) return [p.agent_id, p.title ?? p.summary ?? p.reason].filter((v) => typeof v === "string").join(", ");
  return "";
}
