/**
 * The demo's command line.
 *
 * @module
 */
import { tmpdir } from "node:os";
import path from "node:path";
import { parseArgs } from "node:util";

import { parseSize } from "../cli/size.ts";
import { DemoError } from "./errors.ts";
import { PAGE_BYTES } from "./ledger-layout.ts";

const SIZE_DEFAULT = "256MiB";
const SIZE_BYTES_MIN = 1024 * 1024;
/** Room for the database to grow: minutes of writing at the default rate. */
const HEADROOM_BYTES_MIN = 64 * 1024 * 1024;
const ROWS_PER_SECOND_DEFAULT = 1_000;
const ROWS_PER_SECOND_MAX = 1_000_000;

const LINKS = ["auto", "webtransport", "websocket"] as const;
const RUNTIMES = ["node", "deno"] as const;

export interface DemoOptions {
  readonly json: boolean;
  readonly stay: boolean;
  readonly link: (typeof LINKS)[number];
  readonly relayRuntime: (typeof RUNTIMES)[number];
  readonly rowsPerSecond: number;
  /** Of the database, before the writer adds to it. */
  readonly databaseBytes: number;
  /** Of the file that it lives in. */
  readonly regionBytes: number;
  readonly directory: string;
  readonly export: boolean;
  /** Where everything goes that the processes say; absent for nowhere. */
  readonly trace: string | undefined;
}

export const HELP = `Usage: npm run demo [-- OPTIONS]

Moves a SQLite database from one memferry peer to another, through a relay, while a program that knows
nothing of it writes to the database; then checks that nothing was lost on the way.

Options:
  --json                  print one JSON object at the end and nothing else
  --stay                  leave the relay, the destination and a writer running until Ctrl-C
  --link LINK             auto, webtransport or websocket; default auto
  --relay-runtime NAME    what the relay runs on: node or deno; default node
  --rows-per-second N     how fast the program writes, if the machine can; default ${ROWS_PER_SECOND_DEFAULT}
  --size SIZE             data that is there before, e.g. 1GiB; default ${SIZE_DEFAULT}
  --dir PATH              where the temporary files go; default ${tmpdir()}
  --no-export             migrate plain files, as where FUSE is not to be had
  --trace FILE            write all that the processes say to a file, one JSON object per line
  --help                  show this help

The exit status is 0 only if the region is identical on both sides, SQLite finds its database intact, and
every row is there exactly once.
`;

/** @returns `undefined` if help was asked for. @throws DemoError */
export function parseOptions(argv: readonly string[]): DemoOptions | undefined {
  const values = parse(argv);
  if (values.help) return undefined;
  const databaseBytes = parseSize(values.size);
  if (databaseBytes === undefined || databaseBytes < SIZE_BYTES_MIN) {
    throw new DemoError(
      `--size ${values.size} is not a size from 1MiB up: write it as 256MiB or 1GiB`,
    );
  }
  const rowsPerSecond = Number(values["rows-per-second"]);
  if (!(rowsPerSecond >= 1 && rowsPerSecond <= ROWS_PER_SECOND_MAX)) {
    throw new DemoError(
      `--rows-per-second ${values["rows-per-second"]} is not a number from 1 to ${ROWS_PER_SECOND_MAX}`,
    );
  }
  const headroom = Math.max(HEADROOM_BYTES_MIN, databaseBytes / 4);
  return {
    json: values.json,
    stay: values.stay,
    link: oneOf("--link", values.link, LINKS),
    relayRuntime: oneOf("--relay-runtime", values["relay-runtime"], RUNTIMES),
    rowsPerSecond,
    databaseBytes,
    regionBytes: Math.ceil((databaseBytes + headroom) / PAGE_BYTES) * PAGE_BYTES,
    directory: path.resolve(values.dir),
    export: !values["no-export"],
    trace: values.trace,
  };
}

function parse(argv: readonly string[]) {
  try {
    return parseArgs({
      args: [...argv],
      options: {
        json: { type: "boolean", default: false },
        stay: { type: "boolean", default: false },
        link: { type: "string", default: "auto" },
        "relay-runtime": { type: "string", default: "node" },
        "rows-per-second": { type: "string", default: String(ROWS_PER_SECOND_DEFAULT) },
        size: { type: "string", default: SIZE_DEFAULT },
        dir: { type: "string", default: tmpdir() },
        trace: { type: "string" },
        "no-export": { type: "boolean", default: false },
        help: { type: "boolean", short: "h", default: false },
      },
    }).values;
  } catch (cause) {
    const text = cause instanceof Error ? (cause.message.split(/[.\n]/)[0] ?? "") : String(cause);
    throw new DemoError(`${text}: see npm run demo -- --help`, { cause });
  }
}

function oneOf<T extends string>(option: string, value: string, values: readonly T[]): T {
  const found = values.find((candidate) => candidate === value);
  if (found === undefined) {
    throw new DemoError(`${option} ${value} is not one of ${values.join(", ")}`);
  }
  return found;
}
