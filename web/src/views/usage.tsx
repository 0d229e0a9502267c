/**
 * What the project used, and which bounds it is near.
 *
 * @module
 */
import { useMemo, type ReactNode } from "react";

import { useResource } from "../data/resource.ts";
import { bytes, count, duration, percent, UNKNOWN } from "../format.ts";
import { Blank, Card, Facts, MiniBar } from "../ui/parts.tsx";
import { Chart } from "../ui/chart.tsx";
import { ResourceTable } from "../ui/table.tsx";

interface Usage {
  readonly days: readonly {
    readonly day: string;
    readonly path: string;
    readonly bytes: number;
    readonly sessionSeconds: number;
  }[];
}

interface Limit {
  readonly name: string;
  readonly scope: string;
  readonly unit: string;
  readonly bound: number | null;
  readonly used: number | null;
}

const PATH_COLORS: Readonly<Record<string, string>> = {
  websocket: "accent",
  webtransport: "warn",
  direct: "good",
};

export function UsageView(): ReactNode {
  const usage = useResource<Usage>("v1/usage", 60_000);
  const limits = useResource<{ limits: readonly Limit[] }>("v1/limits", 10_000);
  return (
    <>
      <div className="view-head">
        <h1>Usage</h1>
      </div>
      <Card title="Last 30 days">
        {usage.resource.kind === "ready" ? (
          <Days days={usage.resource.value.days} />
        ) : usage.resource.kind === "loading" ? (
          <Blank kind="loading" title="Asking the relay…" />
        ) : (
          <Blank kind="error" title="The usage is not to be had now" />
        )}
      </Card>
      <Card title="Limits">
        <ResourceTable
          label="Limits"
          resource={limits.resource}
          rowsOf={(value) => value.limits}
          keyOf={({ name }) => name}
          emptyTitle="No limits"
          empty=""
          columns={[
            { label: "limit", cell: ({ name }) => name },
            { label: "counts for each", cell: ({ scope }) => scope },
            { label: "used", numeric: true, cell: ({ used, unit }) => inUnit(used, unit) },
            {
              label: "bound",
              numeric: true,
              cell: ({ bound, unit }) => inUnit(bound, unit, "none"),
            },
            {
              label: "",
              cell: ({ used, bound }) =>
                used === null || bound === null || bound === 0 ? null : (
                  <span className="limit-bar">
                    <MiniBar sent={null} ready={used / bound} />
                    <span className={used > 0.8 * bound ? "text-warn figure" : "soft figure"}>
                      {percent(used / bound, 0)}
                    </span>
                  </span>
                ),
            },
          ]}
        />
      </Card>
    </>
  );
}

function inUnit(value: number | null, unit: string, none = UNKNOWN): string {
  if (value === null) return none;
  if (unit.startsWith("bytes")) return bytes(value) + unit.slice("bytes".length);
  if (unit === "ms") return duration(value);
  return `${count(value)} ${unit}`;
}

function Days({ days }: { readonly days: Usage["days"] }): ReactNode {
  const { at, paths, total, seconds } = useMemo(() => {
    const dates = [...new Set(days.map(({ day }) => day))].sort();
    const kinds = [...new Set(days.map(({ path }) => path))].sort();
    return {
      at: dates.map((day) => Date.parse(day) / 1000),
      paths: kinds.map((path) => ({
        path,
        values: dates.map(
          (day) => days.find((one) => one.day === day && one.path === path)?.bytes ?? 0,
        ),
      })),
      total: days.reduce((sum, one) => sum + one.bytes, 0),
      seconds: days.reduce((sum, one) => sum + one.sessionSeconds, 0),
    };
  }, [days]);
  if (days.length === 0) {
    return (
      <Blank kind="empty" title="Nothing was moved yet">
        Bytes count here when the relay carries them or the peers report them.
      </Blank>
    );
  }
  return (
    <>
      <Facts
        facts={[
          { label: "bytes", value: bytes(total) },
          { label: "session time", value: duration(seconds * 1000) },
          ...paths.map(({ path, values }) => ({
            label: path,
            value: bytes(values.reduce((sum, value) => sum + value, 0)),
          })),
        ]}
      />
      {at.length > 1 && (
        <Chart
          label="Bytes a day by path"
          at={at}
          lines={paths.map(({ path, values }) => ({
            label: path,
            color: PATH_COLORS[path] ?? "soft",
            values,
            scale: "bytes",
            format: bytes,
          }))}
        />
      )}
    </>
  );
}
