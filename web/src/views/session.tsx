/**
 * One session: where the workload runs, whether it will end, how long it will stand still, and what to press.
 *
 * @module
 */
import { useCallback, useEffect, useMemo, type ReactNode } from "react";

import type { SessionBody } from "../../../relay/app.ts";
import { act, change } from "../data/api.ts";
import { live, useLive, useSession } from "../data/live.ts";
import { loadMap } from "../data/map.ts";
import { useResource } from "../data/resource.ts";
import { bytes, count, duration, moment, percent, rate, UNKNOWN } from "../format.ts";
import { hrefOf, setQuery, usePlace } from "../location.ts";
import type { MapWindow } from "../model/map-window.ts";
import {
  ACTION_LABELS,
  confirmationOf,
  ENDED,
  isMoving,
  nameOf,
  PATH_LABELS,
  verdictOf,
} from "../model/session.ts";
import { phasesOf } from "../model/phases.ts";
import { Chart } from "../ui/chart.tsx";
import { useAsk } from "../ui/dialog.tsx";
import { Bar, Blank, Card, Facts, ratiosOf, RunsAtBadge, StateChip, Tag } from "../ui/parts.tsx";
import { RegionMap } from "../ui/region-map.tsx";

export function SessionView({ id }: { readonly id: string }): ReactNode {
  const session = useSession(id);
  const { loaded } = useLive();
  const known = session !== undefined;
  // One that ended long ago is not in the stream.
  const { resource } = useResource<SessionBody>(loaded && !known ? `v1/sessions/${id}` : undefined);
  useEffect(() => {
    if (resource.kind === "ready") live.add(resource.value);
  }, [resource]);

  if (session !== undefined) return <Loaded session={session} />;
  switch (resource.kind) {
    case "missing":
      return (
        <Blank kind="error" title="There is no such session">
          It may have been deleted, or belong to another project.{" "}
          <a href={hrefOf("sessions")}>All sessions</a>
        </Blank>
      );
    case "forbidden":
      return (
        <Blank kind="forbidden" title="This key may not see sessions">
          {resource.problem}
        </Blank>
      );
    case "error":
      return (
        <Blank kind="error" title="The relay does not answer">
          {resource.problem}
        </Blank>
      );
    case "loading":
    case "ready":
      return <Blank kind="loading" title="Asking the relay…" />;
  }
}

function Loaded({ session }: { readonly session: SessionBody }): ReactNode {
  const { region, timings } = session;
  const ended = ENDED.has(session.state);
  return (
    <>
      <div className="view-head">
        <div className="title-line">
          <a className="back" href={hrefOf("sessions")} aria-label="All sessions">
            ←
          </a>
          <h1>{nameOf(session)}</h1>
          <StateChip state={session.state} />
        </div>
        <div className="spacer" />
        <RunsAtBadge session={session} />
      </div>
      <VerdictCard session={session} />
      <div className="columns">
        <Card title="Progress" className="wide">
          <Bars session={session} />
          <Rates session={session} />
        </Card>
        <Card title="Phases">
          <Timeline session={session} />
        </Card>
      </div>
      <RatesChart session={session} />
      {region !== null && <MapCard session={session} region={region} />}
      <div className="columns">
        <PathCard session={session} />
        <PeersCard session={session} />
        {!ended || timings.downtimeMs !== null ? <DowntimeCard session={session} /> : null}
        {session.allowedActions.includes("check") && <ChecksCard session={session} />}
      </div>
      <div className="columns">
        <EventsCard session={session} />
        <LimitsCard session={session} />
      </div>
    </>
  );
}

