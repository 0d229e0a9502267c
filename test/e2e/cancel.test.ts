/**
 * Ends before the commit: the workload goes on at the source, and the destination leaves nothing.
 */
/* oxlint-disable vitest/expect-expect -- expectUndone does */
import { existsSync } from "node:fs";
import { readFile, stat } from "node:fs/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { requireFuse, skipUnless } from "../support/requires.ts";
import { digest, makeFile, sameContent } from "./files.ts";
import { Stage, text, type Offered } from "./harness.ts";
import type { Program } from "./program.ts";

const MIB = 1024 * 1024;
/** A Ctrl-C is answered within this time. */
const SECONDS_MS = 8_000;

let stage: Stage;
let source: string;
let sourceDigest: string;
let runs = 0;

beforeAll(async () => {
  stage = await Stage.open();
  await stage.relay();
  source = stage.file("source");
  await makeFile(source, 24 * MIB + 3);
  sourceDigest = await digest(source);
});

afterAll(() => stage[Symbol.asyncDispose]());

interface Pair extends Offered {
  readonly leecher: Program;
  readonly destination: string;
}

async function pair(seedArgs: readonly string[], leechArgs: readonly string[]): Promise<Pair> {
  const destination = stage.file(`destination-${++runs}`);
  const offered = await stage.seed(["--file", source, ...seedArgs]);
  const leecher = stage.leech(offered.ticket, ["--file", destination, ...leechArgs]);
  return { ...offered, leecher, destination };
}

async function expectUndone({ seeder, leecher, destination }: Pair): Promise<void> {
  await Promise.all([seeder.expectExit(1, SECONDS_MS), leecher.expectExit(1, SECONDS_MS)]);
  expect(text(seeder.last("error"), "owner")).toBe("seeder");
  expect(text(leecher.last("error"), "owner")).toBe("seeder");
  expect(existsSync(destination), "the file that was made is removed").toBe(false);
  expect(await digest(source)).toBe(sourceDigest);
}

const SLOW_SUSPEND = ["--on-suspend", "sleep 2"];

describe.concurrent("Ctrl-C before the commit ends both sides with status 1 and leaves nothing:", () => {
  test("a seeder to whom nobody came", async () => {
    const { seeder } = await stage.seed(["--file", source]);
    seeder.kill("SIGINT");
    await seeder.expectExit(1, SECONDS_MS);
    expect(text(seeder.last("error"), "code")).toBe("CANCELLED");
  });

  test("a leecher whose seeder is gone for now", async () => {
    const { seeder, ticket } = await stage.seed(["--file", source]);
    seeder.kill("SIGKILL");
    await seeder.waitForExit();
    const destination = stage.file(`destination-${++runs}`);
    const leecher = stage.leech(ticket, ["--file", destination]);
    await leecher.waitFor("joined");
    await expect(leecher.waitForExit(1_000)).rejects.toThrow("still runs");
    leecher.kill("SIGINT");
    await leecher.expectExit(1, SECONDS_MS);
    expect(existsSync(destination)).toBe(false);
  });

  test.for(["seeder", "leecher"] as const)("the %s, in pre-copy", async (who) => {
    const both = await pair([], ["--finalize", "manual"]);
    await both.leecher.waitForPhase("precopy");
    both[who].kill("SIGINT");
    await expectUndone(both);
  });

  test.for(["seeder", "leecher"] as const)("the %s, after the rounds", async (who) => {
    const both = await pair([], ["--finalize", "manual"]);
    await both.leecher.waitFor("round");
    both[who].kill("SIGINT");
    await expectUndone(both);
  });

  test.for(["seeder", "leecher"] as const)("the %s, while the workload stops", async (who) => {
    const both = await pair([...SLOW_SUSPEND, "--on-rollback", `touch ${stage.file(who)}`], []);
    await both.seeder.waitForPhase("finalizing");
    both[who].kill("SIGINT");
    await expectUndone(both);
    expect(existsSync(stage.file(who)), "the workload is started again").toBe(true);
  });

  test("both at once, as a terminal does", async () => {
    const both = await pair([], ["--finalize", "manual"]);
    await both.leecher.waitFor("round");
    both.seeder.kill("SIGINT");
    both.leecher.kill("SIGINT");
    await expectUndone(both);
  });
});

