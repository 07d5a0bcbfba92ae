// How long to wait before coming back, spread so that the screens of a whole company do not come back in one wave.

const base = 500;
const most = 15_000;

/** delay is the wait before attempt n (from 0), for a random number in [0, 1). */
export function delay(attempt: number, random: number): number {
  const ceiling = Math.min(most, base * 2 ** Math.min(attempt, 10));
  return Math.round(ceiling / 2 + (ceiling / 2) * random);
}
