/**
 * What the chunk index promises, whatever database is under it: the same as a list of hashes with their epochs, in
 * whatever order things are said, and never something that was not said.
 *
 * @module
 */
import fc from "fast-check";
import { beforeAll, describe, expect, test } from "vitest";

import { createApiKeys } from "../../relay/db/api-keys.ts";
import { MAP_STATES } from "../../relay/db/chunk-index-map.ts";
import type { Database } from "../../relay/db/database.ts";
import { fromHex } from "../../relay/db/hex.ts";
import { createSessionStore, type DatabaseSessionStore } from "../../relay/db/session-store.ts";
import { projectSessions, type ProjectSessions } from "../../relay/db/sessions.ts";

const SEGMENT = 1024;
/** Two whole segments and a short one. */
const CHUNKS = 2 * SEGMENT + 5;
let statementCount = 0;

export function chunkIndexSuite(
  name: string,
  open: () => Promise<Database> | undefined,
  skipReason: string,
): void {
  // oxlint-disable-next-line vitest/valid-title -- the suite runs once for each database
  describe(`the chunk index on ${name}`, () => {
    let database: Database;
    let store: DatabaseSessionStore;
    let sessions: ProjectSessions;

    beforeAll(async () => {
      if (skipReason !== "") return;
      const opened = await open();
      if (opened === undefined) throw new Error("no database was opened");
      database = opened;
      store = createSessionStore(database, { foldsByItself: false });
      sessions = projectSessions(database, await createApiKeys(database).project("index"));
      return () => database.close();
    });

    /** Says aloud why it is not run. */
    const promise = (sentence: string, work: () => Promise<void>): void => {
      // oxlint-disable-next-line vitest/valid-title, vitest/expect-expect -- both come from the caller
      test(sentence, { timeout: 120_000 }, async (ctx) => {
        if (skipReason !== "") ctx.skip(skipReason);
        await work();
      });
    };

    async function session(chunkCount = CHUNKS): Promise<Uint8Array> {
      const { row } = await sessions.create({
        name: "indexed",
        labels: {},
        mode: "live",
        limits: {},
        ticketLifetimeMs: 600_000,
        createdBy: "test",
      });
      const id = fromHex(row.id);
      await store.describe(id, "seeder", {
        kind: "describe",
        regionName: "db",
        regionBytes: chunkCount * 65_536,
        chunkBytes: 65_536,
        host: "a",
        version: "1",
      });
      return id;
    }

    const run = async (text: string, id: Uint8Array): Promise<void> => {
      const values = [Buffer.from(id).toString("hex")];
      await database.query({ name: `test_index_${++statementCount}`, text }, values);
    };

    const code = (work: Promise<unknown>): Promise<unknown> =>
      work.then(
        () => "resolved",
        (error: unknown) =>
          typeof error === "object" && error !== null && "code" in error ? error.code : error,
      );

    const drain = async (id: Uint8Array): Promise<Uint8Array> => {
      const parts: Uint8Array[] = [];
      for await (const part of store.index.stream(id)) parts.push(part);
      return Buffer.concat(parts);
    };

    promise(
      "says what a list of hashes with epochs says, in whatever order it was told",
      async () => {
        const epoch = fc.integer({ min: 1, max: 4 });
        const value = fc.integer({ min: 1, max: 255 });
        const near = fc.constantFrom(
          0,
          1,
          SEGMENT - 1,
          SEGMENT,
          SEGMENT + 1,
          2 * SEGMENT,
          CHUNKS - 1,
        );
        const said = fc.oneof(
          fc.record({
            kind: fc.constant("segments" as const),
            puts: fc.array(fc.record({ segment: fc.integer({ min: 0, max: 2 }), epoch, value }), {
              minLength: 1,
              maxLength: 4,
            }),
          }),
          fc.record({
            kind: fc.constant("delta" as const),
            entries: fc.array(fc.tuple(near, epoch, value), { minLength: 1, maxLength: 6 }),
            // Its answer is lost, and it is sent again.
            twice: fc.boolean(),
          }),
          fc.record({ kind: fc.constant("fold" as const) }),
        );
        await fc.assert(
          fc.asyncProperty(fc.array(said, { maxLength: 12 }), async (story) => {
            const id = await session();
            const model = new Model();
            for (const part of story) {
              if (part.kind === "fold") {
                await store.index.fold(id);
              } else if (part.kind === "delta") {
                for (let time = 0; time <= Number(part.twice); time++) {
                  await store.index.appendDelta(id, delta(part.entries));
                }
                for (const entry of part.entries) model.entry(...entry);
              } else {
                await Promise.all(
                  part.puts.map((put) => {
                    const hashes = filled(
                      Math.min(SEGMENT, CHUNKS - put.segment * SEGMENT),
                      put.value,
                    );
                    return store.index.putSegment(id, put.epoch, put.segment, hashes);
                  }),
                );
                for (const put of part.puts) model.segment(put.segment, put.epoch, put.value);
              }
            }
            expect(Buffer.compare(await drain(id), model.hashes())).toBe(0);
            const read = await store.index.read(id, SEGMENT - 2, SEGMENT + 7);
            expect(read.map((hash) => hash?.[0] ?? null)).toEqual(
              model.values(SEGMENT - 2, SEGMENT + 7),
            );
            const map = await store.index.map(id, { buckets: CHUNKS });
            expect([...map].map((state) => state === MAP_STATES.missing)).toEqual(
              model.values(0, CHUNKS).map((known) => known === null),
            );
          }),
          { numRuns: 40 },
        );
      },
    );

    promise("read() and stream() refuse what the database has changed", async () => {
      const id = await session();
      for (const segment of [0, 1]) {
        await store.index.putSegment(id, 1, segment, filled(SEGMENT, 1));
      }
      await store.index.appendDelta(id, delta([[0, 2, 9]]));
      const ofRegion = "where region_id = (select id from region where session_id = $1)";
      await run(
        `update region_delta set entries = overlay(entries placing '\\x07' from 12) ${ofRegion}`,
        id,
      );
      expect(await code(store.index.read(id, 0, 1))).toBe("INDEX_DAMAGED");
      expect(await code(store.index.fold(id))).toBe("INDEX_DAMAGED");
      await run(
        `update region_delta set entries = overlay(entries placing '\\x09' from 12) ${ofRegion}`,
        id,
      );
      expect((await store.index.read(id, 0, 1))[0]?.[0]).toBe(9);

      await run(
        `update region_segment set hashes = overlay(hashes placing '\\x02' from 33) ${ofRegion} and segment = 1`,
        id,
      );
      expect((await store.index.read(id, 0, 1))[0]?.[0]).toBe(9);
      expect(await code(store.index.read(id, SEGMENT, 1))).toBe("INDEX_DAMAGED");
      expect(await code(drain(id))).toBe("INDEX_DAMAGED");
      expect(await code(store.index.fold(id))).toBe("INDEX_DAMAGED");
    });

    promise("stream() misses a segment that a generation had", async () => {
      const id = await session();
      for (const segment of [0, 1]) {
        await store.index.putSegment(id, 1, segment, filled(SEGMENT, 1));
      }
      expect(await store.index.fold(id)).toBe(true);
      const before = await drain(id);
      // What comes after the swap is no damage.
      await store.index.putSegment(id, 1, 2, filled(5, 3));
      expect(await code(drain(id))).toBe("resolved");
      expect(await store.index.fold(id)).toBe(true);
      expect(
        Buffer.compare(
          (await drain(id)).subarray(0, 2 * SEGMENT * 32),
          before.subarray(0, 2 * SEGMENT * 32),
        ),
      ).toBe(0);
      // Nor is a segment that is said anew.
      await store.index.putSegment(id, 2, 1, filled(SEGMENT, 4));
      expect(await code(drain(id))).toBe("resolved");
      expect(await store.index.fold(id)).toBe(true);
      await run(
        "delete from region_segment where region_id = (select id from region where session_id = $1) and segment = 1",
        id,
      );
      expect(await code(drain(id))).toBe("INDEX_DAMAGED");
    });

    promise("takes nothing of an epoch after that in which the region changed hands", async () => {
      const id = await session();
      await store.index.putSegment(id, 1, 0, filled(SEGMENT, 1));
      await store.commit(id, 3);
      // The seeder reads what it sends after the commit in the epoch after the last.
      await store.index.putSegment(id, 4, 1, filled(SEGMENT, 2));
      await store.index.appendDelta(id, delta([[0, 4, 7]]));
      expect(await code(store.index.putSegment(id, 5, 2, filled(5, 2)))).toBe("FRAME_UNEXPECTED");
      expect(await code(store.index.putSegment(id, 5, 0, filled(SEGMENT, 8)))).toBe(
        "FRAME_UNEXPECTED",
      );
      expect(
        await code(
          store.index.appendDelta(
            id,
            delta([
              [1, 4, 8],
              [2, 5, 8],
            ]),
          ),
        ),
      ).toBe("FRAME_UNEXPECTED");
      const read = await store.index.read(id, 0, 3);
      expect(read.map((hash) => hash?.[0])).toEqual([7, 1, 1]);
      expect(await store.index.read(id, 2 * SEGMENT, 1)).toEqual([null]);
    });

    promise("map() shows in each cell what is worst in it, at any resolution", async () => {
      const { missing, sent, dirty } = MAP_STATES;
      const id = await session();
      const map = async (buckets: number, first = 0, count = CHUNKS) =>
        Array.from(await store.index.map(id, { buckets, first, count }));
      expect(await map(4)).toEqual([missing, missing, missing, missing]);
      await store.index.putSegment(id, 1, 0, filled(SEGMENT, 1));
      await store.index.putSegment(id, 1, 2, filled(5, 1));
      await store.index.appendDelta(
        id,
        delta([
          [3, 2, 9],
          [SEGMENT + 1, 2, 9],
        ]),
      );
      expect(await map(5, 1, 5)).toEqual([sent, sent, dirty, sent, sent]);
      expect(await map(2, 0, 8)).toEqual([dirty, sent]);
      expect(await map(3, SEGMENT, 3)).toEqual([missing, dirty, missing]);
      expect(await map(1)).toEqual([missing]);
      expect(await map(3, CHUNKS - 6, 100)).toEqual([missing, sent, sent]);
      expect(await map(3, CHUNKS, 10)).toEqual([]);
      expect(await map(10_000)).toHaveLength(CHUNKS);
      // The seeder says that this is the whole of it.
      await store.index.setRoot(id, 2, filled(1, 1));
      expect(await map(5, 1, 5)).toEqual([sent, sent, sent, sent, sent]);
    });
  });
}

