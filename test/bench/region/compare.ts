/**
 * Us and somebody else, taking turns in one run.
 */
export interface Line {
  readonly name: string;
  readonly unit: string;
  readonly ours: number;
  readonly theirs: number;
  /** Ours against theirs; above 1 is better for us. */
  readonly ratio: number;
  readonly against: string;
  /** What is to be reached. */
  readonly atLeast: number;
}

export interface Contest {
  readonly name: string;
  readonly unit: string;
  readonly against: string;
  readonly atLeast: number;
  /** Each answers a figure of which more is better. */
  readonly ours: () => Promise<number>;
  readonly theirs: () => Promise<number>;
}

/** The median of the rounds' ratios: what disturbs the machine for longer than a round disturbs both. */
export async function compare(contest: Contest, rounds: number): Promise<Line> {
  const ours: number[] = [];
  const theirs: number[] = [];
  for (let round = 0; round < rounds; round++) {
    // In turns first, or the one that is second is favoured by warm caches.
    if (round % 2 === 0) ours.push(await contest.ours());
    theirs.push(await contest.theirs());
    if (round % 2 === 1) ours.push(await contest.ours());
  }
  const ratios = ours.map((figure, i) => figure / (theirs[i] ?? Number.NaN));
  const { name, unit, against, atLeast } = contest;
  return {
    name,
    unit,
    against,
    atLeast,
    ours: median(ours),
    theirs: median(theirs),
    ratio: median(ratios),
  };
}

export function median(figures: readonly number[]): number {
  const sorted = [...figures].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? Number.NaN;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? Number.NaN) + upper) / 2;
}
