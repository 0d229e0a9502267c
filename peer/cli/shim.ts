/**
 * `memferry shim`: where the library lies that makes a mapping of an unmodified program a region.
 *
 * @module
 */
import { shimPath } from "../../native/index.ts";
import type { Arguments, CommandSpec } from "./command-line.ts";
import { ExitCode, type ExitCodeValue } from "./exit-code.ts";
import type { Output } from "./output.ts";

export const shimSpec: CommandSpec = {
  name: "shim",
  usage: "[options]",
  summary: "Prints the path of the library to preload for `--export uffd:unix:PATH`.",
  positionalsMax: 0,
  options: {},
  examples: [
    [
      "LD_PRELOAD=$(memferry shim) MEMFERRY_UFFD=/run/heap.sock MEMFERRY_MAP=anon:256MiB app",
      "the first anonymous mapping of 256 MiB that app makes is the region",
    ],
    [
      "LD_PRELOAD=$(memferry shim) MEMFERRY_UFFD=/run/heap.sock MEMFERRY_MAP=file:/srv/data.bin app",
      "its mapping of that file is",
    ],
  ],
  notes: ["docs/exports.md says what it can follow, and what it cannot."],
};

export function shim(_: Arguments, output: Output): Promise<ExitCodeValue> {
  const path = shimPath();
  output.event({ event: "shim", path });
  output.result(path);
  return Promise.resolve(ExitCode.done);
}
