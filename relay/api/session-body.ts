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
import type { SessionAction, SessionBody } from "./schemas.ts";

const PATH_KINDS: Readonly<Record<LinkKind, NonNullable<SessionBody["path"]>["kind"]>> = {
  webtransport: "relayWebTransport",
  websocket: "relayWs",
  direct: "direct",
  memory: "memory",
};

/** States in which both peers are at work and the workload still runs at the source. */
const FINALIZABLE: ReadonlySet<SessionState> = new Set(["joined", "tracking", "precopy"]);

/**
 * States in which both peers are at work, and which therefore rest while one of them is away. Not `joined` and
 * `committed`: these say what was decided, whoever is there.
 */
export const AT_WORK: ReadonlySet<SessionState> = new Set([
  "tracking",
  "precopy",
  "finalizing",
  "suspended",
  "postcopy",
]);

/**
 * The record says how far a session came; whether it goes on at the moment, only who is connected says. A relay that
 * was killed writes nothing down, and after it nobody is connected.
 */
export function stateOf(state: SessionState, live: LiveSession | undefined): SessionState {
  if (!AT_WORK.has(state)) return state;
  return live?.seeder === undefined || live.leecher === undefined ? "paused" : state;
}

function reasonOf(row: SessionRow, live: LiveSession | undefined): SessionBody["reason"] {
  if (stateOf(row.state, live) === row.state) {
    return row.reasonCode === "" ? null : { code: row.reasonCode, message: row.reasonMessage };
  }
  const away = (["seeder", "leecher"] as const).filter((role) => live?.[role] === undefined);
  const message =
    away.length === 2 ? "neither peer is connected" : `the ${away[0]} is not connected`;
  return { code: "PAUSED_BY_RELAY", message };
}

export function allowedActions(state: SessionState, owner: Role): SessionAction[] {
  if (isEnded(state) || owner !== "seeder") return [];
  return FINALIZABLE.has(state) ? ["finalize", "cancel"] : ["cancel"];
}

export function sessionBody(row: SessionRow, live: LiveSession | undefined): SessionBody {
  const ended = isEnded(row.state);
  const state = stateOf(row.state, live);
  const progress = live?.progress ?? row.progress ?? undefined;
  const progressAt = live?.progress === undefined ? row.progressAt : new Date();
  const { seeder, leecher } = live ?? {};
  return {
    id: row.id,
    name: row.name,
    labels: row.labels,
    state,
    reason: reasonOf(row, live),
    mode: row.mode,
    region: regionBody(row),
    seeder: peerBody(row, "seeder", live),
    leecher: peerBody(row, "leecher", live),
    path:
      seeder === undefined || leecher === undefined || ended
        ? null
        : {
            // The slower kind of link is the one that can be felt.
            kind: PATH_KINDS[seeder.link === "websocket" ? seeder.link : leecher.link],
            rttMs: progress === undefined || progress.rttMs === 0 ? null : progress.rttMs,
          },
    relayedBytes: { fromSeeder: row.bytesFromSeeder, fromLeecher: row.bytesFromLeecher },
    limits: row.limits,
    progress:
      progress === undefined ? null : progressBody(state, row.owner, { progress, at: progressAt }),
    timings: timingsBody(row, progress),
    authority: { holder: row.owner, epoch: row.ownerEpoch },
    allowedActions: allowedActions(state, row.owner),
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
    connected: peer !== undefined,
    joinedAt: (role === "seeder" ? row.seederJoinedAt : row.leecherJoinedAt)?.toISOString() ?? null,
    connectedSince: peer === undefined ? null : new Date(peer.joinedAtMs).toISOString(),
    host: said?.host ?? null,
    version: said?.version ?? null,
    observedAddr: peer?.remoteAddress ?? null,
    link: peer?.link ?? null,
  };
}

function progressBody(
  state: SessionState,
  owner: Role,
  { progress, at }: { readonly progress: Progress; readonly at: Date | null },
): SessionBody["progress"] {
  const { sendBytesPerS, dirtyBytesPerS, bytesRemaining, chunksTotal, chunksReady } = progress;
  const active = !isEnded(state) && state !== "paused";
  const ratio = active && sendBytesPerS > 0 ? dirtyBytesPerS / sendBytesPerS : null;
  const gain = state === "postcopy" ? sendBytesPerS : sendBytesPerS - dirtyBytesPerS;
  return {
    round: progress.round,
    percent:
      chunksTotal === 0 ? 0 : Math.round(Math.min(1, chunksReady / chunksTotal) * 10_000) / 100,
    chunksTotal,
    chunksSent: progress.chunksSent,
    chunksReady,
    chunksDirty: progress.chunksDirty,
    chunksZero: progress.chunksZero,
    bytesTotal: progress.bytesTotal,
    bytesSent: progress.bytesSent,
    bytesWire: progress.bytesWire,
    bytesRemaining,
    dirtyBytesPerS,
    sendBytesPerS,
    convergence: {
      verdict: ratio === null || state === "postcopy" ? "unknown" : ratio < 1 ? "yes" : "no",
      ratio: ratio === null ? null : Math.round(ratio * 1000) / 1000,
    },
    etaMs: active && gain > 0 ? Math.round((bytesRemaining / gain) * 1000) : null,
    // Past the hand-over there is nothing left to expect.
    expectedDowntimeMs:
      progress.expectedDowntimeMs === 0 || owner === "leecher" || isEnded(state)
        ? null
        : progress.expectedDowntimeMs,
    faults: progress.faults,
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
