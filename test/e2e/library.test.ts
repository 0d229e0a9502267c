/** The library: two programs that use it, and a relay, as processes. */
import { open, readFile, writeFile } from "node:fs/promises";
import path from "node:path";
import { fileURLToPath } from "node:url";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { requireFuse, requireUffd, skipUnless } from "../support/requires.ts";
import { makeFile, sameContent } from "./files.ts";
import { denoBinary } from "../../peer/demo/deno-relay.ts";
import { number, Stage, text } from "./harness.ts";
import { Pages } from "./library/say.ts";
import type { Message, Program } from "./program.ts";

const MIB = 1024 * 1024;
const SOURCE = fileURLToPath(new URL("./library/source.ts", import.meta.url));
const DESTINATION = fileURLToPath(new URL("./library/destination.ts", import.meta.url));

let stage: Stage;
let runs = 0;

beforeAll(async () => {
  stage = await Stage.open();
  await stage.relay();
});

afterAll(() => stage[Symbol.asyncDispose]());

type Runtime = "node" | "deno";

function program(
  runtime: Runtime,
  file: string,
  options: Readonly<Record<string, unknown>>,
): Program {
  const [command, ...flags] =
    runtime === "node"
      ? [process.execPath]
      : [denoBinary(), "run", "--allow-all", "--no-prompt", "--unstable-net"];
  return stage.start({
    name: `${file === SOURCE ? "the source" : "the destination"} on ${runtime}`,
    command: command ?? "",
    args: [...flags, file, JSON.stringify(options)],
    environment: stage.environment(),
  });
}

async function offered(
  runtime: Runtime,
  options: Readonly<Record<string, unknown>>,
): Promise<{ source: Program; ticket: string }> {
  const source = program(runtime, SOURCE, options);
  return { source, ticket: text(await source.waitFor("ticket"), "ticket") };
}

/** Both end by themselves, with nothing left to hold their loops open. */
async function expectEnds(...programs: readonly Program[]): Promise<void> {
  for (const one of programs) {
    await one.waitFor("end");
    await one.expectExit(0);
  }
}

function whatHappened(one: Program): Message[] {
  return one.all("happened").map(({ what }) => what as Message);
}

function phases(one: Program): string[] {
  return whatHappened(one).flatMap((what) =>
    what["event"] === "phase" ? [String(what["phase"])] : [],
  );
}

