/**
 * Ten million damaged messages. `MEMFERRY_FUZZ` is their number, `MEMFERRY_FUZZ_SEED` decides which.
 */
import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { fileURLToPath } from "node:url";

import { expect, test } from "vitest";

const MAIN = fileURLToPath(new URL("../fuzz/main.ts", import.meta.url));
const CASES = Number(process.env["MEMFERRY_FUZZ"] ?? 10_000_000);
const SEED = process.env["MEMFERRY_FUZZ_SEED"] ?? "20261";

test(`${CASES} damaged messages are decoded or refused, cheaply, by every decoder`, async () => {
  const { stdout } = await promisify(execFile)(process.execPath, [
    MAIN,
    "--cases",
    String(CASES),
    "--seed",
    SEED,
  ]);
  console.log(stdout.trimEnd());
  expect(stdout).toContain(" 0 wrong,");
});
