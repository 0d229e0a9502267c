/**
 * Opens the store that is meant. The client of each kind of server is loaded only when it is.
 *
 * @module
 */
import { DirectoryStore } from "./directory-store.ts";
import { FileStore } from "./file-store.ts";
import { MemoryStore } from "./memory-store.ts";
import { requireFits, type OpenStoreOptions } from "./opening.ts";
import type { StoreSpec } from "./spec.ts";
import type { Store } from "./store.ts";

/** @throws StoreError */
export async function openStore(spec: StoreSpec, options: OpenStoreOptions): Promise<Store> {
  switch (spec.kind) {
    case "memory": {
      requireFits(`memory:${spec.bytes}`, spec, options);
      return new MemoryStore(spec.bytes, { blockBytes: options.blockBytes });
    }
    case "file":
      return await FileStore.open(spec.path, options);
    case "directory":
      return await DirectoryStore.open(spec.path, options);
    case "redis":
      return await (await import("./redis-store.ts")).RedisStore.open(spec, options);
    case "s3":
      return await (await import("./s3-store.ts")).S3Store.open(spec, options);
  }
}
