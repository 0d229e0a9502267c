/**
 * The exports of one command: made new, or taken over from a process that was killed.
 *
 * @module
 */
import type { FuseMount, NativeRegion } from "../../native/index.ts";
import type { Holdings } from "../supervisor/held.ts";
import { FusePlace } from "./fuse.ts";
import { LoopPlace } from "./loop.ts";
import { NbdKernelPlace } from "./nbd-kernel.ts";
import { NbdPlace } from "./nbd.ts";
import type { NbdTlsOptions } from "./nbd-tls.ts";
import type { ExportPlace, ShownAs } from "./place.ts";
import type { PeerPath } from "./read-ahead.ts";
import { formatExport, type ExportSpec } from "./spec.ts";
import { UffdPlace } from "./uffd.ts";

export interface ExportSettings {
  readonly holdings: Holdings;
  /** The folder of the session: whose devices they are. */
  readonly session: string;
  /** For every NBD server among them. */
  readonly tls?: NbdTlsOptions;
}

export class Exports {
  readonly #places = new Map<string, ExportPlace>();

  /** @throws MigrationError `USAGE`: what is wrong with a place */
  open(specs: readonly ExportSpec[], settings: ExportSettings): void {
    for (const spec of specs) {
      const key = formatExport(spec);
      if (!this.#places.has(key)) this.#places.set(key, makePlace(spec, settings));
    }
  }

  get any(): boolean {
    return this.#places.size > 0;
  }

  /** Those that a successor of this process can take over. */
  get mounts(): FuseMount[] {
    return [...this.#places.values()].flatMap(({ mount }) => (mount === undefined ? [] : [mount]));
  }

  /** Shows the region at its place. */
  add(spec: ExportSpec, name: string, region: NativeRegion, shown: ShownAs = {}): ExportPlace {
    const place = this.#places.get(formatExport(spec));
    if (place === undefined) throw new Error(`${formatExport(spec)} was not opened`);
    place.add(name, region, shown);
    return place;
  }

  /** @returns Whether everybody who waited for the process before this one is heard. */
  serve(): boolean {
    return [...this.#places.values()].map((place) => place.serve()).every(Boolean);
  }

  async attach(): Promise<void> {
    for (const place of this.#places.values()) await place.attach();
  }

  /** What is still in programs' own memory is in the regions when this resolves. The gates must let writes pass. */
  async settle(): Promise<void> {
    await Promise.all([...this.#places.values()].map(async (place) => await place.settle?.()));
  }

  /** How far away is what is missing here; `undefined`: nothing is. */
  follow(path: PeerPath | undefined): void {
    for (const place of this.#places.values()) place.follow?.(path);
  }

  async close(): Promise<void> {
    await Promise.all([...this.#places.values()].map((place) => place.close()));
    this.#places.clear();
  }
}

function makePlace(spec: ExportSpec, { holdings, session, tls }: ExportSettings): ExportPlace {
  switch (spec.kind) {
    case "fuse":
      return new FusePlace(spec.directory, holdings);
    case "nbd":
      return new NbdPlace(spec.address, tls);
    case "nbd-kernel":
      return new NbdKernelPlace(spec.device, session);
    case "loop":
      return new LoopPlace(spec.device, holdings);
    case "uffd":
      return new UffdPlace(spec.path);
    case "file":
      throw new Error(`${spec.path} is used without us`);
  }
}
