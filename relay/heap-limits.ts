/**
 * Tells V8 how much garbage a process that moves data may gather. Imported first, for its effect.
 *
 * By default each 64 MiB of new buffers begin a collection of the whole heap, and once they count within the limit for the
 * heap as a whole, that limit follows the heap: some 12 MiB here, so that a collection is due thirty times per GiB
 * moved. That was a third of a peer's processor time, for buffers that a scavenge frees as well. With room for 256 MiB of
 * garbage nearly all die young, and the peer's memory is no larger than before (230 to 290 MiB either way).
 *
 * @module
 */
import { totalmem } from "node:os";
import { getHeapStatistics, setFlagsFromString } from "node:v8";

const MIB = 1024 * 1024;
const GARBAGE_BYTES_MAX = 256 * MIB;
/** Of the memory that this process may use. */
const GARBAGE_SHARE = 1 / 16;
const LOOK_MS = 1_000;
/** What is alive is what was least in so many looks: the rest of each was garbage. */
const LOOKS = 8;
/** By how much V8 lets a heap grow at most if it is not told, in percent. */
const OWN_GROWTH_PERCENT = 300;
const GROWTH_PERCENT_MAX = 3_000;

/**
 * @param aliveBytes What a collection would leave.
 * @returns By how many percent of that the heap may grow until the next one; 0: as much as V8 thinks.
 */
export function growthPercent(aliveBytes: number, garbageBytes: number): number {
  const percent = Math.floor((100 * garbageBytes) / Math.max(1, aliveBytes));
  if (percent <= OWN_GROWTH_PERCENT) return 0;
  return Math.min(percent, GROWTH_PERCENT_MAX);
}

function garbageAllowed(): number {
  // What a container may use; absurdly large where there is no bound.
  const constrained = process.constrainedMemory();
  const memory = constrained > 0 ? Math.min(constrained, totalmem()) : totalmem();
  return Math.min(GARBAGE_BYTES_MAX, memory * GARBAGE_SHARE);
}

function keepGrowthInStep(): void {
  const garbageBytes = garbageAllowed();
  const looks: number[] = [];
  let told = -1;
  const look = (): void => {
    const { used_heap_size: heap, external_memory: buffers } = getHeapStatistics();
    looks.push(heap + buffers);
    if (looks.length > LOOKS) looks.shift();
    const percent = growthPercent(Math.min(...looks), garbageBytes);
    // V8 reads it when a collection ends.
    if (percent !== told) setFlagsFromString(`--heap-growing-percent=${percent}`);
    told = percent;
  };
  look();
  setInterval(look, LOOK_MS).unref();
}

// Deno has the functions and no use for them; a V8 that does not know a flag ignores it with a line on standard error.
if (!("Deno" in globalThis)) {
  setFlagsFromString("--external-memory-accounted-in-global-limit");
  keepGrowthInStep();
}
