/**
 * The thread of one migration: the only one that waits for the network.
 *
 * A thread that touches a missing chunk stops until the chunk has come. So whoever brings it must be another one.
 *
 * @module
 */
import { parentPort, workerData } from "node:worker_threads";
import { MigrationError } from "../errors.ts";
import type { MigrationTotals } from "../migration/events.ts";
import { Caller } from "./caller.ts";
import { runLeecher } from "./leecher-thread.ts";
import type { Setup, ToThread } from "./messages.ts";
import type { Running } from "./running.ts";
import { runSeeder } from "./seeder-thread.ts";
import { packError } from "./thrown.ts";

const port = parentPort;
if (port === null) throw new Error("this module is the thread of a migration");
// Whoever starts this thread is `thread.ts`, with a setup.
const setup = workerData as Setup;
const caller = new Caller(port, setup);
const running: Running = {
  stop: new AbortController(),
  committed: () => false,
  cancel: undefined,
  finalize: undefined,
  abandon: undefined,
};

port.on("message", (message: ToThread) => {
  if (caller.take(message)) return;
  switch (message.kind) {
    case "cancel":
      void cancel(message.id, message.reason);
      return;
    case "finalize":
      running.finalize?.();
      return;
    case "abandon":
      if (running.abandon === undefined) leave(message.reason);
      else running.abandon(message.reason);
      return;
    case "answer":
    case "refusal":
    case "seen":
      return;
  }
});

try {
  const totals: MigrationTotals =
    setup.role === "seeder"
      ? await runSeeder(setup, caller, running)
      : await runLeecher(setup, caller, running);
  caller.post({ kind: "over", outcome: { ok: true, totals, dropped: caller.dropped } });
} catch (error) {
  const committed = running.committed();
  caller.post({
    kind: "over",
    outcome: { ok: false, error: packError(error), committed, dropped: caller.dropped },
  });
}

/** Whoever started this thread ends it then. The relay and the other peer see that it is gone. */
function leave(reason: string): void {
  const error = packError(new MigrationError("CANCELLED", reason));
  const [committed, dropped] = [running.committed(), caller.dropped];
  caller.post({ kind: "over", outcome: { ok: false, error, committed, dropped } });
}

async function cancel(id: number, reason: string): Promise<void> {
  try {
    if (running.cancel === undefined) {
      running.stop.abort(reason);
      caller.post({ kind: "cancelled", id, agreed: true });
    } else caller.post({ kind: "cancelled", id, agreed: await running.cancel(reason) });
  } catch (error) {
    caller.post({ kind: "cancelled", id, agreed: packError(error) });
  }
}
