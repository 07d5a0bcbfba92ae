// Where the cells of a fleet go.

export interface Layout {
  /** cell is the distance from one cell to the next, its gap included. */
  cell: number;
  columns: number;
  rows: number;
  width: number;
  height: number;
}

const largest = 28;
const smallest = 8;

/** arrange gives `count` cells a place in a box: as large as fits without scrolling, and never too small to hit. */
export function arrange(count: number, width: number, height: number): Layout {
  let cell = largest;
  for (; cell > smallest; cell--) {
    const columns = Math.max(1, Math.floor(width / cell));
    if (Math.ceil(count / columns) * cell <= height) break;
  }
  const columns = Math.max(1, Math.floor(width / cell));
  const rows = Math.max(1, Math.ceil(count / columns));
  return { cell, columns, rows, width: columns * cell, height: rows * cell };
}

/** place is the upper left corner of a cell. */
export function place(l: Layout, index: number): { x: number; y: number } {
  return { x: (index % l.columns) * l.cell, y: Math.floor(index / l.columns) * l.cell };
}

/** hit is the cell at a point, or -1. */
export function hit(l: Layout, count: number, x: number, y: number): number {
  const column = Math.floor(x / l.cell);
  const row = Math.floor(y / l.cell);
  if (column < 0 || column >= l.columns || row < 0) return -1;
  const index = row * l.columns + column;
  return index < count ? index : -1;
}

/** move is the cell that a key leads to; undefined for a key that leads nowhere. */
export function move(l: Layout, count: number, from: number, key: string): number | undefined {
  if (count === 0) return undefined;
  const to: Record<string, number> = {
    ArrowLeft: from - 1,
    ArrowRight: from + 1,
    ArrowUp: from - l.columns,
    ArrowDown: from + l.columns,
    Home: 0,
    End: count - 1,
    PageUp: from - 10 * l.columns,
    PageDown: from + 10 * l.columns,
  };
  const target = to[key];
  if (target === undefined) return undefined;
  if (from < 0) return 0;
  return Math.min(count - 1, Math.max(0, target));
}
