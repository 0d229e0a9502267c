/**
 * How a local program sees a region: `--export KIND:PLACE`.
 *
 * @module
 */
import {
  NativeError,
  type FuseMount,
  type NativeAddon,
  type NativeRegion,
} from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import type { DirtySource } from "../region/region.ts";

export interface ExportSpec {
  readonly kind: "fuse";
  readonly directory: string;
}

/** @throws MigrationError `USAGE` */
export function parseExport(text: string): ExportSpec {
  const match = /^fuse:(.+)$/s.exec(text);
  if (match?.[1] === undefined) {
    throw new MigrationError("USAGE", `--export ${text} is unknown: use fuse:DIR`);
  }
  return { kind: "fuse", directory: match[1] };
}

/** @throws MigrationError `USAGE` if this host does not let us mount, or not there */
export function openExport(addon: NativeAddon, spec: ExportSpec): FuseMount {
  const probe = addon.probeFuse();
  if (!probe.available) {
    throw new MigrationError(
      "USAGE",
      `--export fuse: ${probe.reason ?? "FUSE does not work here"}: ${probe.remedy ?? "leave --export out"}`,
    );
  }
  try {
    return addon.mountFuse({ directory: spec.directory });
  } catch (cause) {
    if (!(cause instanceof NativeError)) throw cause;
    throw new MigrationError("USAGE", `--export fuse:${spec.directory}: ${mountFailure(cause)}`, {
      cause,
    });
  }
}

function mountFailure({ code, message }: NativeError): string {
  switch (code) {
    case "ENOTEMPTY":
      return "the folder is not empty: give an empty one";
    case "ENOENT":
      return "there is no such folder: make it first";
    case "ENOTDIR":
      return "it is not a folder: give an empty one";
    case "EBUSY":
      return "something is mounted there already: give another folder";
    default:
      return message;
  }
}

/**
 * Writes that come through our export: the addon marks them, exactly.
 *
 * What a program wrote into a mapping is in the kernel's page cache until it is flushed, so each look begins
 * with a flush. To hold the workload still, reads stop first (nothing can fault a page in any more), then the
 * cache is flushed and dropped, then writes stop: a mapping that is touched after that waits for us.
 */
export class ExportedWrites implements DirtySource {
  readonly #region: NativeRegion;
  readonly #mount: FuseMount;
  readonly #name: string;

  constructor(region: NativeRegion, mount: FuseMount, name: string) {
    this.#region = region;
    this.#mount = mount;
    this.#name = name;
  }

  async begin(): Promise<void> {
    await this.collect();
  }

  async collect(): Promise<Uint8Array> {
    if (this.#region.gate === "open") await this.#mount.flush(this.#name);
    return this.#region.takeDirty();
  }

  async freeze(): Promise<void> {
    this.#region.setGate("draining");
    await this.#mount.invalidate(this.#name);
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
