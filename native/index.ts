/**
 * The only face of the addon: finds it, loads it once, and says what to do where it cannot.
 *
 * @module
 */
import { existsSync, readdirSync } from "node:fs";
import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { NativeError } from "./errors.ts";
import type { NativeAddon } from "./types.ts";

export { NativeError } from "./errors.ts";
export type { NativeErrorDetails } from "./errors.ts";
export { StoreOutcome, ZERO_CHUNK } from "./types.ts";
export type {
  DirectConnectOptions,
  DirectEvents,
  DirectSocket,
  DirectSocketOptions,
  DirectStats,
  FuseMount,
  FuseMountOptions,
  FuseProbe,
  Gate,
  MapOptions,
  NativeAddon,
  NativeRegion,
  NbdAddress,
  NbdDevice,
  NbdDeviceOptions,
  NbdServer,
  NbdServerOptions,
  ReadResult,
  RegionMapping,
  RegionOptions,
  RegionStats,
  RegionStore,
  SocketFacts,
  StoreRequest,
  UffdProbe,
  UffdServer,
  UffdServerOptions,
} from "./types.ts";

/** What the binary exports: the contract, and the hand-over of our error class. */
interface Binary extends NativeAddon {
  initialize(errorClass: typeof NativeError): void;
}

let loaded: NativeAddon | undefined;

/**
 * Loads the addon at the first call: the platform package, else a prebuilt binary in `native/`,
 * else what `npm run native` built.
 *
 * @throws NativeError `ENOADDON`, with every attempt in `cause`.
 */
export function loadNative(): NativeAddon {
  loaded ??= load();
  return loaded;
}

/**
 * The library that makes a mapping of an unmodified program a region: `LD_PRELOAD` it. It lies beside the addon.
 *
 * @throws NativeError `ENOADDON`
 */
export function shimPath(): string {
  const require = createRequire(import.meta.url);
  for (const candidate of candidates()) {
    try {
      const path = join(dirname(require.resolve(candidate)), "memferry-shim.so");
      if (existsSync(path)) return path;
    } catch {
      // The package of this platform is not installed.
    }
  }
  throw new NativeError("ENOADDON", "no memferry-shim.so here; build it with: npm run native");
}

function load(): NativeAddon {
  const require = createRequire(import.meta.url);
  const attempts: Error[] = [];
  for (const candidate of candidates()) {
    try {
      // The module comes from our own build, so its shape is the contract's.
      const binary = require(candidate) as Binary;
      binary.initialize(NativeError);
      return binary;
    } catch (error) {
      attempts.push(error instanceof Error ? error : new Error(String(error)));
    }
  }
  // A package that is not installed is no news; a binary that is there and fails is.
  const told = attempts.find((error) => !("code" in error && error.code === "MODULE_NOT_FOUND"));
  const why = told === undefined ? "" : `: ${told.message.split("\n", 1)[0] ?? ""}`;
  throw new NativeError(
    "ENOADDON",
    `no native addon for ${process.platform}-${process.arch}${why}; build it with: npm run native`,
    { cause: new AggregateError(attempts, "every place was tried") },
  );
}

function candidates(): string[] {
  const { platform, arch } = process;
  const local = (path: string): string => fileURLToPath(new URL(path, import.meta.url));
  // This file is in `native/`, or compiled in `dist/native/`.
  const files = [".", "../../native"].flatMap((folder) => [
    local(`${folder}/prebuilds/${platform}-${arch}/memferry.node`),
    local(`${folder}/build/memferry.node`),
  ]);
  return [
    `@memferry/native-${platform}-${arch}-${libc()}`,
    ...files.filter((file) => existsSync(file)),
  ];
}

/** `musl` where its dynamic loader is installed, as on Alpine; `process.report` has it too, but takes 50 ms. */
function libc(): "glibc" | "musl" {
  try {
    return readdirSync("/lib").some((name) => name.startsWith("ld-musl-")) ? "musl" : "glibc";
  } catch {
    return "glibc"; // no /lib: no musl either
  }
}
