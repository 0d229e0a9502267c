/**
 * What this process takes of its host. Where a figure cannot be had it is 0, and nothing is bounded by it.
 *
 * @module
 */
import { readdirSync, readFileSync } from "node:fs";

export interface Resources {
  readonly openFiles: number;
  readonly openFilesMax: number;
  readonly memoryBytes: number;
  /** Of the host, or of the control group if that is less. */
  readonly memoryBytesMax: number;
}

export function readResources(): Resources {
  return {
    openFiles: openFiles(),
    openFilesMax: numberIn("/proc/self/limits", /^Max open files\s+(\d+)/m),
    memoryBytes: 1024 * numberIn("/proc/self/status", /^VmRSS:\s+(\d+) kB/m),
    memoryBytesMax: memoryBytesMax(),
  };
}

function openFiles(): number {
  try {
    return readdirSync("/proc/self/fd").length;
  } catch {
    // No such place, or on Deno no right to look: not bounded.
    return 0;
  }
}

function memoryBytesMax(): number {
  const host = 1024 * numberIn("/proc/meminfo", /^MemTotal:\s+(\d+) kB/m);
  const group = numberIn("/sys/fs/cgroup/memory.max", /^(\d+)/);
  return group > 0 && (host === 0 || group < host) ? group : host;
}

function numberIn(file: string, pattern: RegExp): number {
  try {
    return Number(pattern.exec(readFileSync(file, "utf8"))?.[1] ?? 0);
  } catch {
    return 0;
  }
}
