/**
 * Regions as block devices where the kernel has no NBD: a loop device over a file of a FUSE mount of our own.
 *
 * The loop device reads and writes that file directly, so nothing is cached twice, and nothing is put into its cache. `losetup` attaches and detaches;
 * it opens the file in a process of its own, which the one that serves the file must never do on its main thread.
 *
 * @module
 */
import { execFile } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import { promisify } from "node:util";
import type { FuseMount, NativeRegion } from "../../native/index.ts";
import { loadNative } from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { MigrationError } from "../errors.ts";
import type { Holdings } from "../supervisor/held.ts";
import { DEVICE_READ_AHEAD_BYTES, tune, unfitForDevice, writeBack } from "./block-device.ts";
import { mountFuse } from "./fuse.ts";
import type { ExportPlace, ShownAs } from "./place.ts";
import { ReadAhead, type PeerPath } from "./read-ahead.ts";

const run = promisify(execFile);

const FOLDER_PREFIX = "memferry-loop-";
/** A mount that says nothing for so long is somebody's who is busy, and not ours to touch. */
const LOOK_MS = 2_000;

export class LoopPlace implements ExportPlace {
  readonly mount: FuseMount;
  readonly #wanted: string;
  // In force when a device is attached: see `tune`.
  readonly #readAhead = new ReadAhead(DEVICE_READ_AHEAD_BYTES, () => undefined);
  readonly #devices = new Map<string, string>();
  readonly #names: string[] = [];
  readonly #readOnly = new Set<string>();

  /** @param wanted `auto`, or the device. @throws MigrationError `USAGE` */
  constructor(wanted: string, holdings: Holdings) {
    this.#wanted = wanted;
    const prefix = join(tmpdir(), `${FOLDER_PREFIX}${basename(wanted)}-`);
    // Of the process before this one, if it was killed.
    const [kept] = Object.entries(holdings.mounts).filter(([path]) => path.startsWith(prefix));
    if (kept !== undefined) {
      const [directory, channels] = kept;
      this.mount = loadNative().mountFuse({ directory, channels, warm: false });
      return;
    }
    requireFree(wanted);
    const directory = mkdtempSync(prefix);
    chmodSync(directory, 0o700);
    try {
      this.mount = mountFuse(directory, { what: `--export loop:${wanted}`, warm: false });
    } catch (error) {
      rmdirSync(directory);
      throw error;
    }
  }

  add(name: string, region: NativeRegion, { readOnly = false }: ShownAs = {}): void {
    const about = { name, bytes: region.bytes, shown: this.#names.length };
    const why = unfitForDevice(about, "loop", this.#wanted);
    if (why !== undefined) throw this.#failure(why);
    this.mount.add(name, region, { readOnly });
    this.#names.push(name);
    if (readOnly) this.#readOnly.add(name);
  }

  pathOf(name: string): string {
    return this.#devices.get(name) ?? (this.#wanted === "auto" ? "/dev/loop?" : this.#wanted);
  }

  serve(): boolean {
    return this.mount.serve();
  }

  async attach(): Promise<void> {
    await releaseStale();
    for (const name of this.#names) {
      const file = join(this.mount.directory, name);
      const device = (await attachedTo(file)) ?? (await this.#attach(name, file));
      this.#devices.set(name, device);
      await tune(device, this.#readAhead.bytes);
    }
  }

  follow(path: PeerPath | undefined): void {
    this.#readAhead.follow(path);
  }

  async flush(name: string): Promise<void> {
    const device = this.#devices.get(name);
    if (device !== undefined) await writeBack(device);
    await this.mount.flush(name);
  }

  invalidate(name: string): Promise<void> {
    return this.mount.invalidate(name);
  }

  async close(): Promise<void> {
    const failures: string[] = [];
    for (const device of this.#devices.values()) {
      // Of a device in use this is remembered: it goes when its last user does.
      await run("losetup", ["--detach", device]).catch((error: unknown) =>
        failures.push(messageOf(error)),
      );
    }
    await this.mount.unmount();
    if (existsSync(this.mount.directory)) rmdirSync(this.mount.directory);
    if (failures.length > 0) throw this.#failure(failures.join("; "));
  }

  async #attach(name: string, file: string): Promise<string> {
    const where = this.#wanted === "auto" ? ["--find", "--show"] : [this.#wanted];
    const how = this.#readOnly.has(name) ? ["--read-only"] : [];
    try {
      const { stdout } = await run("losetup", ["--direct-io=on", ...how, ...where, file]);
      return this.#wanted === "auto" ? stdout.trim() : this.#wanted;
    } catch (cause) {
      const text = messageOf(cause);
      const why = text.includes("ENOENT")
        ? "losetup is not installed: apt-get install mount"
        : /permission|not permitted/i.test(text)
          ? "only root may attach a loop device: use sudo, or fuse:DIR"
          : (text.split("\n").at(1) ?? text);
      throw this.#failure(why, cause);
    }
  }

  #failure(why: string, cause?: unknown): MigrationError {
    return new MigrationError("USAGE", `--export loop:${this.#wanted}: ${why}`, { cause });
  }
}

/** The device that shows a file already: of a process that was killed. */
async function attachedTo(file: string): Promise<string | undefined> {
  const { stdout } = await run("losetup", [
    "--associated",
    file,
    "--noheadings",
    "--output",
    "NAME",
  ]);
  const [device] = stdout.trim().split("\n");
  return device === "" ? undefined : device;
}

/** Devices over mounts whose server was killed together with who could have gone on: nobody will answer there again. */
async function releaseStale(): Promise<void> {
  for (const name of readdirSync("/sys/block").filter((entry) => /^loop\d+$/.test(entry))) {
    const backing = `/sys/block/${name}/loop/backing_file`;
    const file = existsSync(backing) ? readFileSync(backing, "utf8").trim() : "";
    const folder = dirname(file);
    if (!basename(folder).startsWith(FOLDER_PREFIX) || !(await isDead(folder))) continue;
    // Best effort, one after the other: a device that is still in use goes when its last user does.
    for (const [command, ...args] of [
      ["losetup", "--detach", `/dev/${name}`],
      ["umount", "--lazy", folder],
      ["rmdir", folder],
    ] as const) {
      await run(command, args).catch(() => undefined);
    }
  }
}

/** Asked in another process: this one must not wait for a mount. */
async function isDead(folder: string): Promise<boolean> {
  return await run("env", ["LC_ALL=C", "stat", folder], { timeout: LOOK_MS }).then(
    () => false,
    (error: unknown) => messageOf(error).includes("endpoint is not connected"),
  );
}

/** @throws MigrationError `USAGE` */
function requireFree(device: string): void {
  const fail = (why: string): never => {
    throw new MigrationError("USAGE", `--export loop:${device}: ${why}`);
  };
  if (device !== "auto" && !/^\/dev\/loop\d+$/.test(device))
    fail("write loop:auto or loop:/dev/loopN");
  if (!existsSync("/dev/loop-control")) fail("no /dev/loop-control here: run sudo modprobe loop");
  if (existsSync(`/sys/block/${basename(device)}/loop/backing_file`)) {
    fail("the device is in use: give another one, or loop:auto");
  }
}
