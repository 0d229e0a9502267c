/**
 * What goes wrong during one migration of the soak, drawn from its number.
 *
 * @module
 */
import type { SeededRandom } from "../support/seeded-random.ts";

export type Fault =
  | { readonly kind: "cut"; readonly who: "seeder" | "leecher"; readonly atMs: number }
  | {
      readonly kind: "blackhole";
      readonly who: "seeder" | "leecher";
      readonly atMs: number;
      readonly forMs: number;
    }
  | { readonly kind: "cancel"; readonly by: "seeder" | "leecher" | "api"; readonly atMs: number }
  | { readonly kind: "freeze"; readonly atMs: number; readonly forMs: number }
  | {
      readonly kind: "restart";
      readonly signal: "SIGTERM" | "SIGKILL";
      readonly atMs: number;
    };

/** A quiet migration takes about so long: faults are to meet every phase of it. */
const SPAN_MS = 700;
const HOLE_MS_MAX = 800;
const PEERS = ["seeder", "leecher"] as const;

/** @param mayRestart Whether the relay may be another process afterwards. */
export function drawFaults(random: SeededRandom, mayRestart: boolean): Fault[] {
  const who = PEERS[random.below(2)] ?? "seeder";
  const atMs = random.below(SPAN_MS);
  const forMs = 50 + random.below(HOLE_MS_MAX);
  const by = ([...PEERS, "api"] as const)[random.below(3)] ?? "api";
  const draw = random.below(100);
  const cut: Fault = { kind: "cut", who, atMs };
  const cancel: Fault = { kind: "cancel", by, atMs: random.below(SPAN_MS) };
  if (draw < 30) return [];
  if (draw < 50) return [cut];
  if (draw < 58) return [cut, { kind: "cut", who, atMs: atMs + 400 + random.below(SPAN_MS) }];
  if (draw < 64) {
    return [cut, { kind: "cut", who: who === "seeder" ? "leecher" : "seeder", atMs }];
  }
  if (draw < 72) return [{ kind: "blackhole", who, atMs, forMs }];
  if (draw < 84) return [cancel];
  if (draw < 92) return [cut, cancel];
  if (mayRestart) {
    return [{ kind: "restart", signal: draw % 2 === 0 ? "SIGTERM" : "SIGKILL", atMs }];
  }
  return [{ kind: "freeze", atMs, forMs }];
}
