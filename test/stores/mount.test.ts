/** `memferry mount` on stores that are far, slow, away for a while, or gone: with real programs. */
import { spawnSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { eventually, Stage, text } from "../e2e/harness.ts";
import type { Program } from "../e2e/program.ts";
import { run } from "../exports/support.ts";
import { requireMount } from "../native/support/exports.ts";
import { skipUnless } from "../support/requires.ts";
import {
  because,
  REDIS_PASSWORD,
  redisSkip,
  S3_KEYS,
  s3Skip,
  startRedis,
  startS3,
  type RunningServer,
} from "../support/stores/servers.ts";

let stage: Stage;
let running: RunningServer | undefined;
beforeEach(async () => void (stage = await Stage.open()));
afterEach(async () => {
  await stage[Symbol.asyncDispose]();
  await running?.close();
  running = undefined;
});

async function mounted(
  store: string,
  args: readonly string[],
  environment: NodeJS.ProcessEnv,
): Promise<{ program: Program; path: string }> {
  const program = stage.memferry(
    "the mount",
    ["mount", store, "--export", `fuse:${stage.file("at")}`, ...args, "--json"],
    { environment },
  );
  return { program, path: text(await program.waitFor("mounted"), "path") };
}

/** Writes and asks for durability; a process of its own. */
function writing(path: string, name: string, bytes: Buffer): Program {
  writeFileSync(stage.file(name), bytes);
  return stage.start({
    name,
    command: "dd",
    args: [
      `if=${stage.file(name)}`,
      `of=${path}`,
      `bs=${bytes.length}`,
      "conv=notrunc,fsync",
      "status=none",
    ],
    environment: stage.environment(),
  });
}

describe.skipIf(redisSkip !== undefined)(`redis${because(redisSkip)}`, () => {
  test("a server that is away for a while: reads of what is here go on, fsync waits, nothing is lost", async (ctx) => {
    skipUnless(ctx, requireMount());
    running = await startRedis();
    const { server } = running;
    const store = `redis://127.0.0.1:${server.port}/0#disk`;
    const environment = { REDISCLI_AUTH: REDIS_PASSWORD };
    const { program, path } = await mounted(store, ["--size", "16MiB"], environment);
    const bytes = Buffer.alloc(1 << 20, "a while ");
    await writing(path, "first", bytes).expectExit(0);
    await program.waitFor("pulled");
    await server.stop("SIGKILL");
    const other = Buffer.alloc(1 << 20, "and another ");
    const writer = writing(path, "second", other);
    await program.waitFor("store");
    expect(program.last("store")).toMatchObject({ good: false });
    expect(writer.exit).toBeUndefined();
    // The kernel holds the first pages; these come from us.
    expect(
      await run("dd", [`if=${path}`, "bs=1M", "skip=4", "count=1", "iflag=direct", "status=none"]),
    ).toBe("\0".repeat(1 << 20));
    await server.start();
    await writer.expectExit(0);
    await eventually(() => program.last("store")?.["good"] === true, 30_000);
    program.kill("SIGINT");
    await program.expectExit(0);
    const again = await mounted(store, [], environment);
    expect(await run("head", ["-c", String(1 << 20), again.path])).toBe(other.toString());
    again.program.kill("SIGINT");
    await again.program.expectExit(0);
    expect(program.stdout + program.stderr).not.toContain(REDIS_PASSWORD);
  });

  test("one that stays away is an error to programs, after the time that was given", async (ctx) => {
    skipUnless(ctx, requireMount());
    running = await startRedis();
    const { server } = running;
    const { program, path } = await mounted(
      `redis://127.0.0.1:${server.port}/0#disk`,
      ["--size", "16MiB", "--pull", "0", "--fail-after", "500ms"],
      { REDISCLI_AUTH: REDIS_PASSWORD },
    );
    await server.stop("SIGKILL");
    const { status, stderr } = spawnSync("dd", [`if=${path}`, "of=/dev/null", "bs=64k", "count=1"]);
    expect(status).not.toBe(0);
    expect(String(stderr)).toContain("Input/output error");
    await server.start();
    // It is asked again by the next one.
    await eventually(
      () => spawnSync("dd", [`if=${path}`, "of=/dev/null", "bs=64k", "count=1"]).status === 0,
      30_000,
    );
    program.kill("SIGINT");
    await program.expectExit(0);
  });

  test("a second mount is refused while the first has it", async (ctx) => {
    skipUnless(ctx, requireMount());
    running = await startRedis();
    const store = `redis://127.0.0.1:${running.server.port}/0#disk`;
    const environment = { REDISCLI_AUTH: REDIS_PASSWORD };
    const { program } = await mounted(store, ["--size", "16MiB"], environment);
    const second = await stage.run(["mount", store, "--export", `fuse:${stage.file("other")}`], {
      environment,
    });
    expect(second.code).toBe(1);
    expect(second.stderr).toContain("another writer has");
    program.kill("SIGINT");
    await program.expectExit(0);
  });
});

const skip = s3Skip();
describe.skipIf(skip !== undefined)(`s3${because(skip)}`, () => {
  test("a file system in a bucket, mounted again elsewhere", async (ctx) => {
    skipUnless(ctx, requireMount());
    running = await startS3();
    const store = `s3://bucket/disk?endpoint=http://127.0.0.1:${running.server.port}`;
    const { program, path } = await mounted(store, ["--size", "32MiB"], S3_KEYS);
    await run("mke2fs", ["-q", "-F", "-t", "ext4", path]);
    program.kill("SIGINT");
    await program.expectExit(0);
    const again = await mounted(store, ["--read-only"], S3_KEYS);
    await run("e2fsck", ["-fn", again.path]);
    again.program.kill("SIGINT");
    await again.program.expectExit(0);
    expect(program.stdout + program.stderr).not.toContain(S3_KEYS.AWS_SECRET_ACCESS_KEY);
  });
});
