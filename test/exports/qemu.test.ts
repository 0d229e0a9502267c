/** What docs/examples/qemu.md says works, by the program that anyone can run. */
import path from "node:path";
import process from "node:process";

import { describe, expect, test, beforeEach } from "vitest";

import { requireGuest } from "../support/guest/guest.ts";
import { requireFuse, skipUnless } from "../support/requires.ts";
import { run } from "./support.ts";

const EXAMPLE = path.join(import.meta.dirname, "../examples/qemu/main.ts");

describe("a QEMU guest counts on, and its memory is as it was", () => {
  beforeEach((ctx) => skipUnless(ctx, requireFuse(), ...requireGuest()));

  test.each(["hybrid", "postcopy"])("%s", async (mode) => {
    const outcome: unknown = JSON.parse(
      await run(process.execPath, [EXAMPLE, "--json", "--mode", mode]),
    );
    expect(outcome).toMatchObject({ mode, countGoesOn: true, regionsEqual: true });
    const { blob, ticks, faults } = outcome as {
      blob: Record<"source" | "destination", string>;
      ticks: number;
      faults: number;
    };
    expect(blob.source).toMatch(/^[0-9a-f]{32}$/);
    expect(blob.destination).toBe(blob.source);
    expect(ticks).toBeGreaterThan(20);
    // Before the guest has run there, nothing of it is there.
    if (mode === "postcopy") expect(faults).toBeGreaterThan(0);
  });
});

test("what is missing or wrong is said, with what to type", async () => {
  const failure = async (
    args: readonly string[],
    environment: NodeJS.ProcessEnv = {},
  ): Promise<string> =>
    await run(process.execPath, [EXAMPLE, ...args], environment).then(
      () => "it ran",
      (error: unknown) => (error as { stderr: string }).stderr,
    );
  expect(await failure(["--memory", "5"])).toMatch(
    /^example:qemu: --memory 5 is not a size from 128MiB in whole MiB: write it as 256MiB\n$/,
  );
  expect(await failure(["--fast"])).toMatch(/^example:qemu: .*--fast.*: see npm run example:qemu/);
  expect(await failure(["--kernel", "/nowhere/bzImage"])).toMatch(/there is no such file|install/);
  expect(await failure([], { PATH: path.dirname(process.execPath) })).toMatch(
    /no qemu-system-x86_64 here; install it: .*qemu-system-x86/,
  );
});
