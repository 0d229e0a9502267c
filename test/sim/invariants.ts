/**
 * What must hold at every instant, and at the end: the design's I1 to I7.
 *
 * @module
 */
import type { SeederRecord } from "../../peer/journal/journal.ts";
import { isEnded, type Role, type SessionState } from "../../relay/protocol/ids.ts";
import { SECRET_PATH } from "./disk.ts";
import { codeOf, describe, type Ending } from "./peers.ts";
import { CELL_BYTES, PLAINTEXT } from "./shadow.ts";
import type { Failure, World } from "./world.ts";
import type { Side } from "./workload.ts";

/** Ends a run. */
export class Broken extends Error {
  override readonly name = "Broken";
}

/** What no fault of this simulation can be the reason of. */
const NEVER = new Set([
  "MESSAGE_MALFORMED",
  "MESSAGE_UNEXPECTED",
  "VERSION_UNSUPPORTED",
  "REGION_MISMATCH",
  "CHUNK_MISMATCH",
  "ROOT_MISMATCH",
  "JOURNAL_INVALID",
  "FRAME_MALFORMED",
  "FRAME_UNEXPECTED",
  "TypeError",
  "RangeError",
  "Error",
]);
/** Calls of one process that a disk may have to answer at once. */
const OPERATIONS_MAX = 200;
/** Below `FINALIZE_DEADLINE_MS`, and above what any path here needs. */
const STANDSTILL_MAX_MS = 45_000;

export class Invariants {
  failure: Failure | undefined;
  readonly #world: World;
  readonly #secrets: readonly Buffer[];
  readonly #seen = { source: -1, destination: -1, owner: "" };
  #steps = 0;
  #standsSinceMs = 0;
  #released = false;
  #cancelAsked = false;
  #commits = 0;
  #stateWas: SessionState = "pending";

