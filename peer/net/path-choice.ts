/**
 * Which path a migration's data takes, and why: a function of what was measured, and of nothing else.
 *
 * docs/transports.md has the same as a table; one row here is one row there.
 *
 * @module
 */

import type { PathPolicy } from "./paths/path-policy.ts";

export type PathName = "direct" | "relayed";

export interface PathMeasurements {
  readonly state: "untried" | "connecting" | "connected" | "failed";
  /** Smoothed; 0 until it is measured. */
  readonly rttMs: number;
  /** What this path carried when it was last asked for as much as it can; undefined if it never was. */
  readonly bytesPerS: number | undefined;
  /** How many bytes that figure rests on. */
  readonly sampleBytes: number;
  /** Of its packets, 0 to 1; undefined if nobody counts them. */
  readonly lossRatio: number | undefined;
  /** Since anything was heard of the other side on it, keep-alives included. */
  readonly silentForMs: number;
  /** Attempts in a row that failed. */
  readonly failures: number;
}

export interface PathSnapshot {
  readonly policy: PathPolicy;
  /** Undefined before the first choice. */
  readonly current: PathName | undefined;
  /** Since `current` was taken; Infinity before the first choice. */
  readonly sinceSwitchMs: number;
  readonly direct: PathMeasurements;
  readonly relayed: PathMeasurements;
}

export interface PathDecision {
  readonly path: PathName;
  /** One line for a person. */
  readonly reason: string;
}

/** A path on which nothing is heard for this long is dead: three keep-alives of a second each. */
export const DEAD_AFTER_MS = 3_000;
/** A path that was just taken is kept so long, unless it is dead. */
export const SETTLE_MS = 10_000;
/** Below this part of what the relay carries, direct is not worth it. */
const DIRECT_SHARE_MIN = 0.5;
/** Once relayed for that, direct must carry this part to be taken again. */
const DIRECT_SHARE_RETURN = 0.8;
/** A figure that rests on fewer bytes measures slow start. */
const SAMPLE_BYTES_MIN = 8 * 1024 * 1024;
/** Waits before another attempt at the direct path, by how many have failed in a row. */
const RETRY_MS = [15_000, 60_000, 300_000] as const;

/** Never throws; the same snapshot gives the same decision. */
export function choosePath(snapshot: PathSnapshot): PathDecision {
  const { policy, current } = snapshot;
  if (policy === "relay") return { path: "relayed", reason: "relayed: asked for by --path relay" };
  if (policy === "direct") return { path: "direct", reason: directOnly(snapshot.direct) };

  const lives = { direct: isAlive(snapshot.direct), relayed: isAlive(snapshot.relayed) };
  if (!lives.direct) return { path: "relayed", reason: `relayed: ${whyNotDirect(snapshot)}` };
  if (!lives.relayed) {
    return { path: "direct", reason: `direct: the relayed path ${ailment(snapshot.relayed)}` };
  }
  const wanted = betterOf(snapshot);
  if (current === undefined || wanted.path === current) return wanted;
  if (snapshot.sinceSwitchMs < SETTLE_MS) {
    const since = seconds(snapshot.sinceSwitchMs);
    return {
      path: current,
      reason: `${current}: taken ${since} ago, and kept for ${seconds(SETTLE_MS)}`,
    };
  }
  return wanted;
}

/**
 * When to try the direct path again after attempts that failed.
 *
 * @param failures In a row; a change of this host's network starts them at 0.
 * @returns Milliseconds; 0 if none has failed.
 */
export function retryInMs(failures: number): number {
  if (failures <= 0) return 0;
  return RETRY_MS[Math.min(failures, RETRY_MS.length) - 1] ?? RETRY_MS[0];
}

function isAlive({ state, silentForMs }: PathMeasurements): boolean {
  return state === "connected" && silentForMs <= DEAD_AFTER_MS;
}

/** Of two that live. */
function betterOf({ current, direct, relayed }: PathSnapshot): PathDecision {
  const rate = { direct: measured(direct), relayed: measured(relayed) };
  if (rate.direct === undefined || rate.relayed === undefined) {
    return { path: "direct", reason: `direct: it is up${rttOf(direct)}` };
  }
  const share = rate.direct / rate.relayed;
  const least = current === "relayed" ? DIRECT_SHARE_RETURN : DIRECT_SHARE_MIN;
  const figures = `direct carries ${mbPerS(rate.direct)}, the relay ${mbPerS(rate.relayed)}${lossOf(direct)}`;
  return share < least
    ? { path: "relayed", reason: `relayed: ${figures}` }
    : { path: "direct", reason: `direct: ${figures}` };
}

/** Bytes per second, if the figure rests on enough and on more than nothing. */
function measured({ bytesPerS, sampleBytes }: PathMeasurements): number | undefined {
  return bytesPerS !== undefined && bytesPerS > 0 && sampleBytes >= SAMPLE_BYTES_MIN
    ? bytesPerS
    : undefined;
}

function directOnly(direct: PathMeasurements): string {
  return isAlive(direct)
    ? "direct: asked for by --path direct"
    : `direct: asked for by --path direct, though it ${ailment(direct)}`;
}

function whyNotDirect({ direct, relayed }: PathSnapshot): string {
  const why = `the direct path ${ailment(direct)}`;
  return isAlive(relayed)
    ? why
    : `${why}, and neither does the relayed one work, which ${ailment(relayed)}`;
}

function ailment({ state, silentForMs, failures }: PathMeasurements): string {
  switch (state) {
    case "untried":
      return "was not tried yet";
    case "connecting":
      return "is being opened";
    case "failed":
      return failures > 1 ? `failed ${failures} times` : "failed";
    case "connected":
      return `has been silent for ${seconds(silentForMs)}`;
  }
}

function rttOf({ rttMs }: PathMeasurements): string {
  return rttMs > 0 ? `, round trip ${rttMs.toFixed(rttMs < 10 ? 1 : 0)} ms` : "";
}

function lossOf({ lossRatio }: PathMeasurements): string {
  return lossRatio === undefined || lossRatio < 0.001
    ? ""
    : `, direct loses ${(lossRatio * 100).toFixed(1)} %`;
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`;
}

function mbPerS(bytesPerS: number): string {
  return `${(bytesPerS / 1e6).toFixed(1)} MB/s`;
}
