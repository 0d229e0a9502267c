/**
 * A session as the API shows it: the record, and over it what is known while peers are connected.
 *
 * @module
 */
import { toHex } from "../protocol/bytes.ts";
import type { Progress } from "../protocol/frame.ts";
import { isEnded, type Role, type SessionState } from "../protocol/ids.ts";
import type { LinkKind } from "../protocol/stream.ts";
import type { LiveSession } from "../switchboard/switchboard.ts";
import type { SessionRow } from "../db/sessions.ts";
import { percentSent } from "../db/session-store.ts";
import type { SessionBody } from "./schemas.ts";
import {
  allowedActions,
  blockedBy,
  shownState,
  whyPaused,
  type SessionFacts,
} from "./session-state.ts";

const PATH_KINDS: Readonly<Record<LinkKind, NonNullable<SessionBody["path"]>["kind"]>> = {
  webtransport: "relayWebTransport",
  websocket: "relayWs",
  direct: "direct",
  memory: "memory",
};

/** Of the way: what is left after the copying is the hand-over, and after that the rest. */
const COPYING_PERCENT = 80;
const FINALIZING_PERCENT = 85;
const SUSPENDED_PERCENT = 88;
const COMMITTED_PERCENT = 90;

export function factsOf(row: SessionRow, live: LiveSession | undefined): SessionFacts {
  const { state, owner, hold, mode, policy } = row;
  return {
    state,
    owner,
    hold,
    mode,
    policy,
    here: { seeder: live?.seeder !== undefined, leecher: live?.leecher !== undefined },
    hasUnusedTicket: row.seederJoinedAt === null || row.leecherJoinedAt === null,
  };
}

export function stateOf(row: SessionRow, live: LiveSession | undefined): SessionState {
  return shownState(factsOf(row, live));
}

function reasonOf(row: SessionRow, facts: SessionFacts): SessionBody["reason"] {
  const paused = whyPaused(facts);
  if (paused !== undefined) return paused;
  return row.reasonCode === "" ? null : { code: row.reasonCode, message: row.reasonMessage };
}

/** Where a relay says that it is. */
export interface RelayPlace {
  readonly node: string;
  readonly zone: string;
  readonly url: string;
}

/** @param place Of the relay that answers. */
export function sessionBody(
  row: SessionRow,
  live: LiveSession | undefined,
  place: RelayPlace,
): SessionBody {
  const ended = isEnded(row.state);
  const facts = factsOf(row, live);
  const state = shownState(facts);
  const progress = live?.progress ?? row.progress ?? undefined;
  const progressAt = live?.progress === undefined ? row.progressAt : new Date();
  const { seeder, leecher } = live ?? {};
  return {
    id: row.id,
    name: row.name,
    labels: row.labels,
    state,
    reason: reasonOf(row, facts),
    migrationId: row.migrationId,
    mode: row.mode,
    region: regionBody(row),
    seeder: peerBody(row, "seeder", live),
    leecher: peerBody(row, "leecher", live),
    path:
      seeder === undefined || leecher === undefined || ended
        ? null
        : {
            // The slower kind of link is the one that can be felt.
            kind: PATH_KINDS[
              live?.more?.path === "direct" || seeder.link !== "websocket"
                ? (live?.more?.path ?? leecher.link)
                : seeder.link
            ],
            rttMs: progress === undefined || progress.rttMs === 0 ? null : progress.rttMs,
          },
    relay: seeder === undefined && leecher === undefined ? null : place,
    fingerprint:
      live?.more === undefined || live.more.fingerprint === "" ? null : live.more.fingerprint,
    relayedBytes: { fromSeeder: row.bytesFromSeeder, fromLeecher: row.bytesFromLeecher },
    limits: row.limits,
    policy: row.policy,
    progress:
      progress === undefined
        ? null
        : progressBody({ row, live, facts, state }, { progress, at: progressAt }),
    timings: timingsBody(row, progress),
    authority: { holder: row.owner, epoch: row.ownerEpoch },
    allowedActions: allowedActions(facts),
    createdBy: row.createdBy,
    version: row.version,
    updatedAt: row.updatedAt.toISOString(),
  };
}

function regionBody(row: SessionRow): SessionBody["region"] {
  const { regionName, regionBytes, chunkBytes, chunkCount, rootHash } = row;
  if (regionBytes === null || chunkBytes === null || chunkCount === null) return null;
  return {
    name: regionName ?? "",
    bytes: regionBytes,
    chunkBytes,
    chunkCount,
    rootHash: rootHash === null ? null : toHex(rootHash),
  };
}

function peerBody(
  row: SessionRow,
  role: Role,
  live: LiveSession | undefined,
): SessionBody["seeder"] {
  const peer = live?.[role];
  const said = row[role];
  return {
    peerId: role === "seeder" ? row.seederPeerId : row.leecherPeerId,
    connected: peer !== undefined,
    joinedAt: (role === "seeder" ? row.seederJoinedAt : row.leecherJoinedAt)?.toISOString() ?? null,
    connectedSince: peer === undefined ? null : new Date(peer.joinedAtMs).toISOString(),
    host: said?.host ?? null,
    version: said?.version ?? null,
    observedAddr: peer?.remoteAddress ?? null,
    link: peer?.link ?? null,
  };
}

