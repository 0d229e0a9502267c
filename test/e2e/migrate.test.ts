import { stat } from "node:fs/promises";

import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { makeFile, sameContent } from "./files.ts";
import { number, Stage, text } from "./harness.ts";

const MIB = 1024 * 1024;

let stage: Stage;
let runs = 0;

beforeAll(async () => {
  stage = await Stage.open();
  await stage.relay();
});

afterAll(() => stage[Symbol.asyncDispose]());

/** Migrates a new file of `bytes`, and compares. @returns The path that the leecher took. */
async function migrate(
  bytes: number,
  seedArgs: readonly string[],
  leechArgs: readonly string[],
): Promise<string> {
  const from = stage.file(`source-${++runs}`);
  const to = stage.file(`destination-${runs}`);
  await makeFile(from, bytes);
  const before = await stat(from);
  const { seeder, ticket } = await stage.seed(["--file", from, ...seedArgs]);
  const leecher = stage.leech(ticket, ["--file", to, ...leechArgs]);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);

  const [here, there] = [seeder.last("done"), leecher.last("done")];
  expect(await sameContent(from, to)).toBe(true);
  expect((await stat(from)).mtimeMs, "the source is only read").toBe(before.mtimeMs);
  expect(text(there, "rootHash")).toBe(text(here, "rootHash"));
  expect(text(there, "rootHash")).toMatch(/^[0-9a-f]{64}$/);
  expect(number(there, "bytesTotal")).toBe(bytes);
  return text(there, "path");
}

describe("memferry seed and leech", () => {
  test("a file of odd size, part random and part zeros, arrives over WebSocket", async () => {
    const path = await migrate(40 * MIB + 12_345, ["--link", "websocket"], ["--link", "websocket"]);
    expect(path).toBe("websocket");
  });

  test("the same over WebTransport", async () => {
    const path = await migrate(
      40 * MIB + 1,
      ["--link", "webtransport"],
      ["--link", "webtransport"],
    );
    expect(path).toBe("webtransport");
  });

  test("--link auto takes WebSocket, and each peer may have another kind", async () => {
    expect(await migrate(3 * MIB + 17, [], [])).toBe("websocket");
    expect(await migrate(3 * MIB + 17, ["--link", "websocket"], ["--link", "webtransport"])).toBe(
      "webtransport",
    );
  });

  test.for(["4KiB", "1MiB", "4MiB"])("--chunk %s", async (chunk) => {
    expect(await migrate(24 * MIB + 4_097, ["--chunk", chunk], [])).toBe("websocket");
  });

  test.for([1, 4_095, 65_536, 65_537])("a region of %d bytes", async (bytes) => {
    expect(await migrate(bytes, [], [])).toBe("websocket");
  });

  test.for(["precopy", "postcopy"])("--mode %s", async (mode) => {
    expect(await migrate(24 * MIB + 999, [], ["--mode", mode])).toBe("websocket");
  });

  test("--overwrite replaces an existing file of the same size", async () => {
    const to = stage.file("there-already");
    const from = stage.file("source-there");
    await Promise.all([makeFile(from, 5 * MIB), makeFile(to, 5 * MIB)]);
    const { seeder, ticket } = await stage.seed(["--file", from]);
    const leecher = stage.leech(ticket, ["--file", to, "--overwrite"]);
    await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
    expect(await sameContent(from, to)).toBe(true);
  });
});
