/**
 * A figure, what it is to reach, and what the same machine did at most in the same run.
 */
export interface Figure {
  readonly name: string;
  readonly unit: string;
  /** The median of the rounds. */
  readonly value: number;
  readonly goal?: { readonly atLeast: number } | { readonly atMost: number };
  /** Of the same bytes without us. */
  readonly limit?: { readonly what: string; readonly value: number };
  /** Seconds of processor time of the median round, of this process and of the server's. */
  readonly cpuS?: { readonly ours: number; readonly server: number };
}

export function isMet({ value, goal }: Figure): boolean {
  if (goal === undefined) return true;
  return "atLeast" in goal ? value >= goal.atLeast : value <= goal.atMost;
}

/** One line for a person. */
export function show(figure: Figure): string {
  const { name, unit, value, goal, limit, cpuS } = figure;
  const parts = [`${name.padEnd(44)}${number(value).padStart(12)} ${unit}`];
  if (limit !== undefined) parts.push(`${limit.what} ${number(limit.value)}`);
  if (cpuS !== undefined) parts.push(`cpu ${cpuS.ours.toFixed(2)} + ${cpuS.server.toFixed(2)} s`);
  if (!isMet(figure) && goal !== undefined) {
    parts.push(
      "atLeast" in goal ? `below ${number(goal.atLeast)}` : `above ${number(goal.atMost)}`,
    );
  }
  return parts.join("; ");
}

function number(value: number): string {
  return value >= 1000 ? Math.round(value).toLocaleString("en") : value.toFixed(2);
}
