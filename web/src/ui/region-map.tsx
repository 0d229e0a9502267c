/**
 * A region as a picture: a cell for so many chunks, coloured by what is known of them.
 *
 * The relay sends a byte per cell. They become the pixels of a small image that the canvas enlarges, so that a
 * drawing costs the same for a mebibyte and for a tebibyte.
 *
 * @module
 */
import { useEffect, useMemo, useRef, useState, type KeyboardEvent, type ReactNode } from "react";

import { MAP_STATES, type MapState, type RegionMapData } from "../data/map.ts";
import { bytes, count, plural } from "../format.ts";
import { chunksAt, clampWindow, gridOf, pan, zoom, type MapWindow } from "../model/map-window.ts";

const CELL_PX = 7;
const HEIGHT_PX = 220;
const ZOOM_STEP = 0.5;

export interface RegionMapProps {
  readonly chunkCount: number;
  readonly chunkBytes: number;
  readonly window: MapWindow;
  readonly onWindow: (window: MapWindow) => void;
  /** Asked for when window, size or session change; its cells are those of the grid that is passed. */
  readonly load: (window: MapWindow, cells: number, signal: AbortSignal) => Promise<RegionMapData>;
  /** Counts up when the data may have changed. */
  readonly revision: number;
}

export function RegionMap(props: RegionMapProps): ReactNode {
  const { chunkCount, chunkBytes, onWindow, load, revision } = props;
  const window_ = clampWindow(props.window, chunkCount);
  const canvas = useRef<HTMLCanvasElement>(null);
  const frame = useRef<HTMLDivElement>(null);
  const [widthPx, setWidthPx] = useState(0);
  const [data, setData] = useState<RegionMapData>();
  const [problem, setProblem] = useState<string>();
  const [pointed, setPointed] = useState<string>();
  const theme = useTheme();
  const { first, count: shown } = window_;
  const grid = useMemo(
    () => gridOf({ first, count: shown }, widthPx, HEIGHT_PX, CELL_PX),
    [first, shown, widthPx],
  );

  useEffect(() => {
    const element = frame.current;
    if (element === null) return undefined;
    const observer = new ResizeObserver(([entry]) => setWidthPx(entry?.contentRect.width ?? 0));
    observer.observe(element);
    return () => observer.disconnect();
  }, []);

  useEffect(() => {
    if (widthPx === 0) return undefined;
    const abort = new AbortController();
    const cells = Math.ceil(shown / grid.chunksPerCell);
    load({ first, count: shown }, cells, abort.signal).then(
      (loaded) => {
        setData(loaded);
        setProblem(undefined);
      },
      (error: unknown) => {
        if (!abort.signal.aborted)
          setProblem(error instanceof Error ? error.message : String(error));
      },
    );
    return () => abort.abort();
  }, [load, first, shown, grid, widthPx, revision]);

  useEffect(() => {
    const element = canvas.current;
    if (element === null || data === undefined || widthPx === 0) return;
    draw(element, data, grid.columns, grid.rows, widthPx);
  }, [data, grid, widthPx, theme]);

  const whole = shown === chunkCount;
  const middle = first + shown / 2;
  const onKeyDown = (event: KeyboardEvent): void => {
    const next = {
      "+": () => zoom(window_, chunkCount, ZOOM_STEP, middle),
      "=": () => zoom(window_, chunkCount, ZOOM_STEP, middle),
      "-": () => zoom(window_, chunkCount, 1 / ZOOM_STEP, middle),
      ArrowLeft: () => pan(window_, chunkCount, -0.5),
      ArrowRight: () => pan(window_, chunkCount, 0.5),
      "0": () => ({ first: 0, count: chunkCount }),
    }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    onWindow(next());
  };
  const chunksUnder = (event: { clientX: number; clientY: number }): MapWindow | undefined => {
    const box = canvas.current?.getBoundingClientRect();
    if (box === undefined) return undefined;
    return chunksAt(
      window_,
      grid,
      (event.clientX - box.left) / box.width,
      (event.clientY - box.top) / box.height,
    );
  };
  const describe = (chunks: MapWindow): string => {
    const state = data?.cells[Math.floor((chunks.first - first) / grid.chunksPerCell)];
    const name = state === undefined ? "unknown" : (MAP_STATES[state]?.label ?? "unknown");
    const range =
      chunks.count === 1
        ? `chunk ${count(chunks.first)}`
        : `chunks ${count(chunks.first)} to ${count(chunks.first + chunks.count - 1)}`;
    return `${range}, from ${bytes(chunks.first * chunkBytes)}: ${name}`;
  };

  return (
    <div className="map">
      <div className="map-tools">
        <span className="soft figure">
          {whole
            ? "the whole region"
            : `${bytes(first * chunkBytes)} to ${bytes((first + shown) * chunkBytes)}`}
          {", "}
          {grid.chunksPerCell === 1
            ? "a cell is one chunk"
            : `a cell is ${plural(grid.chunksPerCell, "chunk")}`}
        </span>
        <div className="spacer" />
        <div className="button-group">
          <button
            type="button"
            className="quiet small"
            aria-label="Zoom in"
            disabled={shown === 1}
            onClick={() => onWindow(zoom(window_, chunkCount, ZOOM_STEP, middle))}
          >
            +
          </button>
          <button
            type="button"
            className="quiet small"
            aria-label="Zoom out"
            disabled={whole}
            onClick={() => onWindow(zoom(window_, chunkCount, 1 / ZOOM_STEP, middle))}
          >
            −
          </button>
          <button
            type="button"
            className="quiet small"
            disabled={whole}
            onClick={() => onWindow({ first: 0, count: chunkCount })}
          >
            All
          </button>
        </div>
      </div>
      <div ref={frame} className="map-frame">
        <canvas
          ref={canvas}
          className="map-canvas"
          role="img"
          tabIndex={0}
          aria-label={data === undefined ? "Region map" : summaryOf(data)}
          aria-keyshortcuts="+ - ArrowLeft ArrowRight 0"
          onKeyDown={onKeyDown}
          onPointerMove={(event) => {
            const chunks = chunksUnder(event);
            setPointed(chunks === undefined ? undefined : describe(chunks));
          }}
          onPointerLeave={() => setPointed(undefined)}
          onDoubleClick={(event) => {
            const chunks = chunksUnder(event);
            if (chunks === undefined) return;
            onWindow(zoom(window_, chunkCount, ZOOM_STEP ** 3, chunks.first + chunks.count / 2));
          }}
        />
      </div>
      <div className="map-legend">
        {MAP_STATES.map(({ label, color }) => (
          <span key={label} className="map-key">
            <i className={`swatch swatch-${color}`} aria-hidden="true" />
            {label}
          </span>
        ))}
        <span className="spacer" />
        <span className="soft map-pointed">{problem ?? pointed ?? "double-click to zoom in"}</span>
      </div>
    </div>
  );
}

