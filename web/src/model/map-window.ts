/**
 * Which chunks of a region the map shows: from all of a tebibyte down to one chunk.
 *
 * @module
 */
export interface MapWindow {
  readonly first: number;
  readonly count: number;
}

export interface MapGrid {
  readonly columns: number;
  readonly rows: number;
  /** Chunks of one cell; 1 when zoomed in fully. */
  readonly chunksPerCell: number;
}

/** Kept within the region, at least one chunk. */
export function clampWindow({ first, count }: MapWindow, chunkCount: number): MapWindow {
  const size = Math.max(1, Math.min(Math.round(count), chunkCount));
  return { first: Math.max(0, Math.min(Math.round(first), chunkCount - size)), count: size };
}

/** @param factor Below 1 zooms in. @param at The chunk that stays where it is. */
export function zoom(
  { first, count }: MapWindow,
  chunkCount: number,
  factor: number,
  at: number,
): MapWindow {
  const size = Math.max(1, Math.min(chunkCount, Math.round(count * factor)));
  const share = count === 0 ? 0.5 : (at - first) / count;
  return clampWindow({ first: at - share * size, count: size }, chunkCount);
}

/** @param steps Of half a window. */
export function pan({ first, count }: MapWindow, chunkCount: number, steps: number): MapWindow {
  return clampWindow({ first: first + steps * Math.max(1, count / 2), count }, chunkCount);
}

/** The grid for a window, in cells of about `cellPx` on a side. */
export function gridOf(
  window: MapWindow,
  widthPx: number,
  heightPx: number,
  cellPx: number,
): MapGrid {
  const columns = Math.max(1, Math.floor(widthPx / cellPx));
  const rowsMax = Math.max(1, Math.floor(heightPx / cellPx));
  const cells = columns * rowsMax;
  const chunksPerCell = Math.max(1, Math.ceil(window.count / cells));
  const used = Math.ceil(window.count / chunksPerCell);
  // Few chunks become large cells in place of one thin line.
  if (used <= columns) {
    const side = Math.max(1, Math.ceil(Math.sqrt(used * (widthPx / Math.max(1, heightPx)))));
    return {
      columns: Math.min(side, used),
      rows: Math.ceil(used / Math.min(side, used)),
      chunksPerCell,
    };
  }
  return { columns, rows: Math.ceil(used / columns), chunksPerCell };
}

/** The chunks of the cell at a point, both from 0 to 1; undefined outside. */
export function chunksAt(
  window: MapWindow,
  grid: MapGrid,
  x: number,
  y: number,
): MapWindow | undefined {
  const column = Math.floor(x * grid.columns);
  const row = Math.floor(y * grid.rows);
  if (column < 0 || column >= grid.columns || row < 0 || row >= grid.rows) return undefined;
  const offset = (row * grid.columns + column) * grid.chunksPerCell;
  if (offset >= window.count) return undefined;
  return {
    first: window.first + offset,
    count: Math.min(grid.chunksPerCell, window.count - offset),
  };
}
