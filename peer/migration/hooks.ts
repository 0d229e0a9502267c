/**
 * What the operator lets run at the turns of a migration.
 *
 * @module
 */
import { messageOf } from "../../relay/protocol/errors.ts";
import type { OnMigrationEvent } from "./events.ts";
import { withDeadline } from "./latch.ts";
import { HOOK_DEADLINE_MS } from "./limits.ts";

export type Hook = (signal: AbortSignal) => Promise<void>;

/** For hooks whose failure changes no owner: it is told, with what is left to do by hand. @returns Whether it did well. */
export async function runHook(
  name: string,
  hook: Hook | undefined,
  onEvent: OnMigrationEvent | undefined,
  cure = "",
): Promise<boolean> {
  try {
    await withDeadline(HOOK_DEADLINE_MS, hook);
    return true;
  } catch (error) {
    const message = `${name}: ${messageOf(error)}${cure}`;
    onEvent?.({ event: "warning", code: "HOOK_FAILED", message });
    return false;
  }
}

/** Starts the workload again where it was. */
export async function rollBackHook({
  hooks,
  onEvent,
}: {
  readonly hooks?: { readonly onRollback?: Hook };
  readonly onEvent?: OnMigrationEvent;
}): Promise<void> {
  await runHook("--on-rollback", hooks?.onRollback, onEvent, ": start the workload by hand");
}
