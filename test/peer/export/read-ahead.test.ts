/** How far ahead a program's reads are fetched: as far as the path to the source is long. */
import { expect, test } from "vitest";

import {
  READ_AHEAD_BYTES_MAX,
  ReadAhead,
  readAheadBytes,
} from "../../../peer/export/read-ahead.ts";

const MIB = 1024 * 1024;

test("readAheadBytes() is the bandwidth-delay product in whole MiB, between the floor and 64 MiB", () => {
  expect(readAheadBytes({ rttMs: 50, bytesPerS: 100 * MIB }, MIB)).toBe(5 * MIB);
  expect(readAheadBytes({ rttMs: 51, bytesPerS: 100 * MIB }, MIB)).toBe(6 * MIB);
  expect(readAheadBytes({ rttMs: 0.2, bytesPerS: 100 * MIB }, MIB)).toBe(MIB);
  expect(readAheadBytes({ rttMs: 20, bytesPerS: 100 * MIB }, 4 * MIB)).toBe(4 * MIB);
  expect(readAheadBytes({ rttMs: 300, bytesPerS: 10_000 * MIB }, MIB)).toBe(READ_AHEAD_BYTES_MAX);
});

test("readAheadBytes() takes a path whose rate nobody knows for one of a gigabit", () => {
  expect(readAheadBytes({ rttMs: 40, bytesPerS: 0 }, MIB)).toBe(5 * MIB);
  expect(readAheadBytes({ rttMs: 0, bytesPerS: 0 }, MIB)).toBe(MIB);
});

test("ReadAhead.follow() takes the most that a path has carried and its shortest round trip, until all is here", () => {
  const set: number[] = [];
  const readAhead = new ReadAhead(MIB, (bytes) => set.push(bytes / MIB));
  const at = (rttMs: number, mibPerS: number): void =>
    readAhead.follow({ rttMs, bytesPerS: mibPerS * MIB });
  at(0, 100);
  at(100, 5);
  expect(set).toEqual([]);
  at(100, 100);
  at(100, 20);
  at(150, 90);
  expect(set).toEqual([10]);
  at(150, 200);
  expect(set).toEqual([10, 20]);
  at(50, 200);
  expect(set).toEqual([10, 20, 10]);
  readAhead.follow(undefined);
  readAhead.follow(undefined);
  expect(set).toEqual([10, 20, 10, 1]);
  expect(readAhead.bytes).toBe(MIB);
});