function VerdictCard({ session }: { readonly session: SessionBody }): ReactNode {
  const verdict = verdictOf(session);
  const { ask: question } = useAsk();
  // A ticket is of no use without the secret that only the peers have; checks have a card of their own.
  const actions = session.allowedActions.filter(
    (action) => action !== "rotateTickets" && action !== "check",
  );
  const urge = new Set(
    verdict.remedies.flatMap((remedy) =>
      remedy.kind === "action" ? [remedy.action as string] : [],
    ),
  );
  return (
    <section className={`card verdict tone-${verdict.tone}`} aria-live="polite">
      <p className="verdict-sentence">{verdict.sentence}</p>
      {verdict.remedies.length > 0 && (
        <ul className="remedies">
          {verdict.remedies.map((remedy) => (
            <li key={remedy.why}>
              {remedy.kind === "action" && (
                <strong>{ACTION_LABELS[remedy.action] ?? remedy.action}: </strong>
              )}
              {remedy.why}
            </li>
          ))}
        </ul>
      )}
      {actions.length > 0 && (
        <div className="buttons">
          {actions.map((action) => (
            <button
              key={action}
              type="button"
              className={action === "cancel" ? "danger" : urge.has(action) ? "primary" : "quiet"}
              onClick={() => {
                question(confirmationOf(action, session), async () => {
                  live.add(await act(session.id, action));
                  return `${ACTION_LABELS[action] ?? action}: the relay has passed it on.`;
                });
              }}
            >
              {ACTION_LABELS[action] ?? action}…
            </button>
          ))}
        </div>
      )}
    </section>
  );
}

function Bars({ session }: { readonly session: SessionBody }): ReactNode {
  const { sent, ready } = ratiosOf(session);
  return (
    <div className="bars">
      <Bar kind="sent" label="sent" ratio={sent} />
      <Bar kind="ready" label="ready" ratio={ready} />
    </div>
  );
}

function Rates({ session }: { readonly session: SessionBody }): ReactNode {
  const { progress, region } = session;
  const moving = isMoving(session);
  return (
    <Facts
      facts={[
        { label: "region", value: bytes(region?.bytes) },
        { label: "sending", value: moving ? rate(progress?.sendBytesPerS) : UNKNOWN },
        {
          label: "dirtied",
          value: moving ? rate(progress?.dirtyBytesPerS) : UNKNOWN,
          title: "What the workload writes while it is copied",
        },
        { label: "remaining", value: bytes(progress?.bytesRemaining) },
        {
          label: "time left",
          value:
            moving && progress?.convergence.verdict === "no"
              ? "never, like this"
              : duration(moving ? progress?.etaMs : null),
        },
        { label: "round", value: progress === null ? UNKNOWN : count(progress.round) },
        {
          label: "on the wire",
          value: bytes(progress?.bytesWire),
          title: "Everything that was sent, headers included",
        },
        {
          label: "zero chunks",
          value:
            progress === null || progress.chunksTotal === 0
              ? UNKNOWN
              : percent(progress.chunksZero / progress.chunksTotal),
        },
      ]}
    />
  );
}

function Timeline({ session }: { readonly session: SessionBody }): ReactNode {
  return (
    <ol className="timeline">
      {phasesOf(session).map(({ key, label, at, lastedMs, status }) => (
        <li
          key={key}
          className={`phase phase-${status}`}
          aria-current={status === "now" ? "step" : undefined}
        >
          <span className="phase-label">{label}</span>
          <span className="phase-time figure">{at === null ? "" : moment(at)}</span>
          <span className="phase-lasted figure">{lastedMs === null ? "" : duration(lastedMs)}</span>
        </li>
      ))}
    </ol>
  );
}

function RatesChart({ session }: { readonly session: SessionBody }): ReactNode {
  const samples = live.history.of(session.id);
  if (samples === undefined || samples.at.length < 2) return null;
  return (
    <Card title="Rates" aside={<span className="soft">while this page watches</span>}>
      <Chart
        label="Send rate, dirty rate and round trip over time"
        at={samples.at}
        lines={[
          {
            label: "sending",
            color: "accent",
            values: samples.sendBytesPerS,
            scale: "rate",
            format: rate,
          },
          {
            label: "dirtied",
            color: "warn",
            values: samples.dirtyBytesPerS,
            scale: "rate",
            format: rate,
          },
          {
            label: "round trip",
            color: "soft",
            values: samples.rttMs,
            scale: "time",
            format: duration,
            dashed: true,
          },
        ]}
      />
    </Card>
  );
}

