/**
 * Writes to a region of this process: through its memory, and through any export of it.
 *
 * @module
 */
import type { NativeRegion } from "../../native/index.ts";
import type { DirtySource } from "../region/region.ts";

/** What only the thread can do that made the exports. */
export interface RegionKeeper {
  flush(): Promise<void>;
  invalidate(): Promise<void>;
  /** Takes the region's memory from the workload. */
  letGo(): Promise<void>;
}

/**
 * Every store is found, whichever way it took: exports mark what they write, and a flush of the mappings marks what
 * was stored through memory. Only the suspend hook can hold memory itself still: a store after it is not seen.
 */
export class MappedWrites implements DirtySource {
  readonly #region: NativeRegion;
  readonly #keeper: RegionKeeper;

  constructor(region: NativeRegion, keeper: RegionKeeper) {
    this.#region = region;
    this.#keeper = keeper;
  }

  async begin(): Promise<void> {
    await this.collect();
  }

  async collect(): Promise<Uint8Array> {
    if (this.#region.gate === "open") {
      await Promise.all([this.#keeper.flush(), this.#region.flushMappings()]);
    }
    return this.#region.takeDirty();
  }

  async freeze(): Promise<void> {
    // While reads pass: to write a file system back, the kernel may have to read.
    await this.#keeper.flush();
    this.#region.setGate("draining");
    await this.#keeper.invalidate();
    await this.#region.flushMappings();
    this.#region.setGate("closed");
    await this.#region.quiesce();
  }

  thaw(): void {
    this.#region.setGate("open");
  }

  fence(): void {
    const fence = (): void => this.#region.setGate("fenced");
    // Whoever touched memory of a fenced region would be ended by a signal: it is taken away first. A caller that
    // does not answer broke its word not to touch it.
    this.#keeper.letGo().then(fence, fence);
  }
}
