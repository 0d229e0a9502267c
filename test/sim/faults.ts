/**
 * What fails, and when: at a time, or at a certain step of somebody.
 *
 * Steps are where bugs live: a crash between a journal's write and the question that it announces is a
 * millisecond of minutes.
 *
 * @module
 */
import type { Role } from "../../relay/protocol/ids.ts";
import type { Random } from "./random.ts";

export type Trigger =
  | { readonly kind: "time"; readonly atMs: number }
  /** The `nth` event in the trace that begins like this, and a little later. */
  | {
      readonly kind: "step";
      readonly step: string;
      readonly nth: number;
      readonly delayMs: number;
    };

export type Deed =
  | { readonly kind: "crashProcess"; readonly role: Role; readonly downMs: number }
  | { readonly kind: "crashHost"; readonly role: Role; readonly downMs: number }
  | {
      readonly kind: "crashRelay";
      readonly hard: boolean;
      readonly downMs: number;
      /** Both peers go to the other node at once; else they wait for this one. */
      readonly failOver: boolean;
    }
  | {
      readonly kind: "partition";
      readonly role: Role;
      readonly way: "both" | "toRelay" | "fromRelay";
      readonly forMs: number;
    }
  | { readonly kind: "cut"; readonly role: Role; readonly silent: "none" | "peer" | "relay" }
  | { readonly kind: "cutStream"; readonly role: Role }
  /** Between the peers themselves: what they send to the relay gets through. */
  | {
      readonly kind: "blockDirect";
      readonly way: "both" | "toSeeder" | "toLeecher";
      readonly forMs: number;
    }
  | { readonly kind: "badPath"; readonly forMs: number }
  | {
      readonly kind: "database";
      readonly how: "frozen" | "refused" | "unanswered" | "late";
      readonly forMs: number;
    }
  | { readonly kind: "clockJump"; readonly role: Role | "relay"; readonly byMs: number }
  | { readonly kind: "slowDisk"; readonly role: Role; readonly forMs: number }
  | { readonly kind: "fullDisk"; readonly forMs: number }
  | { readonly kind: "journalFails"; readonly role: Role; readonly forMs: number }
  | { readonly kind: "syncFails"; readonly role: Role; readonly forMs: number }
  | { readonly kind: "readFails"; readonly role: Role; readonly forMs: number }
  | { readonly kind: "cancel"; readonly by: Role | "api" }
  /** Somebody pauses through the API, and resumes. */
  | { readonly kind: "hold"; readonly forMs: number }
  /** Somebody asks for post-copy through the API. */
  | { readonly kind: "postcopy" };

export interface Fault {
  readonly trigger: Trigger;
  readonly deed: Deed;
}

/** Beginnings of lines of the trace at which something breaks. */
const STEPS = [
  "journal",
  "journal suspending",
  "journal finalized",
  "journal committing",
  "journal committed",
  "journal complete",
  "journal released",
  "hook",
  "gate",
  "gate closed",
  "gate open",
  "commit of",
  "state",
  "phase suspended",
  "phase postcopy",
  "phase paused",
  "phase cancelled",
  "channel",
  "connected",
  "round",
  "store",
  "read",
  "collect",
  "checkpoint",
  "sync",
  "joins",
  "fault",
  "crash",
  "starts",
  "starts again",
] as const satisfies readonly [string, ...string[]];

/** Where a side that gives up may already be the owner, or no longer. */
const TURNS = [
  "phase finalizing",
  "journal finalized",
  "suspended",
  "journal committing begins",
  "journal committing durable",
  "commit of",
  "hears leecher",
] as const satisfies readonly [string, ...string[]];
const AT_TURNS: ReadonlySet<Deed["kind"]> = new Set([
  "fullDisk",
  "journalFails",
  "syncFails",
  "readFails",
  "cancel",
  "database",
]);

