/**
 * Rates over time. uPlot draws; this keeps it the size of its place and the colours of the page.
 *
 * @module
 */
import "uplot/dist/uPlot.min.css";
import { useEffect, useRef, type ReactNode } from "react";
import uPlot from "uplot";

import { useTheme } from "./region-map.tsx";

export interface Line {
  readonly label: string;
  /** Of the page's custom properties, without the dashes. */
  readonly color: string;
  readonly values: readonly (number | null)[];
  readonly scale: string;
  readonly format: (value: number | null) => string;
  readonly dashed?: boolean;
}

export interface ChartProps {
  readonly label: string;
  /** Seconds since the epoch. */
  readonly at: readonly number[];
  readonly lines: readonly Line[];
  readonly heightPx?: number;
}

export function Chart({ label, at, lines, heightPx = 180 }: ChartProps): ReactNode {
  const place = useRef<HTMLDivElement>(null);
  const plot = useRef<uPlot>(undefined);
  const theme = useTheme();
  const shape = lines.map((line) => `${line.label}/${line.scale}/${line.color}`).join();

  useEffect(() => {
    const element = place.current;
    if (element === null) return undefined;
    const style = getComputedStyle(element);
    const color = (name: string): string => style.getPropertyValue(`--${name}`).trim();
    const scales = [...new Set(lines.map(({ scale }) => scale))];
    const grid = { stroke: color("line"), width: 1 };
    const options: uPlot.Options = {
      width: Math.max(1, element.clientWidth),
      height: heightPx,
      cursor: { drag: { setScale: false } },
      legend: { live: true },
      scales: Object.fromEntries(
        scales.map((scale) => [
          scale,
          { range: (_plot, _min, max) => [0, Math.max(10, max * 1.1)] },
        ]),
      ),
      axes: [
        { stroke: color("soft"), grid, ticks: grid },
        ...scales.map((scale, index): uPlot.Axis => ({
          scale,
          side: index === 0 ? 3 : 1,
          size: 84,
          stroke: color("soft"),
          grid: index === 0 ? grid : { show: false },
          ticks: grid,
          values: (_plot, splits) => {
            const format = lines.find((line) => line.scale === scale)?.format;
            return splits.map((value) => format?.(value) ?? String(value));
          },
        })),
      ],
      series: [
        { label: "time" },
        ...lines.map((line): uPlot.Series => ({
          label: line.label,
          scale: line.scale,
          stroke: color(line.color),
          width: 1.75,
          ...(line.dashed === true ? { dash: [5, 4] } : {}),
          points: { show: false },
          value: (_plot, value) => line.format(value),
        })),
      ],
    };
    const made = new uPlot(options, dataOf(at, lines), element);
    plot.current = made;
    const observer = new ResizeObserver(() =>
      made.setSize({ width: Math.max(1, element.clientWidth), height: heightPx }),
    );
    observer.observe(element);
    return () => {
      observer.disconnect();
      made.destroy();
      plot.current = undefined;
    };
    // The data has an effect of its own: a chart is not made anew for each sample.
  }, [shape, theme, heightPx]);

  useEffect(() => {
    plot.current?.setData(dataOf(at, lines));
  });

  return <div ref={place} className="chart" role="img" aria-label={label} />;
}

function dataOf(at: readonly number[], lines: readonly Line[]): uPlot.AlignedData {
  return [[...at], ...lines.map(({ values }) => [...values])];
}
