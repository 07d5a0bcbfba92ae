// The last hour: how many agents were what. Times that nobody knows of are hatched.
import { useEffect, useRef } from "preact/hooks";
import { useApp } from "../hooks.ts";
import { hour, runs, sampleEvery, words, type Sample } from "../model/strip.ts";

const shades = ["working", "online", "offline", "uncertain"] as const;
const tall = 72;

export function Strip() {
  const app = useApp();
  const canvas = useRef<HTMLCanvasElement>(null);
  const drawn = useRef<{ samples: Sample[]; look: string } | null>(null);
  useEffect(() => {
    const element = canvas.current;
    if (!element) return;
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const look = `${element.clientWidth}/${dark}`;
    const { samples } = app; // replaced, and never changed: what the gateway counted comes in the middle
    if (drawn.current?.samples === samples && drawn.current.look === look) return;
    drawn.current = { samples, look };
    draw(element, samples);
  });
  const text = words(app.samples);
  return (
    <figure class="strip">
      <canvas ref={canvas} height={tall} role="img" aria-label={`Agents by status over the last hour: ${text}`} />
      <figcaption>
        <span>1 h ago</span>
        <span id="strip-words">{text}</span>
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
  // An empty place would read as no agents.
  c.strokeStyle = style.getPropertyValue("--line");
  c.lineWidth = 1;
  c.beginPath();
  for (let at = -tall; at < width; at += 8) {
    c.moveTo(at, tall);
    c.lineTo(at + tall, 0);
  }
  c.stroke();
  for (const run of runs(samples)) {
    // A sample is good until the next one is due.
    const right = Math.min(width, x((run.at(-1) as Sample)[0] + sampleEvery));
    c.clearRect(x((run[0] as Sample)[0]), 0, right - x((run[0] as Sample)[0]), tall);
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
