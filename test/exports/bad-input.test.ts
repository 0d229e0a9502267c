/** Places that cannot be, said in one line with the cure; and everything killed at once, with nobody left hanging. */
/* oxlint-disable vitest/expect-expect -- expectRefusal does */
import { execFileSync, spawn, spawnSync, type ChildProcess } from "node:child_process";
import {
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

import { afterAll, beforeAll, describe, expect, onTestFinished, test } from "vitest";

import { eventually, Stage } from "../e2e/harness.ts";
import { compile } from "../support/export-users.ts";
import {
  requireFuse,
  requireLoop,
  requireRoot,
  requireUffd,
  skipUnless,
} from "../support/requires.ts";

const NOBODY_UID = 65_534;

let stage: Stage;
beforeAll(async () => {
  stage = await Stage.open();
  await stage.relay();
});
afterAll(() => stage[Symbol.asyncDispose]());

async function expectRefusal(
  place: string,
  cure: RegExp,
  more: readonly string[] = [],
  options: Parameters<Stage["run"]>[1] = {},
): Promise<void> {
  const args = ["seed", "--size", "1MiB", "--region", "disk", "--export", place, ...more];
  const { code, stdout, stderr } = await stage.run(args, options);
  expect(stderr).toMatch(/^memferry: [^\n]+\n$/);
  expect(stderr).toMatch(cure);
  expect(stdout).toBe("");
  expect(code).toBe(2);
}

describe("a place that cannot be:", () => {
  test("a kind that is not known names those that are", () =>
    expectRefusal("nbdd:unix:/x", /use fuse:DIR, nbd:unix:PATH.*uffd:unix:PATH/));

  test("a folder for FUSE that is missing, a file, or not empty", async (ctx) => {
    skipUnless(ctx, requireFuse());
    const file = stage.file("file");
    writeFileSync(file, "x");
    await expectRefusal(`fuse:${stage.file("nowhere/at/all")}`, /no such folder: make it first/);
    await expectRefusal(`fuse:${file}`, /not a folder/);
    await expectRefusal(`fuse:${stage.path}`, /not empty: give an empty one/);
  });

  test("a loop device that is in use, that is none, or of a size that it cannot have", async (ctx) => {
    skipUnless(ctx, requireFuse(), requireLoop());
    const image = stage.file("image");
    writeFileSync(image, Buffer.alloc(1 << 20));
    const device = execFileSync("losetup", ["--find", "--show", image], {
      encoding: "utf8",
    }).trim();
    onTestFinished(() => void execFileSync("losetup", ["--detach", device]));
    await expectRefusal(`loop:${device}`, /in use: give another one, or loop:auto/);
    await expectRefusal("loop:/dev/null", /write loop:auto or loop:\/dev\/loopN/);
    const odd = ["--region", "odd=size:1000000", "--export", "odd=loop:auto"];
    const { stderr, code } = await stage.run(["seed", ...odd]);
    expect(stderr).toMatch(/whole sectors of 512: use fuse:DIR/);
    expect(code).toBe(2);
  });

  test("a kernel without NBD says what to type", async (ctx) => {
    if (existsSync("/sys/module/nbd"))
      ctx.skip("this kernel has NBD: the guest's tests are of that");
    await expectRefusal("nbd:auto", /sudo modprobe nbd, or use loop:auto/);
    await expectRefusal("nbd:/dev/nbd3", /sudo modprobe nbd, or use loop:auto/);
  });

  test.for(["nbd", "uffd"])(
    "a socket of %s that is taken, or cannot be made",
    async (kind, ctx) => {
      if (kind === "uffd") skipUnless(ctx, requireUffd());
      const file = stage.file(`${kind}-file`);
      writeFileSync(file, "somebody's");
      await expectRefusal(`${kind}:unix:${file}`, /there already: give another path, or remove it/);
      expect(readFileSync(file, "utf8")).toBe("somebody's");
      const socket = stage.file(`${kind}-live`);
      const live = createServer().listen(socket);
      await new Promise((resolve) => live.once("listening", resolve));
      onTestFinished(() => void live.close());
      await expectRefusal(
        `${kind}:unix:${socket}`,
        /there already: give another path, or remove it/,
      );
      await expectRefusal(`${kind}:unix:${stage.file("no/s")}`, /no such folder: make it first/);
      await expectRefusal(`${kind}:unix:/tmp/${"x".repeat(120)}`, /at most 107 bytes/);
      await expectRefusal(`${kind}:${file}`, /is not understood: write/);
    },
  );

  test("a port that is taken, and an address that is another's", async () => {
    const taken = createServer().listen(0, "127.0.0.1");
    await new Promise((resolve) => taken.once("listening", resolve));
    onTestFinished(() => void taken.close());
    const address = taken.address();
    const port = typeof address === "object" ? address?.port : 0;
    await expectRefusal(`nbd:tcp:127.0.0.1:${port}`, /in use: give another one, or 0/);
    await expectRefusal("nbd:tcp:192.0.2.1:0", /does not have that address/);
  });

  test("two regions where there is room for one", async (ctx) => {
    skipUnless(ctx, requireUffd());
    const two = ["--region", "a=size:1MiB", "--region", "b=size:1MiB"];
    const place = `uffd:unix:${stage.file("two.sock")}`;
    const { stderr, code } = await stage.run(["seed", ...two, "--export", place]);
    expect(stderr).toMatch(/one socket is one region: give NAME=uffd:unix:PATH for each/);
    expect(code).toBe(2);
    expect(existsSync(stage.file("two.sock"))).toBe(false);
  });

  test("a user without the right to attach a device", async (ctx) => {
    skipUnless(ctx, requireRoot(), requireFuse(), requireLoop());
    const home = `${stage.path}-nobody`;
    cpSync(stage.file("config"), home, { recursive: true });
    onTestFinished(() => rmSync(home, { recursive: true, force: true }));
    for (const one of [home, `${home}/memferry`, `${home}/memferry/config.json`]) {
      chownSync(one, NOBODY_UID, NOBODY_UID);
    }
    const environment = { XDG_CONFIG_HOME: home, XDG_STATE_HOME: home, TMPDIR: home };
    await expectRefusal("loop:auto", /only root|sudo|fusermount3/, [], {
      environment,
      asNobody: true,
    });
    expect(readdirSync(home).filter((name) => name.startsWith("memferry-loop"))).toEqual([]);
  });
});

/** `D`: in a sleep that no signal ends. */
const stateOf = (pid: number): string => {
  try {
    return /^State:\t(\S)/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1] ?? "gone";
  } catch {
    return "gone";
  }
};

