// One cell per agent, on a canvas. After the first painting only the cells whose agent changed are painted again.
import { useEffect, useRef, useState } from "preact/hooks";
import type { Fleet, Shown } from "../model/fleet.ts";
import { arrange, hit, move, place, type Layout } from "../model/layout.ts";
import { agentHref, useApp } from "../hooks.ts";

interface Painted {
  ids: string[];
  index: Map<string, number>;
  layout: Layout;
  scale: number;
  look: string;
}

const shades: readonly Shown[] = ["working", "online", "offline", "uncertain"];

export function Cells({ ids }: { ids: string[] }) {
  const app = useApp();
  const box = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const painted = useRef<Painted | null>(null);
  const [width, setWidth] = useState(0);
  const [at, setAt] = useState(-1);
  const [focused, setFocused] = useState(false);

  useEffect(() => {
    app.painters++;
    const seen = new ResizeObserver(([entry]) => entry && setWidth(Math.floor(entry.contentRect.width)));
    if (box.current) seen.observe(box.current);
    // A theme changes while the page is open; the canvas has to follow by itself.
    const theme = matchMedia("(prefers-color-scheme: dark)");
    const again = () => {
      painted.current = null;
      app.changed();
    };
    theme.addEventListener("change", again);
    return () => {
      app.painters--;
      seen.disconnect();
      theme.removeEventListener("change", again);
    };
  }, []);

  const height = Math.max(160, Math.min(620, Math.floor(innerHeight * 0.55)));
  const layout = width > 0 ? arrange(ids.length, width, height) : null;

  useEffect(() => {
    const element = canvas.current;
    if (!element || !layout) return;
    const scale = devicePixelRatio || 1;
    const look = `${layout.cell}/${layout.columns}/${layout.rows}/${scale}`;
    const before = painted.current;
    const context = element.getContext("2d", { alpha: true });
    if (!context) return;
    const colors = palette(element);
    if (before && before.look === look && same(before.ids, ids)) {
      for (const id of app.fleet.changed) {
        const index = before.index.get(id);
        if (index !== undefined) paintCell(context, app.fleet, colors, layout, id, index, true);
      }
      app.fleet.changed.clear();
      return;
    }
    element.width = Math.ceil(layout.width * scale);
    element.height = Math.ceil(layout.height * scale);
    element.style.width = layout.width + "px";
    element.style.height = layout.height + "px";
    context.setTransform(scale, 0, 0, scale, 0, 0);
    const index = new Map<string, number>();
    ids.forEach((id, i) => {
      index.set(id, i);
      paintCell(context, app.fleet, colors, layout, id, i, false);
    });
    app.fleet.changed.clear();
    painted.current = { ids, index, layout, scale, look };
    if (ids.length > 0 && performance.getEntriesByName("fleet-painted").length === 0) performance.mark("fleet-painted");
    element.dataset["cell"] = String(layout.cell);
    element.dataset["painted"] = String(ids.length);
  });

  const chosen = at >= 0 && at < ids.length ? at : -1;
  const id = chosen >= 0 ? (ids[chosen] as string) : "";
  const row = app.fleet.agents.get(id);
  const corner = layout && chosen >= 0 ? place(layout, chosen) : null;

  const point = (e: MouseEvent) => {
    if (!layout) return -1;
    return hit(layout, ids.length, e.offsetX, e.offsetY);
  };
  return (
    <div class="cells" ref={box}>
      <div class="cells-inner">
        <canvas
          ref={canvas}
          id="cells"
          tabIndex={0}
          role="application"
          aria-roledescription="map of agents"
          aria-label={`Map of ${ids.length} agents. Arrow keys move, Enter opens an agent.`}
          aria-describedby="cell-name"
          onMouseMove={(e) => setAt(point(e))}
          onMouseLeave={() => !focused && setAt(-1)}
          onClick={(e) => {
            const found = ids[point(e)];
            if (found !== undefined) location.hash = agentHref(found);
          }}
          onFocus={() => {
            setFocused(true);
            if (at < 0 && ids.length > 0) setAt(0);
          }}
          onBlur={() => {
            setFocused(false);
            setAt(-1);
          }}
          onKeyDown={(e) => {
            if (e.key === "Enter" && id !== "") {
              location.hash = agentHref(id);
              return;
            }
            const to = layout ? move(layout, ids.length, at, e.key) : undefined;
            if (to === undefined) return;
            e.preventDefault();
            setAt(to);
            if (layout) scrollTo(canvas.current, place(layout, to).y, layout.cell);
          }}
        />
        {corner && layout && (
          <div class="cell-ring" style={{ left: corner.x - 2 + "px", top: corner.y - 2 + "px", width: layout.cell + 3 + "px", height: layout.cell + 3 + "px" }} />
        )}
      </div>
      <p id="cell-name" class="cell-name" aria-live={focused ? "polite" : "off"}>
        {row ? (
          <>
            <strong>{id}</strong> – {app.fleet.shown(row)}
            {app.fleet.shown(row) === "uncertain" ? `, last known ${row.status}` : ""}
            {row.reason ? ` (${row.reason})` : ""}
          </>
        ) : ids.length === 0 ? (
          "No agent to show."
        ) : (
          "Point at a cell, or move with the arrow keys, to see whose it is."
        )}
      </p>
    </div>
  );
}

function scrollTo(element: HTMLElement | null, y: number, cell: number): void {
  if (!element) return;
  const top = element.getBoundingClientRect().top + y;
  if (top < 60) scrollBy(0, top - 60);
  else if (top + cell > innerHeight - 20) scrollBy(0, top + cell - innerHeight + 20);
}

function same(a: string[], b: string[]): boolean {
  if (a === b) return true;
  if (a.length !== b.length) return false;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

type Palette = Record<Shown, string>;

function palette(element: Element): Palette {
  const style = getComputedStyle(element);
  return Object.fromEntries(shades.map((s) => [s, style.getPropertyValue("--" + s)])) as Palette;
}

// Statuses differ in form as well as in colour: full, smaller, hollow, half.
function paintCell(c: CanvasRenderingContext2D, fleet: Fleet, colors: Palette, layout: Layout, id: string, index: number, clear: boolean): void {
  const { x, y } = place(layout, index);
  const gap = layout.cell >= 14 ? 2 : 1;
  const size = layout.cell - gap;
  if (clear) c.clearRect(x, y, layout.cell, layout.cell);
  const row = fleet.agents.get(id);
  if (!row) return;
  const shown = fleet.shown(row);
  c.fillStyle = c.strokeStyle = colors[shown];
  switch (shown) {
    case "working":
      c.fillRect(x, y, size, size);
      break;
    case "online": {
      const inset = Math.max(1, Math.round(size * 0.18));
      c.fillRect(x + inset, y + inset, size - 2 * inset, size - 2 * inset);
      break;
    }
    case "offline":
      c.lineWidth = 1;
      c.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
      break;
    case "uncertain":
      c.beginPath();
      c.moveTo(x, y + size);
      c.lineTo(x + size, y);
      c.lineTo(x + size, y + size);
      c.fill();
      c.lineWidth = 1;
      c.strokeRect(x + 0.5, y + 0.5, size - 1, size - 1);
      break;
  }
}
