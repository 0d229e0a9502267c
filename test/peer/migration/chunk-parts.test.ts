/** Chunks that come in parts, in any order, from a peer that may lie. */
import fc from "fast-check";
import { expect, test } from "vitest";
import { MigrationError } from "../../../peer/errors.ts";
import { ChunkParts } from "../../../peer/migration/chunk-parts.ts";
import {
  PARTED_BYTES_MAX,
  PARTED_CHUNK_BYTES_MAX,
  PARTS_MAX,
} from "../../../peer/migration/limits.ts";
import { partStart, type PartMessage } from "../../../peer/migration/messages.ts";

const CHUNK_BYTES = 1000;
const LAST_BYTES = 7;

function parts(serial: number, index: number, partCount: number, chunk: Uint8Array): PartMessage[] {
  return Array.from({ length: partCount }, (_, part) => ({
    kind: "part",
    serial,
    epoch: 1 + serial,
    index,
    part,
    partCount,
    hash: new Uint8Array(32).fill(serial),
    payload: chunk.subarray(
      partStart(part, partCount, chunk.length),
      partStart(part + 1, partCount, chunk.length),
    ),
  }));
}

function assembly(chunkBytes = CHUNK_BYTES): {
  chunkParts: ChunkParts;
  dropped: number[];
} {
  const dropped: number[] = [];
  const chunkParts = new ChunkParts({
    chunkLength: (index) => (index === 9 ? LAST_BYTES : chunkBytes),
    onDropped: (index) => dropped.push(index),
  });
  return { chunkParts, dropped };
}

test("ChunkParts.add() gives each chunk once, whole, in whatever order its parts come", () => {
  fc.assert(
    fc.property(
      fc.array(fc.record({ index: fc.nat(9), partCount: fc.integer({ min: 2, max: 7 }) }), {
        minLength: 1,
        maxLength: 20,
      }),
      fc.infiniteStream(fc.nat()),
      (sendings, draws) => {
        const { chunkParts, dropped } = assembly();
        const chunks = sendings.map(({ index }, serial) =>
          new Uint8Array(index === 9 ? LAST_BYTES : CHUNK_BYTES).map((_, i) => i * 7 + serial),
        );
        const waiting = sendings.flatMap(({ index, partCount }, serial) =>
          parts(serial, index, partCount, chunks[serial] ?? new Uint8Array(0)),
        );
        const whole = new Map<number, Uint8Array>();
        while (waiting.length > 0) {
          const at = (draws.next().value ?? 0) % waiting.length;
          const [part] = waiting.splice(at, 1);
          const chunk = part && chunkParts.add(part);
          if (chunk === undefined) continue;
          expect(chunk.offsets).toEqual(Uint32Array.of(0));
          expect(chunk.hashes).toEqual(new Uint8Array(32).fill(chunk.epoch - 1));
          expect(chunk.indexes[0]).toBe(sendings[chunk.epoch - 1]?.index);
          expect(whole.has(chunk.epoch - 1)).toBe(false);
          whole.set(chunk.epoch - 1, chunk.payload);
        }
        expect(whole.size).toBe(sendings.length);
        for (const [serial, bytes] of whole) expect(bytes).toEqual(chunks[serial]);
        expect(chunkParts.heldBytes).toBe(0);
        expect(dropped).toEqual([]);
      },
    ),
  );
});

test("ChunkParts holds no more than its bound and tells of each chunk that it dropped", () => {
  const chunkBytes = PARTED_CHUNK_BYTES_MAX;
  const { chunkParts, dropped } = assembly(chunkBytes);
  const room = PARTED_BYTES_MAX / chunkBytes;
  const chunk = new Uint8Array(chunkBytes);
  for (let serial = 0; serial < 2 * room; serial++) {
    const [first] = parts(serial, 0, 2, chunk);
    expect(first && chunkParts.add(first)).toBe(undefined);
    expect(chunkParts.heldBytes).toBeLessThanOrEqual(PARTED_BYTES_MAX);
  }
  expect(dropped).toEqual(Array.from({ length: room }, () => 0));
  // Those that are held are the newest, and become whole.
  const [, second] = parts(2 * room - 1, 0, 2, chunk);
  expect(second && chunkParts.add(second)?.payload.length).toBe(chunkBytes);
});

test("ChunkParts.add() refuses parts that do not fit", () => {
  const chunk = new Uint8Array(CHUNK_BYTES);
  const [first, second] = parts(0, 3, 2, chunk);
  if (first === undefined || second === undefined) throw new Error("two parts");
  const wrong: PartMessage[] = [
    first,
    { ...second, index: 4 },
    { ...second, epoch: 9 },
    { ...second, hash: new Uint8Array(32).fill(9) },
    { ...second, partCount: 3 },
    { ...second, payload: chunk },
    { ...second, payload: chunk.subarray(0, 1) },
  ];
  for (const part of wrong) {
    const { chunkParts } = assembly();
    expect(chunkParts.add(first)).toBe(undefined);
    expect(() => chunkParts.add(part)).toThrow(MigrationError);
  }
  // More parts than the chunk has bytes: one of them is empty, and no message can be that.
  const many = parts(1, 9, PARTS_MAX, new Uint8Array(LAST_BYTES)).filter(
    ({ payload }) => payload.length > 0,
  );
  const { chunkParts } = assembly();
  for (const part of many) expect(chunkParts.add(part)).toBe(undefined);
  const large = assembly(PARTED_CHUNK_BYTES_MAX + 1).chunkParts;
  expect(() => large.add(first)).toThrow(MigrationError);
});
