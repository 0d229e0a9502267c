/**
 * All sessions: found, sorted, chosen, cancelled together. Ten thousand rows are as quick as ten, since only
 * those in sight are drawn.
 *
 * @module
 */
import { useVirtualizer } from "@tanstack/react-virtual";
import { useEffect, useMemo, useRef, useState, type KeyboardEvent, type ReactNode } from "react";

import type { SessionBody } from "../../../relay/app.ts";
import { act } from "../data/api.ts";
import { useLive } from "../data/live.ts";
import { ago, bytes, duration, plural, rate, UNKNOWN } from "../format.ts";
import { go, hrefOf, setQuery, usePlace } from "../location.ts";
import { ENDED, isMoving, nameOf, PATH_LABELS, STATE_LABELS, verdictOf } from "../model/session.ts";
import { filterSessions, SORTS, type Sort } from "../model/session-list.ts";
import { useAsk } from "../ui/dialog.tsx";
import { Blank, MiniBar, ratiosOf, RunsAtBadge, StateChip } from "../ui/parts.tsx";
import { useNow } from "../ui/now.ts";

const ROW_PX = 56;
const SAVED_ITEM = "memferry-saved-filters";

export function SessionsView(): ReactNode {
  const live = useLive();
  const { query } = usePlace();
  const { ask } = useAsk();
  const sort = (query["sort"] ?? "newest") as Sort;
  const filter = { text: query["q"] ?? "", state: query["state"] ?? "", sort };
  const found = useMemo(
    () => filterSessions(live.sessions, filter),
    [live.sessions, filter.text, filter.state, filter.sort],
  );
  const [chosen, setChosen] = useState<ReadonlySet<string>>(new Set());
  const cancellable = found.filter(
    (session) => chosen.has(session.id) && session.allowedActions.includes("cancel"),
  );

  const cancelChosen = (): void => {
    ask(
      {
        title: `Cancel ${plural(cancellable.length, "session")}`,
        consequence:
          "These migrations stop and what was copied is discarded. Each workload stays at its source and keeps running. Those that have moved meanwhile are left alone.",
        confirm: "Cancel them",
        dangerous: true,
      },
      async () => {
        const outcomes = await Promise.allSettled(
          cancellable.map(({ id }) => act(id, "cancel", "cancelled together in the dashboard")),
        );
        setChosen(new Set());
        const failed = outcomes.filter(({ status }) => status === "rejected").length;
        if (failed > 0) throw new Error(`${failed} of ${outcomes.length} could not be cancelled`);
        return `${plural(outcomes.length, "session")} cancelled.`;
      },
    );
  };

  return (
    <>
      <div className="view-head">
        <h1>Sessions</h1>
        <p className="soft">
          {plural(found.length, "session")}
          {found.length === live.sessions.length ? "" : ` of ${live.sessions.length}`}
        </p>
        <div className="spacer" />
        <a className="button primary" href={hrefOf("new")}>
          New
        </a>
      </div>
      <Filters {...filter} />
      {chosen.size > 0 && (
        <div className="bulk" role="region" aria-label="Chosen sessions">
          <span>{plural(chosen.size, "session")} chosen</span>
          <button
            type="button"
            className="danger small"
            disabled={cancellable.length === 0}
            onClick={cancelChosen}
          >
            Cancel {cancellable.length === chosen.size ? "" : `${cancellable.length} of them `}…
          </button>
          <button type="button" className="quiet small" onClick={() => setChosen(new Set())}>
            Choose none
          </button>
        </div>
      )}
      {!live.loaded ? (
        <Blank kind="loading" title="Asking the relay…" />
      ) : live.sessions.length === 0 ? (
        <Blank kind="empty" title="No sessions yet">
          <p>
            <a href={hrefOf("new")}>Make one here</a>, or run <code>memferry seed</code> on the
            source and <code>memferry leech</code> with the ticket that it prints.
          </p>
        </Blank>
      ) : found.length === 0 ? (
        <Blank kind="empty" title="Nothing matches">
          <p>
            <a href={hrefOf("sessions")}>Show all sessions</a>
          </p>
        </Blank>
      ) : (
        <Rows sessions={found} chosen={chosen} onChosen={setChosen} />
      )}
    </>
  );
}