function MapCard({
  session,
  region,
}: {
  readonly session: SessionBody;
  readonly region: NonNullable<SessionBody["region"]>;
}): ReactNode {
  const { query } = usePlace();
  const { id } = session;
  const window_: MapWindow = useMemo(
    () => ({
      first: Number(query["first"] ?? "0") || 0,
      count: Number(query["chunks"] ?? "0") || region.chunkCount,
    }),
    [query["first"], query["chunks"], region.chunkCount],
  );
  const load = useCallback(
    (shown: MapWindow, cells: number, signal: AbortSignal) => loadMap(id, shown, cells, signal),
    [id],
  );
  return (
    <Card
      title="Region"
      aside={
        <span className="soft figure">
          {region.name} · {count(region.chunkCount)} chunks of {bytes(region.chunkBytes)}
        </span>
      }
    >
      <RegionMap
        chunkCount={region.chunkCount}
        chunkBytes={region.chunkBytes}
        window={window_}
        revision={revisionOf(session)}
        load={load}
        onWindow={({ first, count: chunks }) =>
          setQuery(
            chunks >= region.chunkCount
              ? { first: undefined, chunks: undefined }
              : { first: String(first), chunks: String(chunks) },
          )
        }
      />
    </Card>
  );
}

/** The map is worth asking for again when what it shows has moved. */
function revisionOf({ progress, version }: SessionBody): number {
  return (
    version + (progress === null ? 0 : progress.chunksSent + progress.chunksReady + progress.round)
  );
}

function PathCard({ session }: { readonly session: SessionBody }): ReactNode {
  const { path, relayedBytes } = session;
  return (
    <Card title="Path">
      {path === null ? (
        <p className="soft">
          {ENDED.has(session.state)
            ? "The migration is over."
            : "The peers are not both connected."}
        </p>
      ) : (
        <p className="path-kind">
          <strong>{PATH_LABELS[path.kind]}</strong>
          {path.kind === "direct"
            ? ": the peers reach each other, the relay only keeps them in touch."
            : ": through the relay, which copies what it cannot read."}
        </p>
      )}
      <Facts
        facts={[
          { label: "round trip", value: duration(path?.rttMs) },
          { label: "relayed to destination", value: bytes(relayedBytes.fromSeeder) },
          { label: "relayed to source", value: bytes(relayedBytes.fromLeecher) },
        ]}
      />
    </Card>
  );
}

function PeersCard({ session }: { readonly session: SessionBody }): ReactNode {
  return (
    <Card title="Peers" className="wide">
      <div className="peers">
        {(["seeder", "leecher"] as const).map((role) => {
          const peer = session[role];
          return (
            <div key={role}>
              <h3>
                {role === "seeder" ? "source" : "destination"}
                <span className={`dot ${peer.connected ? "on" : "off"}`} aria-hidden="true" />
                <span className="soft">{peer.connected ? "connected" : "not connected"}</span>
              </h3>
              <Facts
                facts={[
                  { label: "host", value: peer.host ?? UNKNOWN },
                  { label: "version", value: peer.version ?? UNKNOWN },
                  { label: "address", value: peer.observedAddr ?? UNKNOWN },
                  { label: "link", value: peer.link ?? UNKNOWN },
                  { label: "joined", value: moment(peer.joinedAt) },
                ]}
              />
            </div>
          );
        })}
      </div>
    </Card>
  );
}

function DowntimeCard({ session }: { readonly session: SessionBody }): ReactNode {
  const { timings, progress, limits } = session;
  const measured = timings.downtimeMs;
  const budget = limits.downtimeTargetMs ?? null;
  const shown = measured ?? progress?.expectedDowntimeMs ?? null;
  const over = budget !== null && shown !== null && shown > budget;
  return (
    <Card title="Downtime">
      <p className={`big-figure figure ${over ? "text-bad" : ""}`}>{duration(shown)}</p>
      <p className="soft">
        {measured === null ? "expected" : "measured, suspend to resume"}
        {budget === null ? "" : `, budget ${duration(budget)}`}
      </p>
      {progress !== null && progress.faults > 0 && (
        <Facts
          facts={[
            { label: "chunks waited for after it", value: count(progress.faults) },
            { label: "wait, median", value: duration(progress.faultP50Ms) },
            { label: "wait, 99 %", value: duration(progress.faultP99Ms) },
          ]}
        />
      )}
    </Card>
  );
}

