import { expect, test } from "vitest";

import { startPostgres } from "../support/postgres.ts";
import { requireTool, skipUnless } from "../support/requires.ts";
import { feedSlowReader } from "./slow-reader.ts";

const MIB = 1024 * 1024;

// On PostgreSQL, where the idle size hides nothing; test/long does it with the embedded database.
test.for(["websocket", "webtransport"])(
  "the relay stays within 150 MB of its idle size while a slow leecher reads over %s",
  async (link, ctx) => {
    skipUnless(ctx, requireTool("postgres"));
    await using postgres = await startPostgres();
    const url = await postgres.createDatabase();
    const { idleBytes, peakBytes, seconds } = await feedSlowReader(160 * MIB, link, url);
    const grownMb = (peakBytes - idleBytes) / 1e6;
    console.log(
      `${link}: relay idle ${Math.round(idleBytes / 1e6)} MB, ${grownMb.toFixed(0)} MB more at most, ` +
        `160 MiB in ${seconds.toFixed(1)} s`,
    );
    expect(grownMb).toBeLessThan(150);
  },
);
