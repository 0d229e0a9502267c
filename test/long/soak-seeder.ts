/**
 * The source's side of one migration of the soak: a writer that never rests while the workload is here.
 *
 * @module
 */
import { createHash, randomBytes } from "node:crypto";
import { open, readFile, type FileHandle } from "node:fs/promises";
import path from "node:path";

import { loadNative } from "../../native/index.ts";
import { ExportedWrites } from "../../peer/export/exported-writes.ts";
import { ScannedWrites } from "../../peer/export/scanned-writes.ts";
import { Seeder } from "../../peer/migration/seeder.ts";
import { RegionGroup } from "../../peer/region/group.ts";
import { SeededRandom } from "../support/seeded-random.ts";
import { Attempt, CHUNK_BYTES, digestOf, errorText, type Outcome } from "./soak-attempt.ts";

const REGION = "soak";
const WRITE_BYTES_MAX = 4_096;
const WRITE_PAUSE_MS = 3;

/** Writes at random places, and notes what must stand there. */
class Writer {
  readonly notes: Buffer;
  writes = 0;
  readonly #file: FileHandle;
  readonly #random: SeededRandom;
  #running: Promise<void> = Promise.resolve();
  #stop = true;

  constructor(file: FileHandle, notes: Buffer, seed: number) {
    this.#file = file;
    this.notes = notes;
    this.#random = new SeededRandom(seed);
  }

  start(): void {
    if (!this.#stop) return;
    this.#stop = false;
    this.#running = this.#run();
  }

  /** Nothing is written after it resolves. */
  async stop(): Promise<void> {
    this.#stop = true;
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#stop) {
      const bytes = this.#random.bytes(1 + this.#random.below(WRITE_BYTES_MAX));
      // Most of a workload stays in few places.
      const span = this.#random.below(3) > 0 ? this.notes.length >> 4 : this.notes.length;
      const at = this.#random.below(span - bytes.length);
      await this.#file.write(bytes, 0, bytes.length, at);
      this.notes.set(bytes, at);
      this.writes++;
      await new Promise((resolve) => {
        setTimeout(resolve, WRITE_PAUSE_MS);
      });
    }
  }
}

export class SeederAttempt extends Attempt {
  #seeder: Seeder | undefined;
  #cancelled = false;

  async cancel(): Promise<void> {
    this.#cancelled = true;
    await this.#seeder?.cancel("cancelled by the soak").catch(() => undefined);
  }

  async run(): Promise<Outcome> {
    const { task, ticket } = this;
    const hashKey = randomBytes(32);
    const addon = loadNative();
    const notes = await readFile(task.file);
    const directory = await this.directory(hashKey);
    const mount = this.mount();
    const region = addon.openRegion({
      store: {
        kind: "file",
        path: task.file,
        create: false,
        reserve: false,
        readOnly: mount === undefined,
      },
      bytes: task.bytes,
      chunkBytes: CHUNK_BYTES,
      hashKey,
      present: "all",
      gate: "open",
    });
    mount?.add(REGION, region);
    const scanned = mount === undefined ? await ScannedWrites.open(region, task.file) : undefined;
    const place = mount === undefined ? task.file : path.join(mount.directory, REGION);
    const file = await open(place, "r+");
    const writer = new Writer(file, notes, task.seed);
    writer.start();
    let done = false;
    let error = "";
    let downtimeMs = 0;
    let control;
    try {
      control = await this.join({
        onOwnership: (ownership) => this.#seeder?.ownershipChanged(ownership),
      });
      this.#seeder = new Seeder({
        session: control,
        sessionId: ticket.sessionId,
        secret: ticket.secret,
        region: new RegionGroup([{ name: REGION, region }]),
        dirty: scanned ?? new ExportedWrites(region, there(mount), REGION),
        hashKey,
        keyedHash: (data) => addon.blake3(data, hashKey),
        journal: await directory.seederJournal(),
        hooks: {
          onSuspend: () => writer.stop(),
          onRollback: () => {
            writer.start();
            return Promise.resolve();
          },
        },
        onEvent: this.onEvent,
      });
      const running = this.#seeder.run();
      if (this.#cancelled) await this.cancel();
      ({ downtimeMs } = await running);
      done = true;
    } catch (failure) {
      error = errorText(failure);
    }
    const committed = this.#seeder?.committed ?? false;
    await writer.stop();
    // What a mapping or a cache still holds is the file's, as long as the workload is here.
    if (!committed) await file.sync();
    // Where the region is fenced, the last flush of a program that still has it open is refused.
    await file.close().catch((refusal: unknown) => {
      if (!committed) throw refusal;
    });
    await scanned?.close();
    await mount?.unmount();
    await region.close();
    await control?.close();
    await directory.remove();
    const expected = createHash("sha256").update(notes).digest("hex");
    return {
      done,
      committed,
      digest: await digestOf(task.file),
      expected,
      error,
      writes: writer.writes,
      downtimeMs,
      refetchedChunks: 0,
      events: this.events,
    };
  }
}

function there<T>(value: T | undefined): T {
  if (value === undefined) throw new Error("there is no mount");
  return value;
}
