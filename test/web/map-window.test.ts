/** Zooming and panning over a region: always within it, down to one chunk, and back to all of it. */
import fc from "fast-check";
import { expect, test } from "vitest";

import {
  chunksAt,
  clampWindow,
  gridOf,
  pan,
  zoom,
  type MapWindow,
} from "../../web/src/model/map-window.ts";

const chunkCounts = fc.integer({ min: 1, max: 2 ** 28 });
const windows = chunkCounts.chain((chunkCount) =>
  fc.record({
    chunkCount: fc.constant(chunkCount),
    window: fc
      .record({
        first: fc.integer({ min: -10, max: 2 ** 29 }),
        count: fc.integer({ min: 0, max: 2 ** 29 }),
      })
      .map((window) => clampWindow(window, chunkCount)),
  }),
);

function within({ first, count }: MapWindow, chunkCount: number): boolean {
  return (
    Number.isInteger(first) &&
    Number.isInteger(count) &&
    first >= 0 &&
    count >= 1 &&
    first + count <= chunkCount
  );
}

test("a window never leaves its region", () => {
  fc.assert(
    fc.property(
      windows,
      fc.double({ min: 0.01, max: 100, noNaN: true }),
      fc.double({ min: 0, max: 1, noNaN: true }),
      fc.integer({ min: -9, max: 9 }),
      ({ window, chunkCount }, factor, share, steps) => {
        expect(within(window, chunkCount)).toBe(true);
        const at = window.first + share * window.count;
        expect(within(zoom(window, chunkCount, factor, at), chunkCount)).toBe(true);
        expect(within(pan(window, chunkCount, steps), chunkCount)).toBe(true);
      },
    ),
  );
});

test("zooming in comes to the chunk that was pointed at, and out again to all", () => {
  fc.assert(
    fc.property(chunkCounts, fc.double({ min: 0, max: 1, noNaN: true }), (chunkCount, share) => {
      const target = Math.min(chunkCount - 1, Math.floor(share * chunkCount));
      let window: MapWindow = { first: 0, count: chunkCount };
      for (let step = 0; window.count > 1 && step < 64; step++) {
        window = zoom(window, chunkCount, 0.5, target + 0.5);
        expect(target).toBeGreaterThanOrEqual(window.first);
        expect(target).toBeLessThan(window.first + window.count);
      }
      expect(window).toEqual({ first: target, count: 1 });
      for (let step = 0; window.count < chunkCount && step < 64; step++) {
        window = zoom(window, chunkCount, 2, target + 0.5);
      }
      expect(window).toEqual({ first: 0, count: chunkCount });
    }),
  );
});

test("every chunk of a window is in exactly one cell", () => {
  fc.assert(
    fc.property(
      windows,
      fc.integer({ min: 20, max: 4_000 }),
      fc.integer({ min: 20, max: 800 }),
      fc.integer({ min: 2, max: 20 }),
      ({ window }, widthPx, heightPx, cellPx) => {
        const grid = gridOf(window, widthPx, heightPx, cellPx);
        const cells = Math.ceil(window.count / grid.chunksPerCell);
        expect(grid.columns * grid.rows).toBeGreaterThanOrEqual(cells);
        expect(grid.columns * (grid.rows - 1)).toBeLessThan(cells);
        // First and last cell, by the middle of their squares.
        const cellAt = (cell: number): MapWindow | undefined =>
          chunksAt(
            window,
            grid,
            ((cell % grid.columns) + 0.5) / grid.columns,
            (Math.floor(cell / grid.columns) + 0.5) / grid.rows,
          );
        expect(cellAt(0)?.first).toBe(window.first);
        const last = cellAt(cells - 1);
        expect((last?.first ?? 0) + (last?.count ?? 0)).toBe(window.first + window.count);
        if (cells < grid.columns * grid.rows) expect(cellAt(cells)).toBeUndefined();
      },
    ),
  );
});
