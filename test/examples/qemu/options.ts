/**
 * The command line of `npm run example:qemu`.
 *
 * @module
 */
import { parseArgs } from "node:util";

import { parseSize } from "../../../peer/cli/size.ts";

const MIB = 1024 * 1024;
/** Debian's kernel, the blob, and room for both. */
const MEMORY_BYTES_MIN = 128 * MIB;
const MODES = ["hybrid", "precopy", "postcopy"] as const;
const LINKS = ["auto", "webtransport", "websocket"] as const;

/** What the user can mend; its message says how. */
export class ExampleError extends Error {}

export interface ExampleOptions {
  readonly json: boolean;
  readonly memoryBytes: number;
  readonly mode: (typeof MODES)[number];
  readonly link: (typeof LINKS)[number];
  /** Default: Debian's package, downloaded. */
  readonly kernel: string | undefined;
}

export const HELP = `Usage: npm run example:qemu [-- OPTIONS]

Moves a running QEMU guest (emulated: no KVM is needed) from one memferry export to another, through a relay.
Its memory is a region, a file that QEMU maps; what its devices hold is a second region, which travels with it.
In the guest a counter runs, and a checksum of 16 MiB is made again and again: both must go on unchanged.

Options:
  --json             print one JSON object at the end and nothing else
  --memory SIZE      of the guest, from 128MiB in whole MiB; default 128MiB
  --mode MODE        hybrid, precopy or postcopy; default hybrid
  --link LINK        auto, webtransport or websocket; default auto
  --kernel FILE      a bzImage for x86-64; default: Debian's, downloaded once and not installed
  --help             show this help

Needed: /dev/fuse, QEMU, a static busybox, cpio; on Debian:
  apt-get install qemu-system-x86 busybox-static cpio kmod fuse3

The exit status is 0 only if the counter misses no number and the checksum is the same on both sides.
`;

/** @returns `undefined` if help was asked for. @throws ExampleError */
export function parseOptions(argv: readonly string[]): ExampleOptions | undefined {
  const values = parse(argv);
  if (values.help) return undefined;
  const memoryBytes = parseSize(values.memory);
  if (memoryBytes === undefined || memoryBytes < MEMORY_BYTES_MIN || memoryBytes % MIB !== 0) {
    throw new ExampleError(
      `--memory ${values.memory} is not a size from 128MiB in whole MiB: write it as 256MiB`,
    );
  }
  return {
    json: values.json,
    memoryBytes,
    mode: oneOf("--mode", values.mode, MODES),
    link: oneOf("--link", values.link, LINKS),
    kernel: values.kernel,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        json: { type: "boolean", default: false },
        memory: { type: "string", default: "128MiB" },
        mode: { type: "string", default: "hybrid" },
        link: { type: "string", default: "auto" },
        kernel: { type: "string" },
        help: { type: "boolean", short: "h", default: false },
      },
    }).values;
  } catch (cause) {
    const text = cause instanceof Error ? (cause.message.split(/[.\n]/)[0] ?? "") : String(cause);
    throw new ExampleError(`${text}: see npm run example:qemu -- --help`, { cause });
  }
}

function oneOf<T extends string>(option: string, value: string, values: readonly T[]): T {
  const found = values.find((candidate) => candidate === value);
  if (found === undefined) {
    throw new ExampleError(`${option} ${value} is not one of ${values.join(", ")}`);
  }
  return found;
}