function Filters({ text, state, sort }: { text: string; state: string; sort: Sort }): ReactNode {
  const [saved, setSaved] = useState(readSaved);
  const keep = (filters: Readonly<Record<string, string>>): void => {
    localStorage.setItem(SAVED_ITEM, JSON.stringify(filters));
    setSaved(filters);
  };
  const here = new URLSearchParams({ q: text, state, sort }).toString();
  return (
    <form className="filters" role="search" onSubmit={(event) => event.preventDefault()}>
      <input
        id="search"
        type="search"
        placeholder="Name, label, host or id  ( / )"
        aria-label="Search sessions"
        value={text}
        maxLength={200}
        onChange={(event) => setQuery({ q: event.target.value })}
      />
      <label>
        <span className="visually-hidden">State</span>
        <select value={state} onChange={(event) => setQuery({ state: event.target.value })}>
          <option value="">Any state</option>
          <option value="live">Under way</option>
          <option value="attention">Needs attention</option>
          {Object.entries(STATE_LABELS).map(([value, label]) => (
            <option key={value} value={value}>
              {label}
            </option>
          ))}
        </select>
      </label>
      <label>
        <span className="visually-hidden">Sort by</span>
        <select value={sort} onChange={(event) => setQuery({ sort: event.target.value })}>
          {Object.entries(SORTS).map(([value, { label }]) => (
            <option key={value} value={value}>
              {label}
            </option>
          ))}
        </select>
      </label>
      <div className="saved">
        {Object.entries(saved).map(([name, filterText]) => (
          <span key={name} className={`saved-filter ${filterText === here ? "on" : ""}`}>
            <button
              type="button"
              className="quiet small"
              onClick={() => go("sessions", Object.fromEntries(new URLSearchParams(filterText)))}
            >
              {name}
            </button>
            <button
              type="button"
              className="quiet small"
              aria-label={`Forget the filter ${name}`}
              onClick={() => {
                const { [name]: _gone, ...rest } = saved;
                keep(rest);
              }}
            >
              ×
            </button>
          </span>
        ))}
        {(text !== "" || state !== "") && !Object.values(saved).includes(here) && (
          <button
            type="button"
            className="quiet small"
            onClick={() => {
              const label = [text, state].filter((part) => part !== "").join(", ");
              keep({ ...saved, [label]: here });
            }}
          >
            Save this filter
          </button>
        )}
      </div>
    </form>
  );
}

function readSaved(): Readonly<Record<string, string>> {
  try {
    const kept: unknown = JSON.parse(localStorage.getItem(SAVED_ITEM) ?? "{}");
    if (typeof kept !== "object" || kept === null) return {};
    return Object.fromEntries(
      Object.entries(kept).filter(
        (entry): entry is [string, string] => typeof entry[1] === "string",
      ),
    );
  } catch {
    // Not ours, or half written.
    return {};
  }
}

