/**
 * What every store is: run over each implementation, against its real server.
 *
 * @module
 */
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { AlignedStore } from "../../peer/store/aligned-store.ts";
import type { OpenStoreOptions } from "../../peer/store/opening.ts";
import { StoreError, type Store } from "../../peer/store/store.ts";
import { SeededRandom } from "../support/seeded-random.ts";

export interface StoreUnderTest {
  /** Makes a store that is not there yet, or opens it again. */
  open(name: string, options: OpenStoreOptions): Promise<Store>;
  close(): Promise<void>;
}

export interface StoreFacts {
  /** What is written is there for the next one who opens it. */
  readonly lasting: boolean;
  /** A range that was never written is told from one of zeros. */
  readonly tellsUnwritten: boolean;
}

const BLOCK = 16 * 1024;
/** The last block is short. */
const BYTES = 40 * BLOCK + 1000;

export function storeCompliance(
  kind: string,
  make: () => Promise<StoreUnderTest>,
  facts: StoreFacts,
): void {
  describe(`${kind} store`, () => {
    let under: StoreUnderTest;
    let count = 0;
    const fresh = async (options: Partial<OpenStoreOptions> = {}): Promise<[string, Store]> => {
      const name = `s${count++}`;
      return [
        name,
        await under.open(name, { bytes: BYTES, blockBytes: BLOCK, readOnly: false, ...options }),
      ];
    };
    const using = async (run: (store: Store, name: string) => Promise<void>): Promise<void> => {
      const [name, store] = await fresh();
      try {
        await run(store, name);
      } finally {
        await store.close();
      }
    };

    beforeAll(async () => void (under = await make()));
    afterAll(() => under.close());

    test("says how long it is, and in which blocks", () =>
      using(async (store) => {
        expect(store.bytes).toBe(BYTES);
        const { blockBytes, maxBytes, concurrency } = store.traits;
        expect(maxBytes).toBeGreaterThanOrEqual(blockBytes);
        expect(maxBytes % blockBytes).toBe(0);
        expect(concurrency).toBeGreaterThanOrEqual(1);
        await Promise.resolve();
      }));

    test("what was never written reads as zeros", () =>
      using(async (store) => {
        const into = new Uint8Array(store.traits.blockBytes).fill(7);
        const found = await store.read(0, into);
        expect(into.every((byte) => byte === 0)).toBe(true);
        if (facts.tellsUnwritten) expect(found).toBe(false);
      }));

    test("any sequence of writes, zeros and reads is that of an array of bytes", () =>
      using(async (store) => {
        const aligned = new AlignedStore(store);
        const model = new Uint8Array(BYTES);
        const range = fc
          .tuple(fc.nat(BYTES - 1), fc.integer({ min: 1, max: 5 * BLOCK }))
          .map(([offset, length]) => ({ offset, length: Math.min(length, BYTES - offset) }));
        const step = fc.record({
          what: fc.constantFrom("write", "zero", "read", "flush"),
          range,
          seed: fc.nat(),
        });
        await fc.assert(
          fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 12 }), async (steps) => {
            for (const {
              what,
              range: { offset, length },
              seed,
            } of steps) {
              if (what === "flush") await aligned.flush();
              if (what === "write") {
                const bytes = new SeededRandom(seed).bytes(length);
                model.set(bytes, offset);
                await aligned.write(offset, bytes);
              }
              if (what === "zero") {
                model.fill(0, offset, offset + length);
                await aligned.writeZeroes(offset, length);
              }
              if (what === "read") {
                const into = new Uint8Array(length);
                const found = await aligned.read(offset, into);
                expect(Buffer.compare(into, model.subarray(offset, offset + length))).toBe(0);
                if (!found) expect(into.every((byte) => byte === 0)).toBe(true);
              }
            }
          }),
          { numRuns: 25 },
        );
        const all = new Uint8Array(BYTES);
        await aligned.read(0, all);
        expect(Buffer.compare(all, model)).toBe(0);
      }));

    test("writes of one block's parts at once lose none", () =>
      using(async (store) => {
        const aligned = new AlignedStore(store);
        const part = 1000;
        const parts = Array.from({ length: 40 }, (_, k) => new Uint8Array(part).fill(k + 1));
        await Promise.all(parts.map((bytes, k) => aligned.write(k * part, bytes)));
        const into = new Uint8Array(parts.length * part);
        await aligned.read(0, into);
        expect(Buffer.compare(into, Buffer.concat(parts))).toBe(0);
      }));

    test("many reads and writes at once", () =>
      using(async (store) => {
        const { blockBytes } = store.traits;
        const blocks = Math.floor(BYTES / blockBytes);
        const bytesOf = (block: number): Uint8Array => new SeededRandom(block).bytes(blockBytes);
        await Promise.all(
          Array.from({ length: blocks }, (_, k) => store.write(k * blockBytes, bytesOf(k))),
        );
        await store.flush();
        await Promise.all(
          Array.from({ length: blocks }, async (_, k) => {
            const into = new Uint8Array(blockBytes);
            expect(await store.read(k * blockBytes, into)).toBe(true);
            expect(Buffer.compare(into, bytesOf(k))).toBe(0);
          }),
        );
      }));

    test("a range off its blocks or past its end is refused", () =>
      using(async (store) => {
        const { blockBytes } = store.traits;
        const bad: [number, number][] = [
          [BYTES, blockBytes],
          [-blockBytes, blockBytes],
          [BYTES - (BYTES % blockBytes), blockBytes],
          [0, 0],
          [0, store.traits.maxBytes + blockBytes],
        ];
        if (blockBytes > 1) bad.push([1, blockBytes], [0, blockBytes - 1]);
        for (const [offset, length] of bad) {
          await expect(
            store.read(offset, new Uint8Array(Math.max(0, length))),
          ).rejects.toMatchObject({
            code: "STORE_RANGE",
          });
          await expect(
            store.write(offset, new Uint8Array(Math.max(0, length))),
          ).rejects.toMatchObject({
            code: "STORE_RANGE",
          });
        }
      }));

    test("a closed one refuses", async () => {
      const [, store] = await fresh();
      await store.close();
      await store.close();
      await expect(store.read(0, new Uint8Array(store.traits.blockBytes))).rejects.toThrow(
        StoreError,
      );
      await expect(store.flush()).rejects.toMatchObject({ code: "STORE_CLOSED" });
    });

    test("what was written is there for the next one who opens it", async (ctx) => {
      if (!facts.lasting) ctx.skip("it goes with its process");
      const [name, store] = await fresh();
      const { blockBytes } = store.traits;
      const bytes = new SeededRandom(3).bytes(blockBytes);
      await store.write(blockBytes, bytes);
      await store.flush();
      await store.close();
      // It has its own block size.
      const again = await under.open(name, { blockBytes: 4096, readOnly: true });
      const into = new Uint8Array(blockBytes);
      expect(again.bytes).toBe(BYTES);
      await new AlignedStore(again).read(blockBytes, into);
      expect(Buffer.compare(into, bytes)).toBe(0);
      await expect(new AlignedStore(again).write(0, bytes)).rejects.toMatchObject({
        code: "STORE_READ_ONLY",
      });
      await again.close();
      await expect(
        under.open(name, { bytes: BYTES + 1, blockBytes: BLOCK, readOnly: false }),
      ).rejects.toMatchObject({
        code: "STORE_MISMATCH",
      });
      await expect(
        under.open(name, { bytes: BYTES - 1, blockBytes: BLOCK, readOnly: false }),
      ).rejects.toMatchObject({
        code: "STORE_MISMATCH",
      });
    });

    test("one that is not there is made only with a size", async (ctx) => {
      if (!facts.lasting) ctx.skip("it goes with its process");
      await expect(
        under.open("nowhere", { blockBytes: BLOCK, readOnly: false }),
      ).rejects.toMatchObject({
        code: "STORE_MISSING",
      });
      await expect(
        under.open("nowhere", { bytes: BYTES, blockBytes: BLOCK, readOnly: true }),
      ).rejects.toMatchObject({
        code: "STORE_MISSING",
      });
    });

    test("lists what was written, where it can", () =>
      using(async (store) => {
        if (store.list === undefined) return;
        const { blockBytes } = store.traits;
        for (const block of [1, 2, 7])
          await store.write(block * blockBytes, new Uint8Array(blockBytes).fill(1));
        await store.write(3 * blockBytes, new Uint8Array(blockBytes).fill(1));
        await store.writeZeroes(3 * blockBytes, blockBytes);
        await store.flush();
        const covered = new Set<number>();
        for await (const { offset, length } of store.list()) {
          for (let at = offset; at < offset + length; at += blockBytes)
            covered.add(at / blockBytes);
        }
        expect([...covered].sort((a, b) => a - b)).toEqual([1, 2, 7]);
      }));
  });
}