/** Chunk by chunk what was said last of it. */
class Model {
  readonly #known: ({ epoch: number; value: number } | null)[] = Array.from(
    { length: CHUNKS },
    () => null,
  );

  segment(segment: number, epoch: number, value: number): void {
    for (
      let chunk = segment * SEGMENT;
      chunk < Math.min(CHUNKS, (segment + 1) * SEGMENT);
      chunk++
    ) {
      if ((this.#known[chunk]?.epoch ?? 0) < epoch) this.#known[chunk] = { epoch, value };
    }
  }

  entry(chunk: number, epoch: number, value: number): void {
    if ((this.#known[chunk]?.epoch ?? 0) <= epoch) this.#known[chunk] = { epoch, value };
  }

  values(first: number, count: number): (number | null)[] {
    return this.#known.slice(first, first + count).map((known) => known?.value ?? null);
  }

  hashes(): Uint8Array {
    const bytes = new Uint8Array(CHUNKS * 32);
    for (const [chunk, known] of this.#known.entries()) {
      if (known !== null) bytes.fill(known.value, chunk * 32, chunk * 32 + 32);
    }
    return bytes;
  }
}

function filled(count: number, value: number): Uint8Array {
  return new Uint8Array(count * 32).fill(value);
}

/** Entries of chunk, epoch and hash. */
function delta(entries: readonly (readonly [number, number, number])[]): Uint8Array {
  const bytes = new Uint8Array(entries.length * 40);
  const view = new DataView(bytes.buffer);
  for (const [at, [chunk, epoch, value]] of entries.entries()) {
    view.setUint32(at * 40, chunk, true);
    view.setUint32(at * 40 + 4, epoch, true);
    bytes.fill(value, at * 40 + 8, at * 40 + 40);
  }
  return bytes;
}