function Rows({
  sessions,
  chosen,
  onChosen,
}: {
  readonly sessions: readonly SessionBody[];
  readonly chosen: ReadonlySet<string>;
  readonly onChosen: (chosen: ReadonlySet<string>) => void;
}): ReactNode {
  const scroller = useRef<HTMLDivElement>(null);
  const nowMs = useNow();
  const [at, setAt] = useState(0);
  const rows = useVirtualizer({
    count: sessions.length,
    getScrollElement: () => scroller.current,
    estimateSize: () => ROW_PX,
    overscan: 8,
    getItemKey: (index) => sessions[index]?.id ?? index,
  });
  useEffect(() => {
    if (at >= sessions.length) setAt(Math.max(0, sessions.length - 1));
  }, [at, sessions.length]);

  const toggle = (id: string): void => {
    const next = new Set(chosen);
    if (!next.delete(id)) next.add(id);
    onChosen(next);
  };
  const onKeyDown = (event: KeyboardEvent): void => {
    const move = { ArrowDown: 1, ArrowUp: -1, j: 1, k: -1, PageDown: 10, PageUp: -10 }[event.key];
    const session = sessions[at];
    if (move !== undefined) {
      const next = Math.max(0, Math.min(sessions.length - 1, at + move));
      setAt(next);
      rows.scrollToIndex(next);
    } else if (event.key === "Home" || event.key === "End") {
      const next = event.key === "Home" ? 0 : sessions.length - 1;
      setAt(next);
      rows.scrollToIndex(next);
    } else if (event.key === "Enter" && session !== undefined) {
      go(`sessions/${session.id}`);
    } else if (event.key === " " && session !== undefined) {
      toggle(session.id);
    } else {
      return;
    }
    event.preventDefault();
  };

  return (
    <div
      ref={scroller}
      className="rows"
      role="grid"
      aria-label="Sessions"
      aria-rowcount={sessions.length}
      aria-activedescendant={sessions[at] === undefined ? undefined : `row-${sessions[at].id}`}
      tabIndex={0}
      onKeyDown={onKeyDown}
    >
      <div role="rowgroup" style={{ height: rows.getTotalSize() }} className="rows-all">
        {rows.getVirtualItems().map(({ index, start }) => {
          const session = sessions[index];
          if (session === undefined) return null;
          return (
            <Row
              key={session.id}
              session={session}
              index={index}
              top={start}
              nowMs={nowMs}
              current={index === at}
              chosen={chosen.has(session.id)}
              onToggle={() => toggle(session.id)}
            />
          );
        })}
      </div>
    </div>
  );
}

function Row(props: {
  readonly session: SessionBody;
  readonly index: number;
  readonly top: number;
  readonly nowMs: number;
  readonly current: boolean;
  readonly chosen: boolean;
  readonly onToggle: () => void;
}): ReactNode {
  const { session, index, top, nowMs, current, chosen, onToggle } = props;
  const { progress, region, path } = session;
  const moving = isMoving(session);
  const verdict = verdictOf(session);
  const name = nameOf(session);
  return (
    <div
      id={`row-${session.id}`}
      role="row"
      aria-rowindex={index + 1}
      aria-selected={chosen}
      className={`row ${current ? "current" : ""}`}
      style={{ transform: `translateY(${top}px)`, height: ROW_PX }}
    >
      <div role="gridcell" className="cell-choose">
        <input
          type="checkbox"
          aria-label={`Choose ${name}`}
          checked={chosen}
          tabIndex={-1}
          onChange={onToggle}
        />
      </div>
      <div role="gridcell" className="cell-name">
        <a href={hrefOf(`sessions/${session.id}`)} tabIndex={-1}>
          {name}
        </a>
        <span className="soft">
          {session.seeder.host ?? "source"} → {session.leecher.host ?? "destination"}
        </span>
      </div>
      <div role="gridcell" className="cell-state">
        <StateChip state={session.state} />
        <RunsAtBadge session={session} />
      </div>
      <div role="gridcell" className="cell-bar">
        <MiniBar {...ratiosOf(session)} />
        <span className="soft figure">{bytes(region?.bytes)}</span>
      </div>
      <div role="gridcell" className="cell-rate figure">
        <span>{moving ? rate(progress?.sendBytesPerS) : UNKNOWN}</span>
        <span className="soft">{moving ? `${rate(progress?.dirtyBytesPerS)} dirtied` : ""}</span>
      </div>
      <div role="gridcell" className={`cell-eta figure text-${verdict.tone}`}>
        {moving && verdict.tone === "bad"
          ? "not converging"
          : moving
            ? duration(progress?.etaMs)
            : ENDED.has(session.state)
              ? duration(session.timings.totalMs)
              : UNKNOWN}
      </div>
      <div role="gridcell" className="cell-path">
        {path === null ? (
          UNKNOWN
        ) : (
          <>
            <span>{PATH_LABELS[path.kind]}</span>
            <span className="soft figure">{path.rttMs === null ? "" : duration(path.rttMs)}</span>
          </>
        )}
      </div>
      <div role="gridcell" className="cell-age soft figure">
        {ago(session.timings.createdAt, nowMs)}
      </div>
    </div>
  );
}
