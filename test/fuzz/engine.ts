/**
 * Runs cases. A case is its seed and number: nothing else decides what happens in it.
 *
 * @module
 */
import type { Meter } from "./meter.ts";
import { CaseRandom } from "./random.ts";
import type { Target } from "./targets.ts";

/** Fields and bytes that any case may cost, besides some for each byte of its input. */
const STEPS_MAX = 200;
const ALLOCATED_BYTES_MAX = 256 * 1024;
const ALLOCATED_PER_BYTE_MAX = 16;

export interface Failure {
  readonly seed: number;
  readonly caseNumber: number;
  readonly target: string;
  readonly hex: string;
  readonly error: string;
}

/** By target and verdict. */
export type Tally = Record<string, Record<string, number>>;

export class Engine {
  readonly #targets: readonly Target[];
  readonly #weights: number;
  readonly #seed: number;
  readonly #random = new CaseRandom();
  readonly #meter: Meter | undefined;
  readonly tally: Tally = {};

  constructor(targets: readonly Target[], seed: number, meter?: Meter) {
    this.#targets = targets;
    this.#weights = targets.reduce((sum, { weight }) => sum + weight, 0);
    this.#seed = seed;
    this.#meter = meter;
  }

  /** @returns What is wrong; `undefined` if nothing is. */
  async run(caseNumber: number): Promise<Failure | undefined> {
    const random = this.#random;
    random.reset(this.#seed, caseNumber);
    const target = this.#draw();
    const input = target.make(random);
    const meter = this.#meter;
    meter?.reset();
    try {
      const result = target.check(input, random);
      // Most are not asynchronous, and waiting would cost more than the case.
      const verdict = typeof result === "string" ? result : await result;
      if (meter !== undefined) requireCheap(meter, input.length);
      const verdicts = (this.tally[target.name] ??= {});
      verdicts[verdict] = (verdicts[verdict] ?? 0) + 1;
      return undefined;
    } catch (error) {
      return {
        seed: this.#seed,
        caseNumber,
        target: target.name,
        hex: Buffer.from(input).toString("hex"),
        error: error instanceof Error ? (error.stack ?? error.message) : String(error),
      };
    }
  }

  #draw(): Target {
    let at = this.#random.below(this.#weights);
    for (const target of this.#targets) {
      at -= target.weight;
      if (at < 0) return target;
    }
    throw new Error("there is no target");
  }
}

function requireCheap({ steps, allocatedBytes }: Meter, inputBytes: number): void {
  // Decoding twice and encoding in between reads each byte a few times.
  if (steps > STEPS_MAX + 4 * inputBytes) {
    throw new Error(`${steps} fields were read of ${inputBytes} bytes`);
  }
  if (allocatedBytes > ALLOCATED_BYTES_MAX + ALLOCATED_PER_BYTE_MAX * inputBytes) {
    throw new Error(`${allocatedBytes} bytes were allocated for ${inputBytes}`);
  }
}

export function merge(into: Tally, from: Tally): void {
  for (const [target, verdicts] of Object.entries(from)) {
    const sums = (into[target] ??= {});
    for (const [verdict, count] of Object.entries(verdicts)) {
      sums[verdict] = (sums[verdict] ?? 0) + count;
    }
  }
}
