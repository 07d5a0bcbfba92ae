// The last hour in samples, as this browser and its gateway saw it. Where neither looked there is a gap, not a guess.

import type { Counts } from "./fleet.ts";

export const sampleEvery = 10_000;
export const hour = 3_600_000;

/** Sample is [time, working, online, offline, uncertain]. */
export type Sample = [number, number, number, number, number];

/** addSample puts a sample at the end, at most one per interval, and drops what is older than an hour. */
export function addSample(samples: Sample[], at: number, counts: Counts): Sample[] {
  const slot = Math.floor(at / sampleEvery) * sampleEvery;
  const sample: Sample = [slot, counts.working, counts.online, counts.offline, counts.uncertain];
  const kept = samples.filter(([t]) => t > at - hour && t < slot);
  kept.push(sample);
  return kept;
}

/** readSamples takes samples that were kept as text, and nothing that is not one. */
export function readSamples(text: string | null, now: number): Sample[] {
  try {
    const found: unknown = JSON.parse(text ?? "[]");
    if (!Array.isArray(found)) return [];
    const samples = found.filter((s): s is Sample => Array.isArray(s) && s.length === 5 && s.every((n) => typeof n === "number"));
    return samples.filter(([t]) => t > now - hour && t <= now);
  } catch {
    return [];
  }
}

/** Counted is a sample as a gateway tells it. */
export interface Counted {
  at: string;
  working: number;
  online: number;
  offline: number;
  uncertain: number;
}

/** merge puts what the gateway counted to what this page saw. Of two samples of one time the one that leaves less uncertain
 * counts: the other's teller was cut off. skew is how far this browser's clock is ahead of the gateway's. */
export function merge(samples: Sample[], counted: Counted[], skew: number, now: number): Sample[] {
  const slots = new Map(samples.map((s) => [s[0], s]));
  for (const c of counted) {
    const slot = Math.floor((Date.parse(c.at) + skew) / sampleEvery) * sampleEvery;
    if (!(slot > now - hour && slot <= now)) continue;
    const own = slots.get(slot);
    if (own === undefined || c.uncertain <= own[4]) slots.set(slot, [slot, c.working, c.online, c.offline, c.uncertain]);
  }
  return [...slots.values()].sort((a, b) => a[0] - b[0]);
}

/** words says what the strip shows, and how much of the hour is not known. */
export function words(samples: Sample[]): string {
  if (samples.length === 0) return "nothing is known yet";
  const worked = samples.map((s) => s[1]);
  const low = Math.min(...worked);
  const high = Math.max(...worked);
  const working = low === high ? `${low} working` : `${low} to ${high} working`;
  const minutes = Math.round((samples.length * sampleEvery) / 60_000);
  return minutes >= 59 ? working : `${working} in the ${minutes > 1 ? `${minutes} minutes that are` : "minute that is"} known; hatched: not known`;
}

/** runs splits samples where one or more are missing. */
export function runs(samples: Sample[]): Sample[][] {
  const out: Sample[][] = [];
  for (const sample of samples) {
    const last = out.at(-1);
    if (last && sample[0] - (last.at(-1) as Sample)[0] <= 2 * sampleEvery) last.push(sample);
    else out.push([sample]);
  }
  return out;
}
