// Times are RFC 3339 in UTC, with up to nine digits behind the point and none that end in zero. They are compared as
// texts because a Date keeps three of the nine.

const pad = "000000000";

/** key makes a time comparable as text. */
export function key(time: string): string {
  const end = time.endsWith("Z") ? time.length - 1 : time.length;
  return time.slice(0, 19) + "." + (time.slice(20, end) + pad).slice(0, 9);
}

/** compareTimes orders two times; a missing one is before every other. */
export function compareTimes(a: string | undefined, b: string | undefined): number {
  if (a === b) return 0;
  if (!a) return -1;
  if (!b) return 1;
  const x = key(a);
  const y = key(b);
  return x < y ? -1 : x > y ? 1 : 0;
}

/** age says how long ago a time was, in words as short as they can be. */
export function age(time: string | undefined, now: number): string {
  if (!time) return "–";
  return span(now - Date.parse(time));
}

/** span is a duration in its one or two largest units. */
export function span(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 24) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`;
  return `${Math.floor(hours / 24)} d ${hours % 24} h`;
}

/** moment is a time as people read it, to the second. */
export function moment(time: string): string {
  return `${time.slice(0, 10)} ${time.slice(11, 19)} UTC`;
}
