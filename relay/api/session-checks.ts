/**
 * Whether a migration can be expected to go well, by what the relay knows before and while it runs.
 *
 * @module
 */
import { INDEX_CHUNKS_MAX } from "../db/limits.ts";
import type { SessionCheck } from "../db/schema.ts";
import type { SessionRow } from "../db/sessions.ts";
import { isEnded, ROLES } from "../protocol/ids.ts";
import type { LiveSession } from "../switchboard/switchboard.ts";
import { mayPostcopy } from "./session-state.ts";

type Check = (row: SessionRow, live: LiveSession | undefined) => Omit<SessionCheck, "name">;

const ok = (message: string): Omit<SessionCheck, "name"> => ({ severity: "ok", message, fix: "" });

const CHECKS: Readonly<Record<string, Check>> = {
  open: (row) =>
    isEnded(row.state)
      ? { severity: "error", message: `the session is over: ${row.state}`, fix: "make another" }
      : ok("the session is open"),
  peers: (_row, live) => {
    const away = ROLES.filter((role) => live?.[role] === undefined);
    return away.length === 0
      ? ok("both peers are connected")
      : {
          severity: "error",
          message: `not connected: ${away.join(", ")}`,
          fix: "start them with their tickets; see whether they reach the relay with `memferry doctor`",
        };
  },
  versions: ({ seeder, leecher }) => {
    const [source, destination] = [seeder?.version ?? "", leecher?.version ?? ""];
    if (source === "" || destination === "") {
      return { severity: "info", message: "not both peers have said their version", fix: "" };
    }
    return source === destination
      ? ok(`both peers run ${source}`)
      : {
          severity: "warning",
          message: `the source runs ${source} and the destination ${destination}`,
          fix: "update the older one",
        };
  },
  commands: (_row, live) => {
    const old = ROLES.filter((role) => live?.[role]?.takesCommands === false);
    return old.length === 0
      ? ok("the peers that are connected understand every action")
      : {
          severity: "warning",
          message: `cannot be paused or sent to post-copy: ${old.join(", ")}`,
          fix: "update memferry there",
        };
  },
  region: ({ regionBytes, chunkCount }) => {
    if (regionBytes === null || chunkCount === null) {
      return { severity: "info", message: "the source has not described its region yet", fix: "" };
    }
    return chunkCount <= INDEX_CHUNKS_MAX
      ? ok(`${regionBytes} bytes in ${chunkCount} chunks`)
      : {
          severity: "warning",
          message: "the region has too many chunks for the relay's index: no map, no manifest",
          fix: "use larger chunks",
        };
  },
  path: (_row, live) => {
    const path = live?.more?.path;
    if (path === undefined) return { severity: "info", message: "no path is known yet", fix: "" };
    return path === "direct"
      ? ok("the peers reach each other directly")
      : {
          severity: "info",
          message: `everything goes through the relay, over ${path}`,
          fix: "`memferry doctor` says what keeps the two from a direct path",
        };
  },
  convergence: (row, live) => {
    const { sendBytesPerS = 0, dirtyBytesPerS = 0 } = live?.progress ?? {};
    if (row.owner === "leecher") return ok("the workload has moved");
    if (sendBytesPerS === 0)
      return { severity: "info", message: "nothing is measured yet", fix: "" };
    if (dirtyBytesPerS < sendBytesPerS) {
      return ok(`${dirtyBytesPerS} bytes/s are written and ${sendBytesPerS} sent`);
    }
    const fix = mayPostcopy(row)
      ? "use :postcopy, raise limits.bytesPerS, or let the workload rest"
      : "raise limits.bytesPerS, allow post-copy, or let the workload rest";
    return {
      severity: "warning",
      message: `not converging: ${dirtyBytesPerS} bytes/s are written and ${sendBytesPerS} sent`,
      fix,
    };
  },
  downtime: ({ limits }, live) => {
    const expected = live?.progress?.expectedDowntimeMs ?? 0;
    const target = limits.downtimeTargetMs;
    if (expected === 0 || target === undefined) {
      return { severity: "info", message: "no downtime to compare with a target", fix: "" };
    }
    return expected <= target
      ? ok(`${expected} ms are expected and ${target} ms wanted`)
      : {
          severity: "warning",
          message: `${expected} ms are expected and ${target} ms wanted`,
          fix: "wait for another round before :finalize",
        };
  },
};

export function checksOf(row: SessionRow, live: LiveSession | undefined): SessionCheck[] {
  return Object.entries(CHECKS).map(([name, check]) => ({ name, ...check(row, live) }));
}