test("Ctrl-C ends a seeder and a leecher before the commit although the relay is away", async () => {
  await using own = await Stage.open();
  const { program } = await own.relay();
  const { seeder, ticket } = await own.seed(["--file", source]);
  const leecher = own.leech(ticket, ["--file", own.file("destination"), "--finalize", "manual"]);
  await leecher.waitFor("round");
  program.kill("SIGKILL");
  await program.waitForExit();
  seeder.kill("SIGINT");
  leecher.kill("SIGINT");
  await Promise.all([seeder.expectExit(1, SECONDS_MS), leecher.expectExit(1, SECONDS_MS)]);
  expect(existsSync(own.file("destination"))).toBe(false);
});

test("`memferry sessions cancel` ends both sides", async () => {
  const both = await pair([], ["--finalize", "manual"]);
  await both.leecher.waitFor("round");
  const cancelled = await stage.run(["sessions", "cancel", both.sessionId]);
  expect(cancelled).toEqual({ code: 0, stdout: "", stderr: "cancelled\n" });
  await expectUndone(both);
  // Asking twice is no mistake: it is over either way.
  expect((await stage.run(["sessions", "cancel", both.sessionId])).code).toBe(0);
  const finalize = await stage.run(["sessions", "finalize", both.sessionId]);
  expect(finalize.code).toBe(1);
  expect(finalize.stderr).toMatch(/^memferry: [^\n]+\n$/);
});

test("a suspend hook that fails ends the migration with the workload at the source", async () => {
  const both = await pair(["--on-suspend", "echo no such service >&2; exit 3"], []);
  await expectUndone(both);
  expect(text(both.seeder.last("error"), "code")).toBe("HOOK_FAILED");
  expect(text(both.seeder.last("error"), "message")).toContain("status 3 (no such service)");
});

describe("an exported region goes on being served after a failure, with a new ticket:", () => {
  test.for(["leecher dies", "leecher is interrupted", "session is cancelled"])(
    "the %s, and a second leecher takes over",
    async (how, ctx) => {
      skipUnless(ctx, requireFuse());
      const run = ++runs;
      const here = await stage.folder(`here-${run}`);
      const there = await stage.folder(`there-${run}`);
      const args = ["--export", `fuse:${here}`, "--region", "region"];
      const both = await pair(args, ["--finalize", "manual", "--export", `fuse:${there}`]);
      const { seeder, leecher } = both;
      await leecher.waitFor("round");
      if (how === "leecher dies") leecher.kill("SIGKILL");
      else if (how === "leecher is interrupted") leecher.kill("SIGINT");
      else await stage.run(["sessions", "cancel", both.sessionId]);
      await leecher.waitForExit(SECONDS_MS);
      // The relay knows no other way to tell that a dead leecher does not come back.
      if (how === "leecher dies") await stage.run(["sessions", "cancel", both.sessionId]);

      const offered = await seeder.waitFor("ticket", ({ ticket }) => ticket !== both.ticket);
      expect(await digest(`${here}/region`)).toBe(sourceDigest);
      const to = stage.file(`second-${run}`);
      // Into the same folder: the mount of one that was killed is dead, and in nobody's way.
      const again = ["--file", to, "--export", `fuse:${there}`];
      const second = stage.leech(text(offered, "ticket"), again);
      await Promise.all([second.waitFor("serving"), seeder.expectExit(0)]);
      second.kill("SIGINT");
      await second.expectExit(0);
      expect(await sameContent(source, to)).toBe(true);
      expect(stage.mounts()).not.toContain(here);
      expect(stage.mounts()).not.toContain(there);
    },
  );

  test("--once ends with status 1 instead", async (ctx) => {
    skipUnless(ctx, requireFuse());
    const here = await stage.folder(`here-${++runs}`);
    const both = await pair(["--export", `fuse:${here}`, "--once"], ["--finalize", "manual"]);
    await both.leecher.waitFor("round");
    both.leecher.kill("SIGINT");
    await expectUndone(both);
    expect(stage.mounts()).not.toContain(here);
  });
});

test("Ctrl-C in the leecher leaves a file that was there before", async () => {
  const destination = stage.file("kept");
  await makeFile(destination, 24 * MIB + 3);
  const { seeder, ticket } = await stage.seed(["--file", source]);
  const args = ["--file", destination, "--overwrite", "--finalize", "manual"];
  const leecher = stage.leech(ticket, args);
  await leecher.waitFor("round");
  leecher.kill("SIGINT");
  await Promise.all([seeder.expectExit(1, SECONDS_MS), leecher.expectExit(1, SECONDS_MS)]);
  expect((await stat(destination)).size).toBe(24 * MIB + 3);
  expect((await readFile(source)).length).toBe(24 * MIB + 3);
});