  constructor(
    world: World,
    secrets: { readonly hashKey: Uint8Array; readonly secret: Uint8Array },
  ) {
    this.#world = world;
    this.#secrets = [
      Buffer.from(secrets.hashKey),
      Buffer.from(secrets.secret),
      Buffer.from(PLAINTEXT),
      Buffer.from(SECRET_PATH),
    ];
  }

  /** Takes the first failure down; the run ends at its next step. */
  note(invariant: string, what: string): void {
    if (this.failure !== undefined) return;
    this.failure = { invariant, what };
    this.#world.trace("invariant", `${invariant} is broken: ${what}`);
  }

  /** Looks at everything, after an event and all that followed from it. @throws Broken */
  step(): void {
    const { images, network, database } = this.#world;
    this.checkOwner();
    this.#checkStandstill(this.#serves("source") || database.truth.owner === "leecher");
    this.#checkRecord();
    this.#checkContent();
    if (this.#steps++ % 32 === 0) {
      network.checkBounds();
      for (const { server } of [images.source, images.destination]) {
        if ((server?.operations ?? 0) > OPERATIONS_MAX) {
          this.note("I7", `${server?.operations} calls to one disk at once`);
        }
      }
    }
    if (this.failure !== undefined) throw new Broken(this.failure.what);
  }

  /** Only the owner serves. */
  checkOwner(): void {
    const { workload, database } = this.#world;
    const { owner } = database.truth;
    const atSource = this.#serves("source");
    const atDestination = this.#serves("destination");
    if (atSource && owner !== "seeder") this.note("I1", "the source serves what it does not own");
    if (atDestination && owner !== "leecher") {
      this.note("I1", "the destination serves what it does not own");
    }
    if (
      atSource &&
      atDestination &&
      workload.running("source") &&
      workload.running("destination")
    ) {
      this.note("I1", "the workload runs on both sides");
    }
  }

  #serves(side: Side): boolean {
    const { server } = this.#world.images[side];
    return server?.actor.alive === true && server.gate === "open";
  }

  /** When nothing is broken, nobody holds the workload for as long as the deadline that gives up. */
  #checkStandstill(served: boolean): void {
    const { clock, healed } = this.#world;
    if (served || !healed) this.#standsSinceMs = clock.nowMs;
    else if (clock.nowMs - this.#standsSinceMs > STANDSTILL_MAX_MS) {
      this.note("I4", "the workload is held at the source and nobody takes it over");
    }
  }

  /** Whoever stops the workload has written down that it is to be started again. */
  #checkRecord(): void {
    const { seeder, workload, scenario } = this.#world;
    if (workload.running("source") || !seeder.alive || scenario.hookFails > 0) return;
    const phase = seeder.journal.record?.phase;
    if (phase === undefined || phase === "offered" || phase === "tracking") {
      this.note("I4", `the workload does not run at the source, and its journal says ${phase}`);
    }
  }

  /** A write of the workload is about to take effect. */
  accessed(side: Side): void {
    const { owner } = this.#world.database.truth;
    if ((owner === "seeder") !== (side === "source")) {
      this.note("I1", `a write at the ${side}, and the owner is the ${owner}`);
    }
  }

  /** The database took a commit as a new one. */
  committed(): void {
    if (this.#commits++ > 0) this.note("I1", "one commit counts twice");
    if (isEnded(this.#stateWas))
      this.note("I1", `a commit after the session was ${this.#stateWas}`);
  }

  stateChanged(): void {
    this.#stateWas = this.#world.database.truth.state;
  }

  /** The operator cancelled: the end may be at the source though nothing failed. */
  cancelled(): void {
    this.#cancelAsked = true;
  }

  /** The source lets its image go: from now on everything is at the destination, whatever happens to that host. */
  released(record: SeederRecord | undefined): void {
    if (record?.phase !== "released") {
      this.note("I4", "the source lets go, and its journal would serve the image again");
    }
    const { images, shadow } = this.#world;
    const { destination } = images;
    if (destination.checkpointed.size < destination.chunkCount) {
      this.note("I4", "the source lets go what is not durable at the destination");
    }
    const lost = shadow.behind((cell) => bytesAt(destination.durable, shadow.place(cell).offset));
    if (lost !== undefined)
      this.note("I4", `not durable when the source lets go: ${shadow.describe(lost)}`);
    this.#released = true;
    images.source.drop();
  }

  /** A side's host lost what was not durable. */
  hostCrashed(role: Role): void {
    const { shadow, database, images } = this.#world;
    if (database.truth.owner !== role) return;
    const lost = shadow.fallBack((cell) => {
      const { chunk, offset } = shadow.place(cell);
      const here = role === "seeder" || images.destination.present.has(chunk);
      const image = role === "leecher" && here ? images.destination : images.source;
      return bytesAt(image.cache, offset);
    });
    if (lost !== undefined) {
      this.note("I4", `a host crash took what was durable: ${shadow.describe(lost)}`);
    }
  }

  ended(role: Role, ending: Ending): void {
    if (ending.kind === "done") return;
    const code = codeOf(ending.error);
    if (NEVER.has(code)) this.note("I0", `the ${role} ends with ${describe(ending.error)}`);
  }

  /** Bytes or text at the relay. */
  checkSecrecy(bytes: Uint8Array): void {
    const buffer = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
    for (const secret of this.#secrets) {
      if (buffer.includes(secret)) this.note("I6", `the relay sees ${secret.toString("latin1")}`);
    }
  }

  /** Everything is over, or should be. @throws Broken */
  end(): void {
    const { database, seeder, leecher, images, workload, scenario, shadow } = this.#world;
    const { owner } = database.truth;
    const there = owner === "leecher";
    for (const peer of [seeder, leecher]) {
      const wanted = there ? "done" : "cancelled";
      if (peer.ending?.kind !== wanted) {
        const is = peer.ending === undefined ? "still runs" : `is ${peer.ending.kind}`;
        this.note("I4", `the ${peer.role} ${is}, and the owner is the ${owner}`);
      }
    }
    const side: Side = there ? "destination" : "source";
    const image = images[side];
    if (image.server?.actor.alive !== true || image.server.gate !== "open") {
      this.note("I4", `the ${side} owns the region and does not serve it`);
    }
    if (scenario.hookFails === 0 && !workload.running(side)) {
      this.note("I4", `the workload does not run at the ${side}`);
    }
    const other = there ? "source" : "destination";
    if (there && images.source.server?.gate !== "fenced")
      this.note("I1", "the source is not fenced");
    if (workload.running(other)) this.note("I1", `the workload runs at the ${other} too`);
    if (
      there &&
      (image.present.size < image.chunkCount || image.checkpointed.size < image.chunkCount)
    ) {
      this.note("I4", "done, and chunks are missing");
    }
    if (Buffer.compare(image.cache, shadow.bytes) !== 0) this.note("I2", "the end differs");
    const harmless = scenario.faults.every(({ deed }) => deed.kind === "clockJump");
    if (harmless && scenario.hookFails === 0 && !this.#cancelAsked && !there) {
      this.note("I4", "nothing failed, and the region is not at the destination");
    }
    if (this.failure !== undefined) throw new Broken(this.failure.what);
  }

  /** The region as its owner has it is what the workload wrote, at every instant. */
  #checkContent(): void {
    const { images, shadow, database } = this.#world;
    const { source, destination } = images;
    const { owner } = database.truth;
    const seen = this.#seen;
    const unchanged = seen.source === source.version && seen.destination === destination.version;
    if (unchanged && seen.owner === owner) return;
    Object.assign(seen, { source: source.version, destination: destination.version, owner });
    if (owner === "seeder") {
      if (Buffer.compare(source.cache, shadow.bytes) !== 0) this.note("I4", "the source changed");
      return;
    }
    for (let index = 0; index < destination.chunkCount; index++) {
      const here = destination.present.has(index);
      if (!here && this.#released) this.note("I4", `chunk ${index} is nowhere`);
      const start = index * destination.options.chunkBytes;
      const end = start + destination.options.chunkBytes;
      // What is missing comes out of the source's file, whatever its programs once saw.
      const image = here ? destination.cache : source.file;
      if (image.compare(shadow.bytes, start, end, start, end) === 0) continue;
      this.note(
        here ? "I2" : "I4",
        `chunk ${index} at the ${here ? "destination" : "source"} is not what the workload wrote`,
      );
    }
  }
}

function bytesAt(image: Uint8Array, offset: number): Uint8Array {
  return image.subarray(offset, offset + CELL_BYTES);
}
