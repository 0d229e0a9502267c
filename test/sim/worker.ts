/**
 * A process that runs seeds: virtual time and the sources' variant are for the whole of it.
 *
 * @module
 */
import { MUTANTS } from "./mutants.ts";
import { loadVariant } from "./variants.ts";

/** What a worker is told, once. */
export interface Task {
  readonly firstSeed: number;
  /** Every `step`th seed from the first one on. */
  readonly step: number;
  readonly seedCount: number;
  readonly mutant?: string;
  /** Stops at the first failure. */
  readonly untilFailure: boolean;
  readonly verbose: boolean;
}

export interface SeedReport {
  readonly seed: number;
  readonly hash: string;
  readonly events: number;
  readonly virtualMs: number;
  readonly end: "destination" | "source";
  readonly operations: number;
  readonly helped: boolean;
  readonly failure?: { readonly invariant: string; readonly what: string };
  /** Of a seed that failed, or is replayed. */
  readonly trace?: readonly string[];
}

/** What a worker says: seeds in batches, then that it is done, or why it cannot go on. */
export type WorkerMessage =
  | { readonly kind: "seeds"; readonly reports: readonly SeedReport[] }
  | { readonly kind: "over" }
  | { readonly kind: "broken"; readonly error: string };

/** A seed that takes longer is told before the next. */
const BATCH_SEEDS = 16;

process.once("message", (task: Task) => {
  work(task).then(
    () => tell({ kind: "over" }),
    (error: unknown) =>
      tell({ kind: "broken", error: error instanceof Error ? (error.stack ?? "") : String(error) }),
  );
});

async function work(task: Task): Promise<void> {
  const mutant = MUTANTS.find(({ name }) => name === task.mutant);
  if (task.mutant !== undefined && mutant === undefined) throw new Error(`mutant ${task.mutant}`);
  const variant = loadVariant(mutant?.replacements ?? []);
  const { installVirtualTime } = await import("./clock.ts");
  const { runSeed } = await import("./world.ts");
  const missed = variant.missed();
  if (missed.length > 0) throw new Error(`these files are not a part of it: ${missed.join(", ")}`);
  installVirtualTime();
  let reports: SeedReport[] = [];
  for (let i = 0; i < task.seedCount; i++) {
    const { failure, trace, ...rest } = await runSeed(task.firstSeed + i * task.step, task.verbose);
    reports.push({
      ...rest,
      ...(failure === undefined ? {} : { failure }),
      ...(failure === undefined && !task.verbose ? {} : { trace }),
    });
    const stop = failure !== undefined && task.untilFailure;
    if (reports.length >= BATCH_SEEDS || stop) {
      tell({ kind: "seeds", reports });
      reports = [];
    }
    if (stop) return;
  }
  tell({ kind: "seeds", reports });
}

function tell(message: WorkerMessage): void {
  process.send?.(message);
}
