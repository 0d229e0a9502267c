/**
 * What finished migrations cost: one by one, two beside each other, and as files.
 *
 * @module
 */
import { useMemo, type ReactNode } from "react";

import { useLive } from "../data/live.ts";
import { bytes, duration, moment, UNKNOWN } from "../format.ts";
import { hrefOf, setQuery, usePlace } from "../location.ts";
import { reportOf, toCsv, type Part, type Report } from "../model/report.ts";
import { ENDED } from "../model/session.ts";
import { Blank, Card, Facts, StateChip } from "../ui/parts.tsx";
import { Table } from "../ui/table.tsx";

const COMPARED_MAX = 2;

export function ReportsView(): ReactNode {
  const { sessions, loaded } = useLive();
  const { query } = usePlace();
  const ended = useMemo(() => sessions.filter(({ state }) => ENDED.has(state)), [sessions]);
  const reports = useMemo(() => ended.map(reportOf), [ended]);
  const chosen = (query["of"] ?? "").split(",").filter(Boolean);
  const shown = chosen.flatMap((id) => reports.find((report) => report.id === id) ?? []);
  const choose = (id: string): void => {
    const rest = chosen.filter((other) => other !== id);
    const next = chosen.includes(id) ? rest : [...rest, id].slice(-COMPARED_MAX);
    setQuery({ of: next.join(",") });
  };
  if (!loaded) return <Blank kind="loading" title="Asking the relay…" />;
  return (
    <>
      <div className="view-head">
        <h1>Reports</h1>
        <div className="spacer" />
        <button
          type="button"
          className="quiet"
          disabled={reports.length === 0}
          onClick={() => save("reports.json", "application/json", JSON.stringify(reports, null, 2))}
        >
          Export JSON
        </button>
        <button
          type="button"
          className="quiet"
          disabled={reports.length === 0}
          onClick={() => save("reports.csv", "text/csv", toCsv(reports))}
        >
          Export CSV
        </button>
      </div>
      {shown.length > 0 && (
        <div className="columns">
          {shown.map((report) => (
            <ReportCard
              key={report.id}
              report={report}
              other={shown.find((one) => one !== report)}
            />
          ))}
        </div>
      )}
      <Card
        title="Ended sessions"
        aside={<span className="soft">choose one, or two to compare</span>}
      >
        {reports.length === 0 ? (
          <Blank kind="empty" title="Nothing has ended yet">
            A session's report is here when it is done, cancelled or failed.
          </Blank>
        ) : (
          <Table
            label="Ended sessions"
            rows={ended}
            keyOf={({ id }) => id}
            columns={[
              {
                label: "",
                cell: ({ id, name }) => (
                  <input
                    type="checkbox"
                    aria-label={`Show the report of ${name || id}`}
                    checked={chosen.includes(id)}
                    onChange={() => choose(id)}
                  />
                ),
              },
              {
                label: "session",
                cell: (session) => (
                  <a href={hrefOf(`sessions/${session.id}`)}>{reportOf(session).name}</a>
                ),
              },
              { label: "state", cell: ({ state }) => <StateChip state={state} /> },
              { label: "size", numeric: true, cell: ({ region }) => bytes(region?.bytes) },
              { label: "took", numeric: true, cell: ({ timings }) => duration(timings.totalMs) },
              {
                label: "downtime",
                numeric: true,
                cell: ({ timings }) => duration(timings.downtimeMs),
              },
              { label: "ended", cell: ({ timings }) => moment(timings.endedAt) },
            ]}
          />
        )}
      </Card>
    </>
  );
}

function ReportCard({ report, other }: { report: Report; other: Report | undefined }): ReactNode {
  const versus = (mine: number | null, theirs: number | null | undefined): string => {
    if (mine === null || theirs === null || theirs === undefined || theirs === 0) return "";
    const change = (mine / theirs - 1) * 100;
    return ` (${change >= 0 ? "+" : "−"}${Math.abs(change).toFixed(0)} %)`;
  };
  return (
    <Card title={report.name} aside={<StateChip state={report.state} />}>
      <Facts
        facts={[
          { label: "from", value: report.source },
          { label: "to", value: report.destination },
          { label: "size", value: bytes(report.regionBytes) },
          {
            label: "took",
            value: duration(report.totalMs) + versus(report.totalMs, other?.totalMs),
          },
          {
            label: "downtime",
            value: duration(report.downtimeMs) + versus(report.downtimeMs, other?.downtimeMs),
          },
          { label: "rounds", value: report.rounds ?? UNKNOWN },
          {
            label: "integrity",
            value:
              report.rootHash === null ? UNKNOWN : <code>{report.rootHash.slice(0, 16)}…</code>,
            title: "The root hash that both sides agreed on",
          },
        ]}
      />
      <Split title="Standstill" parts={report.downtime} format={duration} />
      <Split title="Bytes" parts={report.bytes} format={bytes} />
    </Card>
  );
}

function Split(props: {
  readonly title: string;
  readonly parts: readonly Part[];
  readonly format: (value: number) => string;
}): ReactNode {
  const { title, parts, format } = props;
  const total = parts.reduce((sum, { value }) => sum + value, 0);
  if (total === 0) return null;
  let before = 0;
  return (
    <div className="split">
      <h3>{title}</h3>
      <svg className="bar" viewBox="0 0 1000 8" preserveAspectRatio="none" aria-hidden="true">
        {parts.map(({ label, value }, index) => {
          const x = (before / total) * 1000;
          before += value;
          return (
            <rect
              key={label}
              className={`split-${index}`}
              x={x}
              y="0"
              height="8"
              width={(value / total) * 1000}
            />
          );
        })}
      </svg>
      <ul className="split-legend">
        {parts.map(({ label, value }, index) => (
          <li key={label}>
            <i className={`swatch split-swatch-${index}`} aria-hidden="true" />
            {label} <span className="figure">{format(value)}</span>
          </li>
        ))}
      </ul>
    </div>
  );
}

function save(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  // Not at once: the download begins after this.
  window.setTimeout(() => URL.revokeObjectURL(url), 10_000);
}
