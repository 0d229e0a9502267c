/**
 * The stores that need no server.
 */
import {
  appendFile,
  mkdtemp,
  open,
  readFile,
  rm,
  stat,
  truncate,
  writeFile,
} from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { DirectoryStore } from "../../../peer/store/directory-store.ts";
import { FileStore } from "../../../peer/store/file-store.ts";
import { MemoryStore } from "../../../peer/store/memory-store.ts";
import { storeCompliance, type StoreUnderTest } from "../../compliance/store.ts";

async function inFolder(
  open: StoreUnderTest["open"] extends never ? never : (path: string) => StoreUnderTest["open"],
): Promise<StoreUnderTest> {
  const folder = await mkdtemp(join(tmpdir(), "memferry-store-"));
  return {
    open: async (name, options) => await open(join(folder, name))(name, options),
    close: async () => await rm(folder, { recursive: true, force: true }),
  };
}

storeCompliance(
  "memory",
  async () =>
    await Promise.resolve({
      open: async (_, { bytes = 0, blockBytes }) =>
        await Promise.resolve(new MemoryStore(bytes, { blockBytes })),
      close: async () => await Promise.resolve(),
    }),
  { lasting: false, tellsUnwritten: true },
);
storeCompliance(
  "file",
  async () => await inFolder((path) => async (_, options) => await FileStore.open(path, options)),
  { lasting: true, tellsUnwritten: false },
);
storeCompliance(
  "directory",
  async () =>
    await inFolder((path) => async (_, options) => await DirectoryStore.open(path, options)),
  { lasting: true, tellsUnwritten: true },
);

let folder: string;
beforeEach(async () => void (folder = await mkdtemp(join(tmpdir(), "memferry-store-"))));
afterEach(async () => await rm(folder, { recursive: true, force: true }));

const OPTIONS = { blockBytes: 4096, readOnly: false };

describe("a file's log", () => {
  /** Writes two blocks and leaves as a killed process does: with the log, and the file as it was before. */
  async function crashed(): Promise<string> {
    const path = join(folder, "disk");
    await writeFile(path, Buffer.alloc(65_536, 1));
    const store = await FileStore.open(path, OPTIONS);
    await store.write(4096, Buffer.alloc(4096, 2));
    await store.write(8192, Buffer.alloc(4096, 3));
    const log = await readFile(`${path}.memferry-log`);
    await store.close();
    await writeFile(path, Buffer.alloc(65_536, 1));
    await writeFile(`${path}.memferry-log`, log);
    return path;
  }

  async function bytesAt(path: string, offset: number): Promise<number> {
    const file = await open(path);
    const into = new Uint8Array(1);
    await file.read(into, 0, 1, offset);
    await file.close();
    return into[0] ?? -1;
  }

  test("what is whole in it stands in the file after a crash", async () => {
    const path = await crashed();
    await (await FileStore.open(path, OPTIONS)).close();
    expect([await bytesAt(path, 4096), await bytesAt(path, 8192), await bytesAt(path, 0)]).toEqual([
      2, 3, 1,
    ]);
  });

  test("a torn record changes nothing", async () => {
    const path = await crashed();
    const log = `${path}.memferry-log`;
    await truncate(log, (await stat(log)).size - 1);
    await (await FileStore.open(path, OPTIONS)).close();
    expect([await bytesAt(path, 4096), await bytesAt(path, 8192)]).toEqual([2, 1]);
  });

  test("a damaged record ends it", async () => {
    const path = await crashed();
    const log = `${path}.memferry-log`;
    const bytes = await readFile(log);
    bytes[100] = (bytes[100] ?? 0) ^ 1;
    await writeFile(log, bytes);
    await appendFile(log, "and more");
    await (await FileStore.open(path, OPTIONS)).close();
    expect([await bytesAt(path, 4096), await bytesAt(path, 8192)]).toEqual([1, 1]);
  });

  test("reading alone does not pass over it", async () => {
    const path = await crashed();
    await expect(FileStore.open(path, { ...OPTIONS, readOnly: true })).rejects.toMatchObject({
      code: "STORE_MISMATCH",
    });
  });
});

describe("a directory", () => {
  test("with other things in it is not made a store", async () => {
    await writeFile(join(folder, "letter.txt"), "dear");
    await expect(DirectoryStore.open(folder, { ...OPTIONS, bytes: 8192 })).rejects.toMatchObject({
      code: "STORE_MISMATCH",
    });
  });

  test("with a block that is cut short says so", async () => {
    const path = join(folder, "store");
    const store = await DirectoryStore.open(path, { ...OPTIONS, bytes: 65_536 });
    await store.write(0, Buffer.alloc(4096, 1));
    await truncate(join(path, "0000000000", "0000000000"), 100);
    await expect(store.read(0, new Uint8Array(4096))).rejects.toMatchObject({
      code: "STORE_CORRUPT",
    });
    await store.close();
  });
});
