/**
 * Where a mount keeps what it has of a store: memory, or a file that the next mount goes on with.
 *
 * Beside the file stand `FILE.memferry` (whose bytes they are) and `FILE.state` (which are here, and which were written
 * and not pushed). After a crash of this process they are exact. After a crash of the host nobody knows which of the
 * file's pages reached the disk, so all is taken from the store again; what programs were told is durable is there.
 *
 * @module
 */
import { readFile, rename, rm, writeFile } from "node:fs/promises";
import { resolve } from "node:path";
import { z } from "zod";
import { NativeError, type NativeRegion, type RegionOptions } from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import type { Store } from "../store/store.ts";

export type CachePlace =
  | { readonly kind: "memory" }
  | { readonly kind: "file"; readonly path: string };

const FORMAT = "memferry-mount-1";

const labelSchema = z.strictObject({
  format: z.literal(FORMAT),
  store: z.string(),
  bytes: z.int().positive(),
  chunkBytes: z.int().positive(),
});

type Label = z.infer<typeof labelSchema>;

/** Opens a region over a cache; the rest is the mount's to say. */
export type OpenRegion = (
  given: Pick<RegionOptions, "store" | "state" | "bytes" | "chunkBytes">,
) => NativeRegion;

/**
 * Opens a cache, with what it has if that is the store's and can be relied on.
 *
 * @throws MigrationError `STORE_FAILED`: it is another store's, and has what that one lacks
 */
export async function openCache(
  place: CachePlace,
  store: Store,
  chunkBytes: number,
  openRegion: OpenRegion,
): Promise<NativeRegion> {
  const { bytes } = store;
  if (place.kind === "memory") return openRegion({ store: { kind: "memory" }, bytes, chunkBytes });
  const path = resolve(place.path);
  const labelPath = `${path}.memferry`;
  const label: Label = { format: FORMAT, store: store.name, bytes, chunkBytes };
  const found = await readLabel(labelPath);
  if (found !== undefined) {
    const kept = await reopen(path, found, openRegion);
    const isOurs = JSON.stringify(found) === JSON.stringify(label);
    if (kept !== undefined && isOurs) return kept;
    if (kept !== undefined) await requireNothingHeld(kept, labelPath, found.store);
  }
  const file = { kind: "file", path, create: true, reserve: false } as const;
  const made = openRegion({
    store: file,
    state: { path: `${path}.state`, mode: "create", writes: true },
    bytes,
    chunkBytes,
  });
  // Last: a label that is there names a file and a state that are.
  await writeFile(`${labelPath}.new`, `${JSON.stringify(label)}\n`, { mode: 0o600 });
  await rename(`${labelPath}.new`, labelPath);
  return made;
}

/** `undefined` where nothing of it can be relied on; then it is gone. */
async function reopen(
  path: string,
  label: Label,
  openRegion: OpenRegion,
): Promise<NativeRegion | undefined> {
  try {
    const region = openRegion({
      store: { kind: "file", path, create: false, reserve: false },
      state: { path: `${path}.state`, mode: "resume", writes: true },
      bytes: label.bytes,
      chunkBytes: label.chunkBytes,
    });
    if (region.restored === "exact") return region;
    await region.close();
  } catch (error) {
    // Another process has it: that one's bytes are not ours to remove.
    if (!(error instanceof NativeError) || error.code === "EBUSY") throw error;
  }
  for (const name of [`${path}.memferry`, `${path}.state`, path]) await rm(name, { force: true });
  return undefined;
}

async function requireNothingHeld(
  region: NativeRegion,
  labelPath: string,
  store: string,
): Promise<void> {
  const held = region.written().some((byte) => byte !== 0);
  await region.close();
  if (!held) {
    const path = labelPath.slice(0, -".memferry".length);
    for (const name of [labelPath, `${path}.state`, path]) await rm(name, { force: true });
    return;
  }
  throw new MigrationError(
    "STORE_FAILED",
    `the cache has bytes that were written to ${store} and are not there yet: mount that once more with this cache, or remove ${labelPath} to give them up`,
  );
}

async function readLabel(path: string): Promise<Label | undefined> {
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    throw new MigrationError("STORE_FAILED", `${path} cannot be read`, { cause: error });
  }
  try {
    return labelSchema.parse(JSON.parse(text));
  } catch (error) {
    throw new MigrationError(
      "STORE_FAILED",
      `${path} is damaged: if nothing of the cache is needed, remove it`,
      { cause: error },
    );
  }
}
