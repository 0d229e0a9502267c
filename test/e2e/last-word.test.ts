import { expect, test } from "vitest";

import { makeFile, sameContent } from "./files.ts";
import { redirect, Stage } from "./harness.ts";
import { startProxy } from "./proxy.ts";

const MIB = 1024 * 1024;
/** Connections of a leecher over WebSocket: to the relay first, then to the other peer, control before data. */
const CONTROL_TO_THE_OTHER_PEER = 1;

// Streams are connections of their own, so one may end before another's last word has come.
test("a leecher ends well if its data streams end before it hears that the source let go", async () => {
  await using stage = await Stage.open();
  const relay = await stage.relay();
  const from = stage.file("source");
  const to = stage.file("destination");
  await makeFile(from, 4 * MIB);
  await using proxy = await startProxy({
    port: relay.port,
    lateMs: (index) => (index === CONTROL_TO_THE_OTHER_PEER ? 80 : 0),
  });
  const { seeder, ticket } = await stage.seed(["--file", from, "--link", "websocket"]);
  const args = ["--file", to, "--link", "websocket"];
  const leecher = stage.leech(redirect(ticket, proxy.url), args);
  await seeder.expectExit(0);
  await leecher.expectExit(0, 20_000);
  expect(await sameContent(from, to)).toBe(true);
});