test("everything is killed at once while programs wait: nobody hangs, and the same places work again", async (ctx) => {
  skipUnless(ctx, requireRoot(), requireFuse(), requireLoop());
  const programs = stage.file("programs");
  mkdirSync(programs);
  const client = path.join(programs, "client");
  const source = path.join(import.meta.dirname, "../native/support/client.c");
  execFileSync("cc", ["-O1", "-o", client, source]);
  const user = compile("export-user", programs);
  const here = stage.file("mount-here");
  mkdirSync(here);
  const temporary = stage.file("tmp");
  mkdirSync(temporary);
  const environment = { TMPDIR: temporary };
  const seed = ["--size", "32MiB", "--region", "disk", "--export", "loop:auto"];
  const first = await stage.seed(seed, { environment });
  const [device = ""] = (first.seeder.last("ticket")?.["paths"] ?? []) as string[];
  const leecher = stage.leech(
    first.ticket,
    ["--file", stage.file("copy"), "--export", `fuse:${here}`, "--finalize", "manual"],
    { environment },
  );
  const file = path.join(here, "disk");
  await eventually(
    () => spawnSync("stat", [file], { stdio: "ignore", timeout: 5000 }).status === 0,
    30_000,
  );
  // Before the commit whoever reads at the destination waits: by a call, by a page fault, and in the kernel by direct I/O.
  const waiting: ChildProcess[] = [
    spawn("dd", [`if=${file}`, "of=/dev/null", "bs=4k", "count=1"], { stdio: "ignore" }),
    spawn(client, ["map-sum-read", file, "0", "65536"], { stdio: "ignore" }),
    spawn("dd", [`if=${file}`, "of=/dev/null", "bs=4k", "count=1", "iflag=direct"], {
      stdio: "ignore",
    }),
    // And one that writes at the source, without end.
    spawn(client, ["map-count", device, "64"], { stdio: "ignore" }),
  ];
  onTestFinished(() => waiting.forEach((child) => void child.kill("SIGKILL")));
  await sleep(500);
  expect(waiting.map((child) => child.exitCode)).toEqual([null, null, null, null]);

  for (const program of [first.seeder, leecher]) program.kill("SIGKILL");
  await Promise.all([first.seeder.waitForExit(), leecher.waitForExit()]);
  // Readers get an error; the writer has its mapping until it touches what is gone, so it is told.
  await eventually(
    () =>
      waiting.slice(0, 3).every((child) => child.exitCode !== null || child.signalCode !== null),
    20_000,
  );
  waiting[3]?.kill("SIGKILL");
  await eventually(
    () =>
      waiting.every(
        (child) =>
          stateOf(child.pid ?? 0) === "gone" ||
          child.signalCode !== null ||
          child.exitCode !== null,
      ),
    20_000,
  );
  for (const line of stage.processes()) expect(stateOf(Number(line.split(" ")[0]))).not.toBe("D");
  expect(spawnSync("stat", [here], { stdio: "ignore", timeout: 5000 }).error).toBeUndefined();

  // The next ones at the same places: what the dead left is cleared away.
  const second = await stage.seed(seed, { environment });
  const [again = ""] = (second.seeder.last("ticket")?.["paths"] ?? []) as string[];
  const read = spawnSync(user, [again], { input: "read 0 4096\n", timeout: 10_000 });
  expect(read.stdout.toString("latin1")).toMatch(/^ok 4096/);
  const next = stage.leech(
    second.ticket,
    ["--file", stage.file("copy2"), "--export", `fuse:${here}`],
    { environment },
  );
  await next.waitFor("serving");
  await second.seeder.expectExit(0);
  next.kill("SIGINT");
  await next.expectExit(0);
  expect(
    execFileSync("losetup", ["--noheadings", "--output", "BACK-FILE"], { encoding: "utf8" }),
  ).not.toContain(temporary);
  expect(stage.mounts()).toEqual([]);
});
