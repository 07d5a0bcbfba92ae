// The last hour: how many agents were what. Hours nobody watched are gaps.
import { useEffect, useRef } from "preact/hooks";
import { useApp } from "../hooks.ts";
import { hour, runs, type Sample } from "../model/strip.ts";
import { span } from "../model/time.ts";

const shades = ["working", "online", "offline", "uncertain"] as const;
const tall = 72;

export function Strip() {
  const app = useApp();
  const canvas = useRef<HTMLCanvasElement>(null);
  const drawn = useRef("");
  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const last = app.samples.at(-1);
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const key = `${last?.join()}/${element.clientWidth}/${dark}`;
    if (drawn.current === key) return;
    drawn.current = key;
    draw(element, app.samples);
  });
  const first = app.samples[0];
  const watched = first ? span(Date.now() - first[0]) : "0 s";
  const worked = app.samples.map((s) => s[1]);
  const text = worked.length === 0 ? "nothing seen yet" : `seen for ${watched}; working between ${Math.min(...worked)} and ${Math.max(...worked)}`;
  return (
    <figure class="strip">
      <canvas ref={canvas} height={tall} role="img" aria-label={`Agents by status over the last hour: ${text}`} />
      <figcaption>
        <span>1 h ago</span>
        <span>{text}</span>
        <span>now</span>
      </figcaption>
    </figure>
  );
}

function draw(element: HTMLCanvasElement, samples: Sample[]): void {
  const scale = devicePixelRatio || 1;
  const width = element.clientWidth;
  element.width = width * scale;
  element.height = tall * scale;
  const c = element.getContext("2d");
  if (!c || width === 0) return;
  c.setTransform(scale, 0, 0, scale, 0, 0);
  const style = getComputedStyle(element);
  const now = Date.now();
  const most = Math.max(1, ...samples.map((s) => s[1] + s[2] + s[3] + s[4]));
  const x = (t: number) => width * (1 - (now - t) / hour);
  for (const run of runs(samples)) {
    const right = Math.max(x((run.at(-1) as Sample)[0]), x((run[0] as Sample)[0]) + 2);
    const floor = run.map(() => 0);
    shades.forEach((shade, i) => {
      c.fillStyle = style.getPropertyValue("--" + shade);
      c.beginPath();
      run.forEach((s, n) => c.lineTo(x(s[0]), tall - ((floor[n] as number) / most) * tall));
      c.lineTo(right, tall - ((floor.at(-1) as number) / most) * tall);
      run.forEach((s, n) => (floor[n] = (floor[n] as number) + (s[i + 1] as number)));
      c.lineTo(right, tall - ((floor.at(-1) as number) / most) * tall);
      for (let n = run.length - 1; n >= 0; n--) c.lineTo(x((run[n] as Sample)[0]), tall - ((floor[n] as number) / most) * tall);
      c.fill();
    });
  }
}
