/**
 * The same relay on another runtime, and on another database.
 */
import { networkInterfaces } from "node:os";

import { expect, test } from "vitest";

import { startPostgres } from "../support/postgres.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { makeFile, sameContent } from "./files.ts";
import { Stage, text } from "./harness.ts";

const MIB = 1024 * 1024;

async function migrate(stage: Stage, link: string): Promise<string> {
  const from = stage.file(`source-${link}`);
  const to = stage.file(`destination-${link}`);
  await makeFile(from, 12 * MIB + 7);
  const { seeder, ticket, sessionId } = await stage.seed(["--file", from, "--link", link]);
  const leecher = stage.leech(ticket, ["--file", to, "--link", link]);
  await Promise.all([seeder.expectExit(0), leecher.expectExit(0)]);
  expect(await sameContent(from, to)).toBe(true);
  // The last report is written after the peers are gone.
  await expect
    .poll(async () => (await stage.run(["sessions", "show", sessionId, "--json"])).stdout, {
      timeout: 10_000,
    })
    .toContain('"state":"done"');
  return text(leecher.last("done"), "path");
}

test("a relay on Deno carries a migration over each kind of link", async () => {
  await using stage = await Stage.open();
  const relay = await stage.relay({ runtime: "deno" });
  expect(text(relay.ready, "runtime")).toMatch(/deno/i);
  expect(relay.ready["links"]).toEqual(["webtransport", "websocket"]);
  expect(await migrate(stage, "websocket")).toBe("websocket");
  expect(await migrate(stage, "webtransport")).toBe("webtransport");
});

test("a relay on PostgreSQL carries a migration, and a second relay knows of it", async (ctx) => {
  skipUnless(ctx, requireTool("postgres"));
  await using postgres = await startPostgres();
  const databaseUrl = await postgres.createDatabase();
  await using stage = await Stage.open();
  const first = await stage.relay({ databaseUrl });
  expect(await migrate(stage, "auto")).toBe("websocket");
  first.program.kill("SIGTERM");
  await first.program.expectExit(0);
  await stage.relay({ databaseUrl });
  const listed = await stage.run(["sessions", "list"]);
  expect(listed.stderr).toBe("");
  expect(listed.stdout).toMatch(/ done +destination +100 % of 12\.0 MiB +source-auto$/m);
});

// The library for WebTransport joins host and port with a colon: without brackets the relay did not start.
test("a relay at an IPv6 address carries a migration over each kind of link", async (ctx) => {
  if (
    !Object.values(networkInterfaces())
      .flat()
      .some((each) => each?.address === "::1")
  ) {
    ctx.skip("no IPv6 on this host");
  }
  await using stage = await Stage.open();
  await stage.relay({ args: ["--listen", "[::1]:0"] });
  expect(await migrate(stage, "websocket")).toBe("websocket");
  expect(await migrate(stage, "webtransport")).toBe("webtransport");
});
