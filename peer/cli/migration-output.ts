/**
 * Shows a migration's events.
 *
 * @module
 */
import type { MigrationEvent, MigrationProgress } from "../migration/events.ts";
import type { Output } from "./output.ts";
import { formatBytes, formatDuration } from "./size.ts";

const DRAW_INTERVAL_MS = 200;
const JSON_INTERVAL_MS = 1_000;

/** Prints one event. */
export function showEvent(output: Output, event: MigrationEvent): void {
  output.event({ ...event });
  switch (event.event) {
    case "channel":
      output.note(
        `connected over ${event.path}, fingerprint ${event.fingerprint}: ${event.regions.map(({ name }) => name).join(", ")}, ` +
          `${formatBytes(event.bytes)} in chunks of ${formatBytes(event.chunkBytes)}`,
      );
      return;
    case "round":
      output.note(
        `round ${event.round} done, ${formatBytes(event.dirtyBytes)} written meanwhile` +
          (event.dirtyBytesPerS > 0 ? ` (${formatBytes(event.dirtyBytesPerS)}/s)` : ""),
      );
      return;
    case "suspended":
      output.note(`workload suspended, ${formatBytes(event.dirtyBytes)} left to hand over`);
      return;
    case "committed":
      output.note("committed: the destination owns the region now");
      return;
    case "resumed":
      output.note(`resumed after ${formatDuration(event.downtimeMs)} of downtime`);
      return;
    case "warning":
      output.note(`warning: ${event.message}`);
      return;
    case "phase":
      if (event.phase === "paused") output.note(`paused: ${event.detail ?? "the path is lost"}`);
      return;
    case "done":
      output.note(
        `done in ${formatDuration(event.totalMs)}: ${formatBytes(event.bytesTotal)}, ` +
          `${formatBytes(event.bytesWire)} on the wire, ${event.rounds} rounds, ` +
          `downtime ${formatDuration(event.downtimeMs)}, root ${event.rootHash.slice(0, 16)}`,
      );
      return;
  }
}

/** Shows progress until it is stopped. */
export function showProgress(output: Output, progress: () => MigrationProgress): () => void {
  const timer = setInterval(
    () => output.progress(progress()),
    output.json ? JSON_INTERVAL_MS : DRAW_INTERVAL_MS,
  );
  return () => clearInterval(timer);
}
