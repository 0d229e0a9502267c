/**
 * Writes that come through our export: the addon marks them, exactly.
 *
 * @module
 */
import type { NativeRegion } from "../../native/index.ts";
import type { DirtySource } from "../region/region.ts";
import type { ExportPlace } from "./place.ts";

/**
 * What a program wrote into a mapping is in the kernel's page cache until it is flushed, so each look begins
 * with a flush. To hold the workload still, reads stop first (nothing can fault a page in any more), then the
 * cache is flushed and dropped, then writes stop: a mapping that is touched after that waits for us.
 */
export class ExportedWrites implements DirtySource {
  readonly #region: NativeRegion;
  readonly #place: Pick<ExportPlace, "flush" | "invalidate">;
  readonly #name: string;

  constructor(
    region: NativeRegion,
    place: Pick<ExportPlace, "flush" | "invalidate">,
    name: string,
  ) {
    this.#region = region;
    this.#place = place;
    this.#name = name;
  }

  async begin(): Promise<void> {
    await this.collect();
  }

  async collect(): Promise<Uint8Array> {
    if (this.#region.gate === "open") await this.#place.flush(this.#name);
    return this.#region.takeDirty();
  }

  async freeze(): Promise<void> {
    // While reads pass: to write a file system back, the kernel may have to read.
    await this.#place.flush(this.#name);
    this.#region.setGate("draining");
    await this.#place.invalidate(this.#name);
    this.#region.setGate("closed");
    await this.#region.quiesce();
  }

  thaw(): void {
    this.#region.setGate("open");
  }

  fence(): void {
    this.#region.setGate("fenced");
  }
}
