/**
 * What needs attention first, then what goes on.
 *
 * @module
 */
import { useMemo, type ReactNode } from "react";

import type { SessionBody } from "../../../relay/app.ts";
import { useLive } from "../data/live.ts";
import { count, duration, percent, plural, rate } from "../format.ts";
import { hrefOf } from "../location.ts";
import { overviewOf } from "../model/overview.ts";
import { isMoving, nameOf } from "../model/session.ts";
import { useNow } from "../ui/now.ts";
import { Blank, Card, MiniBar, ratiosOf, RunsAtBadge, StateChip } from "../ui/parts.tsx";

const LIVE_SHOWN = 12;

export function OverviewView(): ReactNode {
  const { sessions, loaded } = useLive();
  const nowMs = useNow(10_000);
  const overview = useMemo(() => overviewOf(sessions, nowMs), [sessions, nowMs]);
  if (!loaded) return <Blank kind="loading" title="Asking the relay…" />;
  const { attention, live, direct, relayed } = overview;
  const paths = direct + relayed;
  return (
    <>
      <div className="view-head">
        <h1>Overview</h1>
      </div>
      <div className="figures">
        <Figure
          label="under way"
          value={count(live.length)}
          href={hrefOf("sessions", { state: "live" })}
        />
        <Figure label="sending" value={rate(overview.sendBytesPerS)} />
        <Figure
          label="direct"
          value={paths === 0 ? "–" : percent(direct / paths, 0)}
          note={paths === 0 ? "nothing moves" : `${direct} direct, ${relayed} relayed`}
        />
        <Figure
          label="downtime, median"
          value={duration(overview.downtimeP50Ms)}
          note={`95 %: ${duration(overview.downtimeP95Ms)}, of 24 h`}
        />
        <Figure
          label="done in 24 h"
          value={count(overview.doneToday)}
          note={plural(overview.failedToday, "failure")}
          tone={overview.failedToday > 0 ? "bad" : undefined}
          href={hrefOf("sessions", { state: "done" })}
        />
      </div>
      <Card title="Needs attention" className={attention.length > 0 ? "attention" : ""}>
        {attention.length === 0 ? (
          <p className="all-well">
            <span className="dot on" aria-hidden="true" /> Everything that is under way gets on.
          </p>
        ) : (
          <ul className="attention-list">
            {attention.map(({ session, why }) => (
              <li key={session.id}>
                <a href={hrefOf(`sessions/${session.id}`)}>{nameOf(session)}</a>
                <StateChip state={session.state} />
                <RunsAtBadge session={session} />
                <span className="why">{why}</span>
              </li>
            ))}
          </ul>
        )}
      </Card>
      <Card
        title="Under way"
        aside={
          live.length > LIVE_SHOWN ? (
            <a href={hrefOf("sessions", { state: "live" })}>all {live.length}</a>
          ) : undefined
        }
      >
        {live.length === 0 ? (
          <Blank kind="empty" title="Nothing is under way">
            <p>
              <code>memferry seed</code> on the source offers a region and prints a ticket;{" "}
              <code>memferry leech</code> with it on the destination takes the region over.
            </p>
          </Blank>
        ) : (
          <ul className="live-list">
            {live.slice(0, LIVE_SHOWN).map((session) => (
              <LiveLine key={session.id} session={session} />
            ))}
          </ul>
        )}
      </Card>
    </>
  );
}

function LiveLine({ session }: { readonly session: SessionBody }): ReactNode {
  const { progress } = session;
  const moving = isMoving(session);
  return (
    <li>
      <a href={hrefOf(`sessions/${session.id}`)} className="live-name">
        {nameOf(session)}
      </a>
      <StateChip state={session.state} />
      <RunsAtBadge session={session} />
      <MiniBar {...ratiosOf(session)} />
      <span className="figure live-rate">{moving ? rate(progress?.sendBytesPerS) : ""}</span>
      <span className="figure live-eta">{moving ? duration(progress?.etaMs) : ""}</span>
    </li>
  );
}

function Figure(props: {
  readonly label: string;
  readonly value: string;
  readonly note?: string;
  readonly tone?: "bad" | undefined;
  readonly href?: string;
}): ReactNode {
  const { label, value, note = "", tone, href } = props;
  const inside = (
    <>
      <span className="figure-label">{label}</span>
      <span className="figure-value figure">{value}</span>
      <span className={`figure-note ${tone === undefined ? "soft" : `text-${tone}`}`}>{note}</span>
    </>
  );
  return href === undefined ? (
    <div className="figure-card">{inside}</div>
  ) : (
    <a className="figure-card" href={href}>
      {inside}
    </a>
  );
}