describe.each(["node", "deno"] as const)("the library on %s", (runtime) => {
  test("memory to memory under a writer: every byte, and the source's memory is gone", async (ctx) => {
    skipUnless(ctx, requireUffd());
    const { source, ticket } = await offered(runtime, { bytes: 32 * MIB + 4096, writes: 3 });
    const destination = program(runtime, DESTINATION, {
      ticket,
      leech: { memory: true },
      touch: true,
    });
    await expectEnds(source, destination);
    const last = source.last("suspended");
    expect(number(source.last("suspended"), "sum")).toBe(number(last, "written"));
    expect(number(destination.last("checked"), "sum")).toBe(number(last, "sum"));
    expect(source.last("done")).toMatchObject({ state: "moved", gone: true, phase: "done" });
    expect(destination.last("done")).toMatchObject({ state: "here" });
    expect(text(source.last("done"), "rootHash")).toBe(text(destination.last("done"), "rootHash"));
    expect(source.eventNames().filter((name) => name === "release")).toHaveLength(1);
    expect(source.eventNames()).not.toContain("rollback");
  });

  test("postcopy: the main thread touches missing chunks and gets them", async (ctx) => {
    skipUnless(ctx, requireUffd());
    const { source, ticket } = await offered(runtime, { bytes: 48 * MIB, writes: 1 });
    const destination = program(runtime, DESTINATION, {
      ticket,
      leech: { memory: true, mode: "postcopy" },
      touch: true,
    });
    await expectEnds(source, destination);
    const checked = destination.last("checked");
    expect(number(checked, "misses")).toBeGreaterThan(0);
    expect(number(checked, "present")).toBeLessThan((48 * MIB) / 65_536);
    expect(number(checked, "sum")).toBe(number(source.last("suspended"), "sum"));
  });

  test("file to file, and the events come in order", async () => {
    const from = stage.file(`from-${++runs}`);
    const to = stage.file(`to-${runs}`);
    await makeFile(from, 5 * MIB + 77);
    const { source, ticket } = await offered(runtime, { file: from });
    const destination = program(runtime, DESTINATION, { ticket, leech: { file: to } });
    await expectEnds(source, destination);
    expect(await sameContent(from, to)).toBe(true);
    expect(phases(source)).toEqual([
      "tracking",
      "precopy",
      "finalizing",
      "suspended",
      "committed",
      "done",
    ]);
    expect(phases(destination)).toEqual(["precopy", "finalizing", "committed", "postcopy", "done"]);
    expect(whatHappened(destination).at(-1)).toMatchObject({ event: "done" });
    const channel = whatHappened(source).findLast(({ event }) => event === "channel");
    expect(text(channel, "fingerprint")).toBe(text(destination.last("done"), "fingerprint"));
  });

  test("a region that is a path on both sides", async (ctx) => {
    skipUnless(ctx, requireFuse());
    const [here, there] = [
      await stage.folder(`here-${++runs}`),
      await stage.folder(`there-${runs}`),
    ];
    const from = stage.file(`exported-${runs}`);
    const to = stage.file(`received-${runs}`);
    await makeFile(from, 3 * MIB);
    const { source, ticket } = await offered(runtime, { file: from, export: `fuse:${here}` });
    expect(await sameContent(from, text(source.last("mounted"), "path"))).toBe(true);
    const destination = program(runtime, DESTINATION, {
      ticket,
      leech: { file: to, export: `fuse:${there}`, mode: "postcopy" },
    });
    await expectEnds(source, destination);
    expect(destination.last("done")).toMatchObject({ paths: [`${there}/exported-${runs}`] });
    expect(await sameContent(from, to)).toBe(true);
    expect(stage.mounts()).toEqual([]);
  });

  test("memory and a path of one region are both tracked, and a group goes together", async (ctx) => {
    skipUnless(ctx, requireUffd(), requireFuse());
    const place = await stage.folder(`group-${++runs}`);
    const [disk, folder, now] = [`disk-${runs}`, `arrived-${runs}`, `now-${runs}`].map((name) =>
      stage.file(name),
    ) as [string, string, string];
    const bytes = 8 * MIB;
    await makeFile(disk, 2 * MIB + 5);
    const { source, ticket } = await offered(runtime, {
      bytes,
      writes: 2,
      half: true,
      export: `fuse:${place}`,
      files: [disk],
    });
    const destination = program(runtime, DESTINATION, {
      ticket,
      leech: { directory: folder, finalize: "manual" },
      finalizeWhen: now,
    });
    // All has been sent once: what is written from here on arrives only if it is noticed.
    await destination.waitFor("happened", ({ what }) => (what as Message)["event"] === "round");
    const late = Buffer.alloc(300_000, 0x5a);
    const at = bytes - MIB;
    const file = await open(text(source.last("mounted"), "path"), "r+");
    await file.write(late, 0, late.length, at);
    await file.close();
    await writeFile(now, "");
    await expectEnds(source, destination);
    expect(source.last("error") ?? destination.last("error")).toBeUndefined();
    expect(await sameContent(disk, path.join(folder, path.basename(disk)))).toBe(true);
    const heap = await readFile(path.join(folder, "heap"));
    expect(heap.subarray(at, at + late.length).equals(late)).toBe(true);
    const pages = new Pages(
      heap.buffer.slice(heap.byteOffset, heap.byteOffset + heap.length) as ArrayBuffer,
    );
    expect(pages.sum(pages.count / 2)).toBe(number(source.last("suspended"), "written"));
  });

  test("rounds go on while the thread that writes does nothing else", async (ctx) => {
    skipUnless(ctx, requireUffd());
    const [idle, now] = [stage.file(`idle-${++runs}`), stage.file(`now-${runs}`)];
    const { source, ticket } = await offered(runtime, {
      bytes: 8 * MIB,
      writes: 1,
      busyUntil: idle,
    });
    const destination = program(runtime, DESTINATION, {
      ticket,
      leech: { memory: true, finalize: "manual" },
      touch: true,
      finalizeWhen: now,
    });
    await source.waitFor("busy");
    const rounds = (): Message[] =>
      whatHappened(destination).filter(({ event }) => event === "round");
    const before = rounds().length;
    const wanted = before + 3;
    await destination.waitFor("happened", () => rounds().length >= wanted);
    for (const one of rounds().slice(before + 1, wanted)) {
      expect(number(one, "dirtyBytes")).toBeGreaterThan(0);
    }
    expect(source.eventNames()).not.toContain("idle");
    await Promise.all([writeFile(idle, ""), writeFile(now, "")]);
    await expectEnds(source, destination);
    expect(number(destination.last("checked"), "sum")).toBe(
      number(source.last("suspended"), "sum"),
    );
  });

  test("a source that is killed after the commit goes on with memferry resume", async (ctx) => {
    skipUnless(ctx, requireFuse());
    const place = await stage.folder(`crash-at-${runs + 1}`);
    const state = stage.file(`crash-state-${runs + 1}`);
    const from = stage.file(`crash-${++runs}`);
    const to = stage.file(`crash-to-${runs}`);
    await makeFile(from, 24 * MIB);
    const { source, ticket } = await offered(runtime, {
      file: from,
      dieAt: "committed",
      seed: { stateDir: state },
    });
    const destination = program(runtime, DESTINATION, {
      ticket,
      leech: { file: to, export: `fuse:${place}`, mode: "postcopy" },
    });
    await source.waitForExit();
    const session = text(source.last("ticket"), "session");
    const resumed = stage.memferry("memferry resume", [
      "resume",
      session,
      "--state-dir",
      state,
      "--json",
    ]);
    await resumed.expectExit(0);
    await expectEnds(destination);
    expect(destination.last("done")).toMatchObject({ state: "here" });
    expect(await sameContent(from, to)).toBe(true);
  });

  test("abandon() after the commit leaves at once, and memferry resume goes on", async (ctx) => {
    skipUnless(ctx, requireFuse());
    const from = stage.file(`left-${++runs}`);
    const to = stage.file(`left-to-${runs}`);
    const state = stage.file(`left-state-${runs}`);
    const place = await stage.folder(`left-at-${runs}`);
    await makeFile(from, 96 * MIB);
    const { source, ticket } = await offered(runtime, { file: from });
    const destination = program(runtime, DESTINATION, {
      ticket,
      leech: { file: to, export: `fuse:${place}`, mode: "postcopy", stateDir: state },
      abandonAt: "committed",
    });
    await expectEnds(destination);
    expect(destination.last("error")).toMatchObject({
      code: "CANCELLED",
      message: "the operator left",
    });
    expect(destination.last("not here")).toMatchObject({ committed: true });
    expect(destination.last("not here")?.["state"]).not.toContain("here");
    expect(stage.mounts()).toEqual([]);
    const session = text(source.last("ticket"), "session");
    const resumed = stage.memferry("memferry resume", [
      "resume",
      session,
      "--state-dir",
      state,
      "--json",
    ]);
    await resumed.waitFor("serving");
    await expectEnds(source);
    expect(await sameContent(from, to)).toBe(true);
    resumed.kill("SIGTERM");
    await resumed.expectExit(0);
  });

  test("onSuspend that throws: the workload goes on at the source", async (ctx) => {
    skipUnless(ctx, requireUffd());
    const { source, ticket } = await offered(runtime, {
      bytes: 4 * MIB,
      writes: 1,
      suspend: "throws",
    });
    const destination = program(runtime, DESTINATION, { ticket, leech: { memory: true } });
    await expectEnds(source, destination);
    expect(text(source.last("error"), "message")).toMatch(/does not want to stop/);
    expect(source.eventNames()).toContain("rollback");
    const after = source.last("still here");
    expect(after).toMatchObject({ state: "here" });
    expect(number(after, "wrote")).toBeGreaterThan(0);
    expect(number(after, "sum")).toBe(number(after, "written"));
    expect(destination.last("error")).toMatchObject({ name: "MigrationError" });
    expect(text(destination.last("not here"), "why")).toMatch(/cannot run here/);
  });

  test("onSuspend that is too slow is told to stop, and rolled back after it has", async (ctx) => {
    skipUnless(ctx, requireUffd());
    const { source, ticket } = await offered(runtime, {
      bytes: 4 * MIB,
      writes: 1,
      suspend: "slow",
      seed: { hookTimeoutMs: 300 },
    });
    const destination = program(runtime, DESTINATION, { ticket, leech: { memory: true } });
    await expectEnds(source, destination);
    expect(source.last("error")).toMatchObject({ code: "SUSPEND_TIMEOUT" });
    expect(source.eventNames()).toContain("rollback");
    expect(number(source.last("still here"), "wrote")).toBeGreaterThan(0);
  });

  test.each(["the source", "the destination"])(
    "an AbortSignal of %s before the commit cancels both",
    async (which) => {
      const from = stage.file(`abort-${++runs}`);
      const to = stage.file(`aborted-${runs}`);
      await makeFile(from, 4 * MIB);
      const atSource = which === "the source";
      const { source, ticket } = await offered(runtime, {
        file: from,
        ...(atSource ? { abortAt: "precopy" } : {}),
      });
      const destination = program(runtime, DESTINATION, {
        ticket,
        leech: { file: to, finalize: "manual" },
        ...(atSource ? {} : { abortAt: "precopy" }),
      });
      await expectEnds(source, destination);
      const [cancelled, told] = atSource ? [source, destination] : [destination, source];
      expect(cancelled.last("error")).toMatchObject({ code: "CANCELLED" });
      expect(text(told.last("error"), "message")).toContain(`cancelled at ${which}`);
      expect(source.last("still here")).toMatchObject({ state: "here" });
      await expect(readFile(to), "what was made is removed").rejects.toThrow(/ENOENT/);
    },
  );

  test("an AbortSignal after the commit changes nothing", async () => {
    const from = stage.file(`late-${++runs}`);
    const to = stage.file(`late-to-${runs}`);
    await makeFile(from, 4 * MIB);
    const { source, ticket } = await offered(runtime, { file: from, abortAt: "committed" });
    const destination = program(runtime, DESTINATION, {
      ticket,
      leech: { file: to },
      abortAt: "postcopy",
    });
    await expectEnds(source, destination);
    expect(source.last("done")).toMatchObject({ state: "moved" });
    expect(destination.last("done")).toMatchObject({ state: "here" });
    expect(await sameContent(from, to)).toBe(true);
  });
});
