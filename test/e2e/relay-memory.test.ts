import { expect, test } from "vitest";

import { feedSlowReader } from "./slow-reader.ts";

const MIB = 1024 * 1024;

test.for(["websocket", "webtransport"])(
  "the relay stays within 150 MB of its idle size while a slow leecher reads over %s",
  async (link) => {
    const { idleBytes, peakBytes, seconds } = await feedSlowReader(128 * MIB, link);
    const grownMb = (peakBytes - idleBytes) / 1e6;
    console.log(
      `${link}: relay idle ${Math.round(idleBytes / 1e6)} MB, ${grownMb.toFixed(0)} MB more at most, ` +
        `128 MiB in ${seconds.toFixed(1)} s`,
    );
    expect(grownMb).toBeLessThan(150);
  },
);