interface Checks {
  readonly checks: readonly {
    readonly name: string;
    readonly severity: "ok" | "info" | "warning" | "error";
    readonly message: string;
    readonly fix: string;
  }[];
  readonly checkedAt: string | null;
}

const SEVERITY_TONES = { ok: "good", info: "idle", warning: "warn", error: "bad" } as const;

function ChecksCard({ session }: { readonly session: SessionBody }): ReactNode {
  const { resource, reload } = useResource<Checks>(`v1/sessions/${session.id}/checks`);
  const { tell } = useAsk();
  const run = (): void => {
    change("POST", `v1/sessions/${session.id}:check`, {}).then(reload, (error: unknown) =>
      tell(error instanceof Error ? error.message : String(error), true),
    );
  };
  const checks = resource.kind === "ready" ? resource.value.checks : [];
  return (
    <Card
      title="Checks"
      aside={
        <button type="button" className="quiet small" onClick={run}>
          Run checks
        </button>
      }
    >
      {checks.length === 0 ? (
        <p className="soft">
          Not run yet: they look at what the migration needs, and change nothing.
        </p>
      ) : (
        <ul className="check-list">
          {checks.map(({ name, severity, message, fix }) => (
            <li key={name}>
              <Tag tone={SEVERITY_TONES[severity]}>{severity}</Tag>
              <span>
                {message}
                {fix !== "" && <span className="soft"> {fix}</span>}
              </span>
            </li>
          ))}
        </ul>
      )}
    </Card>
  );
}

interface EventPage {
  readonly events: readonly {
    readonly seq: number;
    readonly at: string;
    readonly type: string;
    readonly data: Readonly<Record<string, string | number | boolean>>;
  }[];
  readonly nextCursor: string | null;
}

function EventsCard({ session }: { readonly session: SessionBody }): ReactNode {
  const { resource } = useEvents(session);
  return (
    <Card title="Events" className="wide">
      {resource.kind === "ready" ? (
        resource.value.events.length === 0 ? (
          <p className="soft">Nothing has happened yet.</p>
        ) : (
          <ol className="events" reversed tabIndex={0} aria-label="Events, the newest first">
            {[...resource.value.events].reverse().map(({ seq, at, type, data }) => (
              <li key={seq}>
                <time className="figure soft" dateTime={at}>
                  {moment(at)}
                </time>
                <strong>{type}</strong>
                <span className="soft">
                  {Object.entries(data)
                    .map(([name, value]) => `${name} ${String(value)}`)
                    .join(", ")}
                </span>
              </li>
            ))}
          </ol>
        )
      ) : resource.kind === "loading" ? (
        <p className="soft">Asking the relay…</p>
      ) : (
        <p className="soft">The events are not to be had now.</p>
      )}
    </Card>
  );
}

function useEvents({ id, version }: SessionBody): ReturnType<typeof useResource<EventPage>> {
  const handle = useResource<EventPage>(`v1/sessions/${id}/events?limit=200`);
  const { reload } = handle;
  useEffect(reload, [version, reload]);
  return handle;
}

function LimitsCard({ session }: { readonly session: SessionBody }): ReactNode {
  const { limits, labels, createdBy, mode } = session;
  return (
    <Card title="Settings">
      <Facts
        facts={[
          {
            label: "mode",
            value: mode === "live" ? "live, may end by post-copy" : "pre-copy only",
          },
          {
            label: "rate limit",
            value: limits.bytesPerS === undefined ? "none" : rate(limits.bytesPerS),
          },
          { label: "downtime budget", value: duration(limits.downtimeTargetMs) },
          { label: "deadline", value: duration(limits.deadlineMs) },
          { label: "made by", value: createdBy },
          {
            label: "fingerprint",
            value: session.fingerprint ?? UNKNOWN,
            title: "Both peers show the same, or somebody is between them",
          },
          { label: "id", value: <code>{session.id}</code> },
        ]}
      />
      {Object.keys(labels).length > 0 && (
        <p className="labels">
          {Object.entries(labels).map(([name, value]) => (
            <span key={name} className="label">
              {name}: {value}
            </span>
          ))}
        </p>
      )}
    </Card>
  );
}
