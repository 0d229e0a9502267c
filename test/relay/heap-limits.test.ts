import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

import fc from "fast-check";
import { describe, expect, inject, it } from "vitest";

import { growthPercent } from "../../relay/heap-limits.ts";

const MIB = 1024 * 1024;

describe("growthPercent()", () => {
  it("gives a small heap room for the garbage, and leaves a large one to V8", () => {
    expect(growthPercent(16 * MIB, 256 * MIB)).toBe(1600);
    expect(growthPercent(256 * MIB, 256 * MIB)).toBe(0);
  });

  it("never lets more gather than is allowed", () => {
    fc.assert(
      fc.property(fc.nat(2 ** 34), fc.nat(2 ** 30), (alive, garbage) => {
        const percent = growthPercent(alive, garbage);
        expect((percent / 100) * alive).toBeLessThanOrEqual(garbage);
        expect(Number.isInteger(percent) && percent >= 0).toBe(true);
      }),
    );
  });
});

describe("a process that moves data through short-lived buffers", () => {
  const MODULE = fileURLToPath(new URL("../../relay/heap-limits.ts", import.meta.url));
  /** Whole collections of the heap while 3 GiB of buffers come and go, 64 KiB at a time. */
  const PROGRAM = `
    import { PerformanceObserver, constants } from "node:perf_hooks";
    import { setImmediate as turn } from "node:timers/promises";
    let whole = 0;
    new PerformanceObserver((list) => {
      for (const { detail } of list.getEntries()) if (detail.kind === constants.NODE_PERFORMANCE_GC_MAJOR) whole++;
    }).observe({ entryTypes: ["gc"] });
    const held = [];
    for (let i = 0; i < 49_152; i++) {
      held.push(new Uint8Array(65_536));
      if (held.length > 64) held.shift();
      if (i % 64 === 0) await turn();
    }
    await turn();
    process.stdout.write(String(whole));
  `;

  it("collects the whole heap far less often", (ctx) => {
    if (inject("runtime") === "deno") ctx.skip("Deno's V8 is not told");
    const run = (...flags: string[]): number =>
      Number(
        execFileSync(
          process.execPath,
          [...flags, "--no-warnings", "--input-type=module", "--eval", PROGRAM],
          { encoding: "utf8" },
        ),
      );
    expect(run("--import", MODULE)).toBeLessThan(run() / 3);
  });
});
