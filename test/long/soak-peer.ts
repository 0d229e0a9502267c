/**
 * A peer that lives long: one process that carries out one migration after another through the library, in one role.
 *
 * Started with IPC by `soak.test.ts`: `node soak-peer.ts seeder|leecher`. Everything of a migration is opened for it and
 * closed after it, so that what stays open or grows is a leak.
 *
 * @module
 */
import { readdirSync, readlinkSync } from "node:fs";
import { runInNewContext } from "node:vm";
import { setFlagsFromString } from "node:v8";

import { sleep } from "../../peer/sleep.ts";
import type { Attempt, Outcome, Task } from "./soak-attempt.ts";
import { LeecherAttempt } from "./soak-leecher.ts";
import { SeederAttempt } from "./soak-seeder.ts";

export type Order =
  | { readonly order: "migrate"; readonly task: Task }
  | { readonly order: "cancel" }
  | { readonly order: "measure" }
  | { readonly order: "quit" };

export type Report =
  | { readonly report: "ready" }
  | { readonly report: "phase"; readonly phase: string }
  | { readonly report: "outcome"; readonly outcome: Outcome }
  | { readonly report: "measured"; readonly measured: Measured };

export interface Measured {
  readonly residentBytes: number;
  readonly heapBytes: number;
  readonly descriptors: readonly string[];
  readonly networkNamespace: string;
}

setFlagsFromString("--expose-gc");
const collect = runInNewContext("gc") as () => void;
const SETTLE_MS = 50;

let current: Attempt | undefined;

process.on("message", (order: Order) => {
  handle(order).catch((error: unknown) => {
    console.error(error);
    process.exit(1);
  });
});
tell({ report: "ready" });

async function handle(order: Order): Promise<void> {
  switch (order.order) {
    case "migrate": {
      current =
        process.argv[2] === "seeder"
          ? new SeederAttempt(order.task, (phase) => tell({ report: "phase", phase }))
          : new LeecherAttempt(order.task, (phase) => tell({ report: "phase", phase }));
      const outcome = await current.run();
      current = undefined;
      tell({ report: "outcome", outcome });
      return;
    }
    case "cancel":
      await current?.cancel();
      return;
    case "measure":
      // What only waits to be closed, or to be collected, is no leak.
      collect();
      await sleep(SETTLE_MS);
      collect();
      tell({ report: "measured", measured: measure() });
      return;
    case "quit":
      process.disconnect();
      return;
  }
}

function measure(): Measured {
  const { rss, heapUsed, external } = process.memoryUsage();
  return {
    residentBytes: rss,
    heapBytes: heapUsed + external,
    descriptors: readdirSync("/proc/self/fd").map(targetOf).toSorted(),
    networkNamespace: readlinkSync("/proc/self/ns/net"),
  };
}

/** What a descriptor stands for; empty for the one that listed them. */
function targetOf(fd: string): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`).replace(/\d{3,}/g, "N");
  } catch {
    return "";
  }
}

function tell(report: Report): void {
  process.send?.(report);
}