function summaryOf({ cells }: RegionMapData): string {
  const counts = MAP_STATES.map(() => 0);
  for (const state of cells) counts[state] = (counts[state] ?? 0) + 1;
  const parts = MAP_STATES.flatMap(({ label }, state) => {
    const share = (counts[state] ?? 0) / Math.max(1, cells.length);
    return share === 0 ? [] : [`${(share * 100).toFixed(0)} % ${label}`];
  });
  return `Region map: ${parts.join(", ")}`;
}

let scratch: OffscreenCanvas | undefined;

function draw(
  element: HTMLCanvasElement,
  { cells }: RegionMapData,
  columns: number,
  rows: number,
  widthPx: number,
): void {
  const scale = window.devicePixelRatio;
  const [width, height] = [Math.round(widthPx * scale), Math.round(HEIGHT_PX * scale)];
  if (element.width !== width) element.width = width;
  if (element.height !== height) element.height = height;
  const context = element.getContext("2d");
  scratch ??= new OffscreenCanvas(1, 1);
  scratch.width = columns;
  scratch.height = rows;
  const small = scratch.getContext("2d");
  if (context === null || small === null) return;
  const palette = MAP_STATES.map((state) => colorOf(element, state));
  const image = small.createImageData(columns, rows);
  const pixels = new Uint32Array(image.data.buffer);
  for (let at = 0; at < cells.length && at < pixels.length; at++) {
    pixels[at] = palette[cells[at] ?? 0] ?? 0;
  }
  small.putImageData(image, 0, 0);
  context.clearRect(0, 0, width, height);
  context.imageSmoothingEnabled = false;
  context.drawImage(scratch, 0, 0, width, height);
}

/** As a pixel: red in the lowest byte. */
function colorOf(element: HTMLElement, { color }: MapState): number {
  const probe = getComputedStyle(element).getPropertyValue(`--map-${color}`).trim();
  const [, red = "0", green = "0", blue = "0"] = /^#(..)(..)(..)$/.exec(probe) ?? [];
  const part = (text: string): number => Number.parseInt(text, 16);
  return ((255 << 24) | (part(blue) << 16) | (part(green) << 8) | part(red)) >>> 0;
}

/** Changes when the colours do. */
export function useTheme(): string {
  const read = (): string =>
    document.documentElement.dataset["theme"] ??
    (window.matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const [theme, setTheme] = useState(read);
  useEffect(() => {
    const media = window.matchMedia("(prefers-color-scheme: dark)");
    const change = (): void => setTheme(read());
    media.addEventListener("change", change);
    const observer = new MutationObserver(change);
    observer.observe(document.documentElement, { attributeFilter: ["data-theme"] });
    return () => {
      media.removeEventListener("change", change);
      observer.disconnect();
    };
  }, []);
  return theme;
}
