// The last hour in samples, as this browser saw it. Where it did not look there is a gap, not a guess.

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
