/** What needs a kernel with NBD runs in a guest that has one: the cases of `test/guest/`. */
import path from "node:path";
import process from "node:process";

import { beforeEach, expect, test, type TestContext } from "vitest";

import { exportCases } from "../compliance/export.ts";
import { requireGuest, runInGuest } from "../support/guest/guest.ts";
import { requireTool, skipUnless } from "../support/requires.ts";

const scripts = path.join(import.meta.dirname, "../guest");

beforeEach((ctx) => {
  // V8 crashes now and then on an emulated processor, which says nothing about us.
  if (process.env["MEMFERRY_GUEST"] !== "1") ctx.skip("emulated: run it: npm run test:guest");
  skipUnless(ctx, ...requireGuest());
});

async function inGuest(ctx: TestContext, script: string): Promise<string[]> {
  const command = `${process.execPath} ${path.join(scripts, script)} 2>&1`;
  const { output, ready, code } = await runInGuest(command);
  if (!ready) ctx.skip(`the emulated machine did not come up here: ${output.slice(-300)}`);
  expect(code, output).toBe(0);
  return output.split(/\r?\n/).filter((line) => /^(not )?ok /.test(line));
}

test("kernel NBD devices: size, ext4, flush, mappings, a peer's death, stale devices, nobody stuck", async (ctx) => {
  skipUnless(ctx, requireTool("nbd-client"));
  const lines = await inGuest(ctx, "nbd-kernel.ts");
  expect(lines).toHaveLength(10);
  expect(lines.filter((line) => !line.startsWith("ok "))).toEqual([]);
});

test.for(["netlink", "ioctl"])(
  "the suite of exports over a kernel NBD device, by %s",
  async (way, ctx) => {
    const lines = await inGuest(ctx, `compliance.ts ${way}`);
    expect(lines.filter((line) => !line.startsWith("ok "))).toEqual([]);
    expect(lines).toHaveLength(exportCases.length);
  },
);

test("a whole migration from /dev/nbd0 to /dev/nbd1 under a writer", async (ctx) => {
  skipUnless(ctx, requireTool("postgres"));
  expect(await inGuest(ctx, "migrate.ts")).toEqual([
    expect.stringMatching(/^ok \d+ durable writes, from \/dev\/nbd0 to \/dev\/nbd1$/),
  ]);
});
