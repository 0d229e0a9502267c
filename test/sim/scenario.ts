/**
 * What one seed stands for: a region, a workload, two peers, a network, and what is going to fail.
 *
 * @module
 */
import type { FinalizePolicy } from "../../peer/migration/leecher-options.ts";
import type { Mode } from "../../peer/migration/messages.ts";
import { sliceRegions, type RegionSlice } from "../../peer/region/region.ts";
import type { PathQuality } from "./network.ts";
import type { DirectWeather } from "./direct.ts";
import {
  drawBrokenStreams,
  drawDirectFaults,
  drawSteering,
  drawDoubt,
  drawFault,
  drawLostFarewell,
  drawRelapse,
  type Fault,
} from "./faults.ts";
import { Random } from "./random.ts";
import { CELL_BYTES } from "./shadow.ts";

export const CHUNK_BYTES = 256;

export interface Scenario {
  readonly seed: number;
  readonly slices: readonly RegionSlice[];
  readonly mode: Mode;
  readonly finalize: FinalizePolicy;
  /** When an operator asks for the hand-over, if nobody else does. */
  readonly finalizeAtMs: number;
  readonly downtimeBudgetMs: number;
  readonly dataStreams: number;
  readonly exported: boolean;
  readonly quality: PathQuality;
  readonly direct: DirectWeather;
  /** Of the peers' signals, after how many an old one comes again. */
  readonly signalsRepeated: number;
  readonly diskMeanMs: number;
  readonly databaseMeanMs: number;
  readonly workloadPauseMs: number;
  readonly writeRatio: number;
  readonly mappedRatio: number;
  /** Of the cells, how many hold something at the start. */
  readonly filledRatio: number;
  readonly hookMeanMs: number;
  readonly hookFails: number;
  readonly ghostRatio: number;
  /** Of the chunks that are read at the source, how many are damaged on their way to the wire, once each. */
  readonly damageRatio: number;
  readonly faults: readonly Fault[];
  readonly healAtMs: number;
}

export function drawScenario(seed: number, random: Random): Scenario {
  const mode = random.pick<Mode>(["hybrid", "hybrid", "precopy", "postcopy"]);
  const finalize = random.pick<FinalizePolicy>([
    { kind: "auto" },
    { kind: "auto" },
    { kind: "manual" },
    { kind: "ready", ratio: random.between(0.2, 1) },
  ]);
  const ways = new Random(seed + 0xd14ec7);
  const faultCount = random.pick([0, 1, 1, 2, 2, 3, 4, 6, 9]);
  return {
    seed,
    slices: drawRegions(random),
    mode,
    finalize,
    finalizeAtMs: random.between(50, 6_000),
    downtimeBudgetMs: random.pick([20, 300, 2_000]),
    dataStreams: 1 + random.below(4),
    exported: mode !== "precopy" || random.chance(0.7),
    quality: {
      latencyMs: random.pick([0.5, 5, 40, 120]),
      jitterMs: random.pick([0.2, 5, 60]),
      lossRatio: random.pick([0, 0.001, 0.03]),
      bytesPerMs: random.pick([5, 20, 100, 1_000]),
    },
    direct: { works: ways.pick([0, 0.5, 1, 1]), halfChosen: ways.pick([0, 0, 0.4]) },
    signalsRepeated: new Random(seed + 0x51_61_a1).pick([0, 0, 0.8]),
    diskMeanMs: random.pick([0.1, 1, 10, 40]),
    databaseMeanMs: random.pick([1, 10, 80]),
    workloadPauseMs: random.pick([2, 10, 40, 150]),
    writeRatio: random.pick([0, 0.3, 0.7, 0.9]),
    mappedRatio: random.pick([0, 0, 0.5, 1]),
    filledRatio: random.pick([0.1, 0.6, 1]),
    hookMeanMs: random.pick([1, 30, 400]),
    hookFails: random.chance(0.1) ? 0.5 : 0,
    ghostRatio: random.pick([0, 0.5, 1]),
    damageRatio: random.chance(0.4) ? random.pick([0.05, 0.3]) : 0,
    faults: [
      ...Array.from({ length: faultCount }, () => drawFault(random)),
      ...(random.chance(0.3) ? drawDoubt(random) : []),
      ...(random.chance(0.3) ? drawRelapse(random) : []),
      ...drawBrokenStreams(new Random(seed + 0x5eed)),
      ...drawLostFarewell(new Random(seed + 0xfa4e)),
      ...drawDirectFaults(ways),
      ...drawSteering(new Random(seed + 0x57ee)),
    ],
    healAtMs: random.between(4_000, 25_000),
  };
}

function drawRegions(random: Random): RegionSlice[] {
  const count = random.pick([1, 1, 1, 2, 3]);
  const chunks = random.pick([6, 24, 60]);
  const regions = Array.from({ length: count }, (_, i) => ({
    name: `region-${i}`,
    bytes: (1 + random.below((chunks * CHUNK_BYTES) / CELL_BYTES)) * CELL_BYTES,
  }));
  return sliceRegions(regions, CHUNK_BYTES);
}