/**
 * How far a session is, 0 to 100, by what it has reached: so it never falls, though what is ready may.
 *
 * @param row.percentSent The best of the copying that was ever written down.
 */
export function percentOf(
  row: Pick<SessionRow, "state" | "times" | "percentSent">,
  progress: Progress,
): number {
  const share = (part: number): number =>
    progress.chunksTotal === 0 ? 0 : Math.min(1, part / progress.chunksTotal);
  if (row.state === "done") return 100;
  const { committedAt, suspendedAt, finalizeAt } = row.times;
  if (committedAt !== undefined) {
    return COMMITTED_PERCENT + (100 - COMMITTED_PERCENT) * share(progress.chunksReady) * 0.99;
  }
  if (suspendedAt !== undefined) return SUSPENDED_PERCENT;
  if (finalizeAt !== undefined) return FINALIZING_PERCENT;
  const sent = Math.max(row.percentSent, percentSent(progress));
  return (sent / 100) * COPYING_PERCENT;
}

function progressBody(
  {
    row,
    live,
    facts,
    state,
  }: {
    readonly row: SessionRow;
    readonly live: LiveSession | undefined;
    readonly facts: SessionFacts;
    readonly state: SessionState;
  },
  { progress, at }: { readonly progress: Progress; readonly at: Date | null },
): SessionBody["progress"] {
  const { owner } = row;
  const more = live?.more;
  const { sendBytesPerS, dirtyBytesPerS, bytesRemaining, chunksTotal, chunksReady } = progress;
  const active = !isEnded(state) && state !== "paused";
  const ratio = active && sendBytesPerS > 0 ? dirtyBytesPerS / sendBytesPerS : null;
  const gain = state === "postcopy" ? sendBytesPerS : sendBytesPerS - dirtyBytesPerS;
  const verdict = ratio === null || state === "postcopy" ? "unknown" : ratio < 1 ? "yes" : "no";
  return {
    phase: row.state,
    round: progress.round,
    roundsMax: row.limits.maxRounds ?? more?.roundsMax ?? null,
    percent: Math.floor(percentOf(row, progress) * 100) / 100,
    ready:
      chunksTotal === 0 ? 0 : Math.round(Math.min(1, chunksReady / chunksTotal) * 10_000) / 100,
    chunksTotal,
    chunksSent: progress.chunksSent,
    chunksReady,
    chunksDirty: progress.chunksDirty,
    chunksZero: progress.chunksZero,
    chunksReused: more?.chunksReused ?? 0,
    bytesTotal: progress.bytesTotal,
    bytesSent: progress.bytesSent,
    bytesWire: progress.bytesWire,
    bytesRemaining,
    dirtyBytesPerS,
    sendBytesPerS,
    convergence: {
      verdict,
      ratio: ratio === null ? null : Math.round(ratio * 1000) / 1000,
    },
    etaMs: active && gain > 0 ? Math.round((bytesRemaining / gain) * 1000) : null,
    // Past the hand-over there is nothing left to expect.
    expectedDowntimeMs:
      progress.expectedDowntimeMs === 0 || owner === "leecher" || isEnded(state)
        ? null
        : progress.expectedDowntimeMs,
    faults: progress.faults,
    faultP50Ms: more === undefined || progress.faults === 0 ? null : more.faultP50Ms,
    faultP99Ms: more === undefined || progress.faults === 0 ? null : more.faultP99Ms,
    stalledMs: active && bytesRemaining > 0 ? (live?.stillMs ?? 0) : 0,
    blockedBy: [...blockedBy(facts), ...(verdict === "no" ? ["notConverging"] : [])],
    at: at?.toISOString() ?? null,
  };
}

function timingsBody(row: SessionRow, progress: Progress | undefined): SessionBody["timings"] {
  const { times, createdAt, endedAt } = row;
  const iso = (text: string | undefined): string | null =>
    text === undefined ? null : new Date(text).toISOString();
  const downtimeMs = progress?.downtimeMs ?? 0;
  return {
    createdAt: createdAt.toISOString(),
    joinedAt: iso(times.joinedAt),
    startedAt: iso(times.startedAt),
    finalizeAt: iso(times.finalizeAt),
    suspendedAt: iso(times.suspendedAt),
    committedAt: iso(times.committedAt),
    resumedAt: iso(times.resumedAt),
    doneAt: iso(times.doneAt),
    endedAt: endedAt?.toISOString() ?? null,
    totalMs: endedAt === null ? null : endedAt.getTime() - createdAt.getTime(),
    downtimeMs: downtimeMs === 0 ? null : downtimeMs,
  };
}
