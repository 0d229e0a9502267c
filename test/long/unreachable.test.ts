import { expect, test } from "vitest";

import { redirect, Stage } from "../e2e/harness.ts";
import { makeFile } from "../e2e/files.ts";

// Nothing tells a sender of UDP that nobody listens: the deadline does.
test.for(["auto", "webtransport"])(
  "leech --link %s says in one line that no relay answers",
  async (link) => {
    await using stage = await Stage.open();
    const relay = await stage.relay();
    const from = stage.file("source");
    await makeFile(from, 4_096);
    const { seeder, ticket } = await stage.seed(["--file", from]);
    seeder.kill("SIGKILL");
    await seeder.waitForExit();
    relay.program.kill("SIGTERM");
    await relay.program.expectExit(0);
    const args = ["leech", redirect(ticket, relay.url), "--file", stage.file("to"), "--link", link];
    const { code, stdout, stderr } = await stage.run(args);
    expect({ code, stdout }).toEqual({ code: 1, stdout: "" });
    expect(stderr).toMatch(/^memferry: no relay answers at [^\n]+\n$/);
  },
);