export function drawFault(random: Random): Fault {
  const deed = drawDeed(random);
  if (AT_TURNS.has(deed.kind) && random.chance(0.5)) {
    const delayMs = random.chance(0.5) ? 0 : random.delay(20);
    return { trigger: { kind: "step", step: random.pick([...TURNS]), nth: 1, delayMs }, deed };
  }
  return { trigger: drawTrigger(random), deed };
}

/** The direct path comes and goes, also in the moment in which it is taken into use. */
export function drawDirectFaults(random: Random): Fault[] {
  return Array.from({ length: random.below(4) }, () => ({
    trigger: random.chance(0.5)
      ? { kind: "step", step: "path", nth: 1 + random.below(3), delayMs: random.delay(50) }
      : { kind: "time", atMs: random.between(50, 12_000) },
    deed: {
      kind: "blockDirect",
      way: random.pick(["both", "toSeeder", "toLeecher"]),
      forMs: random.between(200, 9_000),
    },
  }));
}

/** Somebody steers the migration. */
export function drawSteering(random: Random): Fault[] {
  const trigger = (): Trigger =>
    random.chance(0.4)
      ? { kind: "step", step: random.pick([...TURNS]), nth: 1, delayMs: random.delay(50) }
      : { kind: "time", atMs: random.between(20, 8_000) };
  const holds = random.pick([0, 0, 1, 2]);
  return [
    ...Array.from({ length: holds }, () => ({
      trigger: trigger(),
      deed: { kind: "hold", forMs: random.between(100, 6_000) } as const,
    })),
    ...(random.chance(0.2) ? [{ trigger: trigger(), deed: { kind: "postcopy" } as const }] : []),
  ];
}

/** Two at one turn: the outcome is in doubt, and a side gives up or is gone. */
export function drawDoubt(random: Random): Fault[] {
  const step = random.pick([...TURNS]);
  const at = (deed: Deed): Fault => ({
    trigger: { kind: "step", step, nth: 1, delayMs: random.chance(0.5) ? 0 : random.delay(40) },
    deed,
  });
  const role = random.pick<Role>(["seeder", "leecher"]);
  const forMs = random.between(500, 12_000);
  const doubt = random.pick<Deed>([
    { kind: "database", how: "late", forMs },
    { kind: "database", how: "unanswered", forMs },
    { kind: "database", how: "frozen", forMs },
    { kind: "partition", role, way: random.pick(["both", "toRelay", "fromRelay"]), forMs },
    { kind: "crashRelay", hard: false, downMs: forMs / 4, failOver: true },
  ]);
  const other = random.pick<Role>(["seeder", "leecher"]);
  const end = random.pick<Deed>([
    { kind: "fullDisk", forMs: 2_000 },
    { kind: "journalFails", role: other, forMs: 500 },
    { kind: "readFails", role: other, forMs: 2_000 },
    { kind: "cancel", by: random.pick<Role | "api">(["seeder", "leecher", "api"]) },
    { kind: "crashProcess", role: other, downMs: forMs / 4 },
    { kind: "crashHost", role: other, downMs: forMs / 4 },
  ]);
  return [at(doubt), at(end)];
}

/** The source's journal fails when nothing but its farewell is missing. */
export function drawLostFarewell(random: Random): Fault[] {
  if (!random.chance(0.04)) return [];
  return [
    {
      trigger: {
        kind: "step",
        step: "journal complete durable",
        nth: 1,
        delayMs: random.chance(0.5) ? 0 : random.delay(20),
      },
      deed: { kind: "journalFails", role: "seeder", forMs: 3_000 },
    },
  ];
}

/** Single streams break while the peers open them: some of a channel's come, and some do not. */
export function drawBrokenStreams(random: Random): Fault[] {
  if (!random.chance(0.15)) return [];
  return Array.from({ length: 1 + random.below(4) }, () => ({
    trigger: {
      kind: "step" as const,
      step: random.pick(["joins", "connected", "channel", "phase paused"]),
      nth: 1 + random.below(4),
      delayMs: random.delay(300),
    },
    deed: { kind: "cutStream" as const, role: random.pick<Role>(["seeder", "leecher"]) },
  }));
}

