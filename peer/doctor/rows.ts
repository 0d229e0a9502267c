/**
 * The doctor's table: a function of what the probes found.
 *
 * @module
 */
import type { DoctorSnapshot } from "./snapshot.ts";
import { hostRows } from "./rows-host.ts";
import { networkRows } from "./rows-network.ts";

/**
 * `fail`: no migration works until it is cured. `warn`: one works, but slower or with less. `unknown`: it could not be
 * looked at because of another row.
 */
export type RowStatus = "ok" | "warn" | "fail" | "unknown";

export interface Row {
  /** For programs; never changes. */
  readonly id: string;
  /** For people. */
  readonly what: string;
  readonly status: RowStatus;
  /** One line. */
  readonly found: string;
  /** What to do, with the command; undefined if nothing is to be done. */
  readonly cure: string | undefined;
}

export function rows({ host, network }: DoctorSnapshot): Row[] {
  const reach: Row[] =
    network === undefined
      ? [
          {
            id: "relay",
            what: "relay",
            status: "unknown",
            found: "none is named and none is configured",
            cure: "memferry doctor --relay https://HOST:PORT",
          },
        ]
      : networkRows(network, host);
  return [...reach, ...hostRows(host)];
}

/** One line each for a person, and a second one for what is to be done. */
export function table(all: readonly Row[]): string[] {
  const width = Math.max(0, ...all.map(({ what }) => what.length));
  return all.flatMap(({ status, what, found, cure }) => {
    const mark = status === "unknown" ? "-" : status;
    const first = `  ${mark.padEnd(4)}  ${what.padEnd(width)}  ${found}`;
    return cure === undefined ? [first] : [first, `${" ".repeat(width + 10)}to do: ${cure}`];
  });
}
