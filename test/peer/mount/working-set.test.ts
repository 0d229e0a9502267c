import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { chunksOf } from "../../../peer/mount/pull-order.ts";
import { readWorkingSet, WorkingSet } from "../../../peer/mount/working-set.ts";

const CHUNK = 4096;
const BYTES = 100 * CHUNK + 5;

let folder: string;
beforeAll(async () => void (folder = await mkdtemp(join(tmpdir(), "memferry-set-"))));
afterAll(() => rm(folder, { recursive: true, force: true }));

test("what is read back is what was asked for, each chunk once and in its order", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(100), { minLength: 1, maxLength: 60 }), async (chunks) => {
      const path = join(folder, "set");
      const set = new WorkingSet(BYTES, CHUNK);
      for (const chunk of chunks) set.note(chunk);
      await set.write(path);
      const ranges = await readWorkingSet(path, BYTES);
      expect([...chunksOf(ranges, CHUNK)]).toEqual([...new Set(chunks)]);
      // Of larger chunks it is what they cover.
      const large = new Set(chunksOf(ranges, 4 * CHUNK));
      for (const chunk of chunks) expect(large).toContain(Math.floor(chunk / 4));
    }),
    { numRuns: 50 },
  );
});

test.each([
  ["hello", "no recorded working set"],
  ["memferry-working-set-1 17", "another length"],
  [`memferry-working-set-1 ${BYTES}\n0 x`, "damaged"],
  [`memferry-working-set-1 ${BYTES}\n0 ${BYTES + 1}`, "damaged"],
])("%j is refused", async (text, told) => {
  const path = join(folder, "bad");
  await writeFile(path, text);
  await expect(readWorkingSet(path, BYTES)).rejects.toThrow(told);
  expect(await readFile(path, "utf8")).toBe(text);
});

test("one that is not there is said to be", async () => {
  await expect(readWorkingSet(join(folder, "nowhere"), BYTES)).rejects.toMatchObject({
    code: "USAGE",
  });
});
