/**
 * Regions as block devices of the kernel's own NBD client: `/dev/nbdN`.
 *
 * A device says in `/sys/block/nbdN/backend` whose it is, so a peer that is started again finds its own, which has
 * kept who reads from it waiting, and goes on; and what nobody will go on with is let go.
 *
 * @module
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { loadNative, NativeError, type NativeRegion, type NbdDevice } from "../../native/index.ts";
import { MigrationError } from "../errors.ts";
import { DEVICE_READ_AHEAD_BYTES, tune, unfitForDevice, writeBack } from "./block-device.ts";
import type { ExportPlace, ShownAs } from "./place.ts";
import { ReadAhead, type PeerPath } from "./read-ahead.ts";

const PREFIX = "memferry:";

export class NbdKernelPlace implements ExportPlace {
  readonly #wanted: string;
  readonly #session: string;
  // In force when a device is attached: see `tune`.
  readonly #readAhead = new ReadAhead(DEVICE_READ_AHEAD_BYTES, () => undefined);
  readonly #regions = new Map<
    string,
    { readonly region: NativeRegion; readonly readOnly: boolean }
  >();
  readonly #devices = new Map<string, NbdDevice>();

  /**
   * @param wanted `auto`, or the device.
   * @param session The folder of the session, which is there as long as somebody may go on with it.
   * @throws MigrationError `USAGE`
   */
  constructor(wanted: string, session: string) {
    this.#wanted = wanted;
    this.#session = session;
    if (wanted !== "auto" && !/^\/dev\/nbd\d+$/.test(wanted)) {
      throw this.#failure("write nbd:auto or nbd:/dev/nbdN");
    }
    if (!existsSync("/sys/block/nbd0") && !existsSync("/sys/module/nbd")) {
      throw this.#failure(
        "this kernel has no NBD client loaded: run sudo modprobe nbd, or use loop:auto",
      );
    }
    if (wanted !== "auto" && !existsSync(`/sys/block/${wanted.slice(5)}`)) {
      throw this.#failure(
        "there is no such device: run sudo modprobe nbd nbds_max=64, or nbd:auto",
      );
    }
  }

  add(name: string, region: NativeRegion, { readOnly = false }: ShownAs = {}): void {
    const about = { name, bytes: region.bytes, shown: this.#regions.size };
    const why = unfitForDevice(about, "nbd", this.#wanted);
    if (why !== undefined) throw this.#failure(why);
    this.#regions.set(name, { region, readOnly });
  }

  pathOf(name: string): string {
    return this.#devices.get(name)?.path ?? (this.#wanted === "auto" ? "/dev/nbd?" : this.#wanted);
  }

  serve(): boolean {
    return true;
  }

  async attach(): Promise<void> {
    await releaseStale(this.#session);
    for (const [name, { region, readOnly }] of this.#regions) {
      const identifier = `${PREFIX}${this.#session}#${name}`;
      const own = attachedDevices().find((device) => device.identifier === identifier);
      const wanted = this.#wanted === "auto" ? undefined : Number(this.#wanted.slice(8));
      const index = own?.index ?? wanted;
      try {
        const device = await loadNative().attachNbd(region, {
          identifier,
          again: own !== undefined,
          readOnly,
          ...(index === undefined ? {} : { index }),
        });
        this.#devices.set(name, device);
        if (own === undefined) await tune(device.path, this.#readAhead.bytes);
      } catch (cause) {
        if (!(cause instanceof NativeError)) throw cause;
        throw this.#failure(cause.message, cause);
      }
    }
  }

  follow(path: PeerPath | undefined): void {
    this.#readAhead.follow(path);
  }

  async flush(name: string): Promise<void> {
    const device = this.#devices.get(name);
    if (device !== undefined) await writeBack(device.path);
  }

  // The page cache of a device cannot be taken from who maps it; who is suspended does not use it.
  invalidate(): Promise<void> {
    return Promise.resolve();
  }

  async close(): Promise<void> {
    for (const device of this.#devices.values()) await device.detach();
    this.#devices.clear();
  }

  #failure(why: string, cause?: unknown): MigrationError {
    return new MigrationError("USAGE", `--export nbd:${this.#wanted}: ${why}`, { cause });
  }
}

interface Attached {
  readonly index: number;
  readonly pid: number;
  readonly identifier: string;
}

function attachedDevices(): Attached[] {
  const found: Attached[] = [];
  for (const name of readdirSync("/sys/block")) {
    const index = /^nbd(\d+)$/.exec(name)?.[1];
    const pid = index === undefined ? undefined : textOf(`/sys/block/${name}/pid`);
    if (index === undefined || pid === undefined) continue;
    const identifier = textOf(`/sys/block/${name}/backend`) ?? "";
    found.push({ index: Number(index), pid: Number(pid), identifier });
  }
  return found;
}

/** Devices of processes that are gone, of sessions that nobody can go on with. */
async function releaseStale(session: string): Promise<void> {
  for (const { index, pid, identifier } of attachedDevices()) {
    if (!identifier.startsWith(PREFIX) || existsSync(`/proc/${pid}`)) continue;
    const folder = identifier.slice(PREFIX.length, identifier.lastIndexOf("#"));
    if (folder !== session && !existsSync(folder)) await loadNative().disconnectNbd(index);
  }
}

function textOf(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8").trim();
  } catch {
    return undefined; // the device is not attached
  }
}
