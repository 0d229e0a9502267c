/**
 * What this host can do, without a word to anybody.
 *
 * @module
 */
import { accessSync, constants, existsSync, readFileSync, statfsSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";

import { loadNative } from "../../native/index.ts";
import { messageOf } from "../../relay/protocol/errors.ts";
import { searchPath } from "../config.ts";
import { loadWebTransportClient } from "../net/webtransport.ts";
import type { HostSnapshot, Probed } from "./snapshot.ts";

/** @param stateDirectory Need not exist yet. */
export async function probeHost(stateDirectory: string): Promise<HostSnapshot> {
  const limits = readText("/proc/self/limits") ?? "";
  const sysctl = (name: string): string | undefined =>
    readText(`/proc/sys/${name.replaceAll(".", "/")}`)?.trim();
  const number = (text: string | undefined): number | undefined =>
    text !== undefined && /^\d+$/.test(text) ? Number(text) : undefined;
  const client = await loadWebTransportClient();
  return {
    nodeVersion: process.versions.node,
    kernel: sysctl("kernel.osrelease") ?? "unknown",
    native: probed(() => {
      const addon = loadNative();
      return { uffd: addon.probeUffd(), fuse: addon.probeFuse() };
    }),
    hasFuseDevice: existsSync("/dev/fuse"),
    hasFusermount: isProgram("fusermount3"),
    hasNbd: existsSync("/sys/module/nbd") || existsSync("/dev/nbd0"),
    hasLoop: existsSync("/dev/loop-control"),
    webTransport: "unavailable" in client ? client : { name: client.name },
    hasBufferutil: isInstalled("bufferutil"),
    openFilesMax: softLimit(limits, "Max open files"),
    lockedBytesMax: softLimit(limits, "Max locked memory"),
    receiveBytesDefault: number(sysctl("net.core.rmem_default")),
    receiveBytesMax: number(sysctl("net.core.rmem_max")),
    sendBytesMax: number(sysctl("net.core.wmem_max")),
    tcpSendBytesMax: number(sysctl("net.ipv4.tcp_wmem")?.split(/\s+/)[2]),
    congestionControls: (sysctl("net.ipv4.tcp_available_congestion_control") ?? "")
      .split(/\s+/)
      .filter((name) => name !== ""),
    state: probed(() => {
      const { bavail, bsize } = statfsSync(nearest(stateDirectory));
      return { directory: stateDirectory, freeBytes: bavail * bsize };
    }),
  };
}

function probed<T>(work: () => T): Probed<T> {
  try {
    return { value: work() };
  } catch (error) {
    const code = error instanceof Error && "code" in error ? String(error.code) : "INTERNAL";
    return { problem: { code, message: messageOf(error) } };
  }
}

/** `Max open files   1024   4096   files`: the first number is the soft limit. */
export function softLimit(limits: string, name: string): number | undefined {
  const line = limits.split("\n").find((one) => one.startsWith(name));
  const [soft = ""] = line?.slice(name.length).trim().split(/\s+/) ?? [];
  if (soft === "unlimited") return Infinity;
  return /^\d+$/.test(soft) ? Number(soft) : undefined;
}

function readText(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8");
  } catch {
    return undefined;
  }
}

function isProgram(name: string): boolean {
  return searchPath()
    .split(delimiter)
    .some((folder) => {
      try {
        accessSync(join(folder, name), constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}

function isInstalled(name: string): boolean {
  try {
    import.meta.resolve(name);
    return true;
  } catch {
    return false;
  }
}

/** The folder itself, or the first above it that is there. */
function nearest(directory: string): string {
  let at = directory;
  while (!existsSync(at) && dirname(at) !== at) at = dirname(at);
  return at;
}