/** A peer is killed at some turn, and its next life does not begin well either. */
export function drawRelapse(random: Random): Fault[] {
  const role = random.pick<Role>(["seeder", "leecher"]);
  const downMs = random.pick([50, 1_000, 5_000]) * random.unit();
  const first: Deed = { kind: random.pick(["crashProcess", "crashHost"]), role, downMs };
  const again = random.pick<Deed>([
    first,
    { kind: "readFails", role, forMs: 3_000 },
    { kind: "journalFails", role, forMs: 3_000 },
    { kind: "syncFails", role, forMs: 3_000 },
    { kind: "fullDisk", forMs: 3_000 },
    { kind: "database", how: random.pick(["frozen", "late", "unanswered"]), forMs: 5_000 },
    { kind: "crashRelay", hard: false, downMs, failOver: true },
    { kind: "cancel", by: random.pick<Role | "api">(["seeder", "leecher", "api"]) },
  ]);
  const soon = random.pick([0, 5, 300, 1_500]) * random.unit();
  return [
    {
      trigger: { kind: "step", step: random.pick([...TURNS, ...STEPS]), nth: 1, delayMs: soon },
      deed: first,
    },
    {
      trigger: {
        kind: "step",
        step: "starts again",
        nth: 1,
        delayMs: random.pick([0, 100, 1_000]) * random.unit(),
      },
      deed: again,
    },
  ];
}

function drawTrigger(random: Random): Trigger {
  if (random.chance(0.35)) return { kind: "time", atMs: random.delay(3_000) };
  return {
    kind: "step",
    step: random.pick([...STEPS]),
    nth: random.chance(0.5) ? 1 : 1 + random.below(12),
    delayMs: random.pick([0, 0, 0.3, 3, 30, 300]) * random.unit(),
  };
}

function drawDeed(random: Random): Deed {
  const role = random.pick<Role>(["seeder", "leecher"]);
  const downMs = random.pick([20, 800, 5_000, 12_000]) * random.between(0.5, 1);
  const forMs = random.pick([100, 2_000, 9_000, 20_000]) * random.between(0.5, 1);
  const kind = random.pick<Exclude<Deed["kind"], "blockDirect" | "hold" | "postcopy">>([
    "crashProcess",
    "crashProcess",
    "crashProcess",
    "crashHost",
    "crashHost",
    "crashHost",
    "crashRelay",
    "crashRelay",
    "partition",
    "partition",
    "cut",
    "cut",
    "cutStream",
    "cutStream",
    "cutStream",
    "badPath",
    "database",
    "database",
    "clockJump",
    "slowDisk",
    "fullDisk",
    "journalFails",
    "syncFails",
    "readFails",
    "readFails",
    "cancel",
  ]);
  switch (kind) {
    case "crashProcess":
    case "crashHost":
      return { kind, role, downMs };
    case "crashRelay":
      return { kind, hard: random.chance(0.4), downMs, failOver: random.chance(0.4) };
    case "partition":
      return { kind, role, way: random.pick(["both", "toRelay", "fromRelay"]), forMs };
    case "cut":
      return { kind, role, silent: random.pick(["none", "none", "peer", "relay"]) };
    case "cutStream":
      return { kind, role };
    case "badPath":
      return { kind, forMs };
    case "database":
      return { kind, how: random.pick(["frozen", "refused", "unanswered", "late"]), forMs };
    case "clockJump": {
      const byMs = random.pick([-1, 1]) * random.pick([100, 7_000, 86_400_000]) * random.unit();
      return { kind, role: random.pick(["relay", "seeder", "leecher"]), byMs };
    }
    case "slowDisk":
      return { kind, role, forMs };
    case "fullDisk":
      return { kind, forMs: Math.min(forMs, 3_000) };
    case "journalFails":
    case "syncFails":
    case "readFails":
      return { kind, role, forMs: Math.min(forMs, 3_000) };
    case "cancel":
      return { kind, by: random.pick<Role | "api">(["seeder", "leecher", "api"]) };
  }
}
