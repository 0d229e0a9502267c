/**
 * The small parts that every view is made of.
 *
 * @module
 */
import type { ReactNode } from "react";

import type { SessionBody } from "../../../relay/app.ts";
import { percent, UNKNOWN } from "../format.ts";
import {
  runsAt,
  STATE_LABELS,
  toneOf,
  type RunsAt,
  type State,
  type Tone,
} from "../model/session.ts";

export function StateChip({ state }: { readonly state: State }): ReactNode {
  return <span className={`chip tone-${toneOf(state)}`}>{STATE_LABELS[state]}</span>;
}

export function Tag({ tone = "idle", children }: { tone?: Tone; children: ReactNode }): ReactNode {
  return <span className={`chip tone-${tone}`}>{children}</span>;
}

const RUNS_AT_LABELS: Readonly<Record<RunsAt, string>> = {
  source: "source",
  destination: "destination",
  suspended: "suspended",
};

/** Which host the workload runs on: the one thing that must never be mistaken. */
export function RunsAtBadge({ session }: { readonly session: SessionBody }): ReactNode {
  const where = runsAt(session);
  return (
    <span className={`runs-at runs-at-${where}`}>
      <span className="runs-at-label">runs at</span>
      <strong>{RUNS_AT_LABELS[where]}</strong>
    </span>
  );
}

/** `sent` never runs backwards and `ready` may: two lengths, one bar, or two bars where there is room. */
export function Bar({
  ratio,
  label,
  kind,
}: {
  readonly ratio: number | null;
  readonly label: string;
  readonly kind: "sent" | "ready";
}): ReactNode {
  const value = ratio === null ? 0 : Math.max(0, Math.min(1, ratio));
  return (
    <div className="bar-row">
      <span className="bar-label">{label}</span>
      <svg
        className={`bar bar-${kind}`}
        role="img"
        aria-label={`${label} ${percent(ratio)}`}
        preserveAspectRatio="none"
        viewBox="0 0 1000 8"
      >
        <rect className="bar-fill" x="0" y="0" height="8" width={value * 1000} />
      </svg>
      <span className="bar-figure">{percent(ratio)}</span>
    </div>
  );
}

/** Both in one line, for lists. */
export function MiniBar({ sent, ready }: { sent: number | null; ready: number | null }): ReactNode {
  const width = (ratio: number | null): number => Math.max(0, Math.min(1, ratio ?? 0)) * 1000;
  return (
    <svg
      className="bar mini"
      role="img"
      aria-label={`${percent(ready)} ready, ${percent(sent)} sent`}
      preserveAspectRatio="none"
      viewBox="0 0 1000 8"
    >
      <rect className="bar-sent" x="0" y="0" height="8" width={width(sent)} />
      <rect className="bar-ready" x="0" y="0" height="8" width={width(ready)} />
    </svg>
  );
}

export function ratiosOf(session: SessionBody): { sent: number | null; ready: number | null } {
  const { progress, state } = session;
  if (state === "done") return { sent: 1, ready: 1 };
  if (progress === null || progress.chunksTotal === 0) return { sent: null, ready: null };
  const ready = progress.chunksReady / progress.chunksTotal;
  return { ready, sent: Math.max(ready, progress.chunksSent / progress.chunksTotal) };
}

export interface Fact {
  readonly label: string;
  readonly value: ReactNode;
  readonly title?: string;
}

/** Labels over figures. */
export function Facts({ facts }: { readonly facts: readonly Fact[] }): ReactNode {
  return (
    <dl className="facts">
      {facts.map(({ label, value, title }) => (
        <div key={label} title={title}>
          <dt>{label}</dt>
          <dd>{value === "" || value === null || value === undefined ? UNKNOWN : value}</dd>
        </div>
      ))}
    </dl>
  );
}

export function Card({
  title,
  aside,
  children,
  className = "",
}: {
  readonly title?: ReactNode;
  readonly aside?: ReactNode;
  readonly children: ReactNode;
  readonly className?: string;
}): ReactNode {
  return (
    <section className={`card ${className}`}>
      {title !== undefined && (
        <header className="card-head">
          <h2>{title}</h2>
          {aside !== undefined && <div className="card-aside">{aside}</div>}
        </header>
      )}
      {children}
    </section>
  );
}

/** What a view shows when it has nothing to show: why, and what to do. */
export function Blank({
  kind,
  title,
  children,
}: {
  readonly kind: "empty" | "loading" | "error" | "forbidden";
  readonly title: string;
  readonly children?: ReactNode;
}): ReactNode {
  return (
    <div className={`blank blank-${kind}`} role={kind === "error" ? "alert" : "status"}>
      <p className="blank-title">{title}</p>
      {children !== undefined && <div className="blank-text">{children}</div>}
    </div>
  );
}

export function Copyable({
  text,
  label,
}: {
  readonly text: string;
  readonly label: string;
}): ReactNode {
  return (
    <div className="copyable">
      <code>{text}</code>
      <button
        type="button"
        className="quiet small"
        aria-label={`Copy ${label}`}
        onClick={(event) => {
          const button = event.currentTarget;
          void navigator.clipboard
            .writeText(text)
            .then(() => "Copied")
            .catch(() => "Select and copy by hand")
            .then((said) => {
              button.textContent = said;
              window.setTimeout(() => (button.textContent = "Copy"), 2_000);
            });
        }}
      >
        Copy
      </button>
    </div>
  );
}
