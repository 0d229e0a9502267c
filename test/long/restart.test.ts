/**
 * A relay that is stopped in order under fifty running migrations, and another process in its place.
 */
import { expect, test } from "vitest";

import { ApiClient } from "../../peer/net/api-client.ts";
import { sleep } from "../../peer/sleep.ts";
import { fromHex } from "../../relay/db/hex.ts";
import { Stage, text, type TestRelay } from "../e2e/harness.ts";
import { RelayedPair } from "./relayed-pair.ts";

const MIGRATIONS = 50;
const REGION_BYTES = 4 * 1024 * 1024;
const PAUSE_MS = 1_200;

function clientOf(relay: TestRelay): ApiClient {
  return new ApiClient({
    url: relay.url,
    certificateHashes: relay.certificateHashes.map(fromHex),
    relayIdentity: fromHex(text(relay.ready, "identity")),
    key: relay.key,
  });
}

test("SIGTERM under 50 migrations: all finish on the next process, and none begins again", async () => {
  await using stage = await Stage.open();
  const first = await stage.relay();
  const client = clientOf(first);
  await using pairs = new AsyncDisposableStack();
  const all: RelayedPair[] = [];
  const { promise: begin, resolve: go } = Promise.withResolvers<void>();
  for (let i = 0; i < MIGRATIONS; i++) {
    const made = await RelayedPair.start(client, {
      name: `m${i}`,
      bytes: REGION_BYTES,
      pauseMs: PAUSE_MS,
      begin,
    });
    all.push(pairs.use(made));
  }
  go();
  const share = (pair: RelayedPair): number => pair.bytesReady / REGION_BYTES;
  while (Math.min(...all.map(share)) < 0.2) await sleep(20);
  const before = all.map((pair) => ({ ready: pair.bytesReady, sent: pair.bytesSent }));
  const running = all.filter((pair) => share(pair) < 1).length;
  const stoppedAt = performance.now();
  first.program.kill("SIGTERM");
  await first.program.expectExit(0);
  const goneAt = performance.now();
  const second = await stage.relay({ args: ["--listen", `127.0.0.1:${first.port}`] });
  const backAt = performance.now();
  await Promise.all(all.map(({ done }) => done));
  const doneAt = performance.now();

  const again = all.map(({ bytesSent }) => bytesSent - REGION_BYTES);
  const sum = (numbers: readonly number[]): number => numbers.reduce((a, b) => a + b, 0);
  console.log(
    JSON.stringify({
      migrations: all.length,
      runningAtSigterm: running,
      readyAtSigtermPercent: Math.round(
        (sum(before.map(({ ready }) => ready)) / MIGRATIONS / REGION_BYTES) * 100,
      ),
      drainMs: Math.round(goneAt - stoppedAt),
      startMs: Math.round(backAt - goneAt),
      restMs: Math.round(doneAt - backAt),
      sentTwiceBytesMax: Math.max(...again),
      sentTwicePercent: Math.round((sum(again) / MIGRATIONS / REGION_BYTES) * 1000) / 10,
    }),
  );
  expect(running).toBe(MIGRATIONS);
  for (const [i, pair] of all.entries()) {
    expect(pair.same).toBe(true);
    expect(pair.connections).toContain("the relay is going down");
    expect(pair.connections.at(-1)).toBe("connected");
    // What had arrived by then was not sent again.
    const { ready } = before[i] ?? { ready: 0 };
    expect(pair.bytesSent).toBeLessThanOrEqual(REGION_BYTES + REGION_BYTES - ready);
  }
  const states = clientOf(second);
  await expect
    .poll(
      async () => {
        const shown = await Promise.all(all.map(({ sessionId }) => states.getSession(sessionId)));
        return shown.filter(({ state }) => state === "done").length;
      },
      { timeout: 30_000 },
    )
    .toBe(MIGRATIONS);
});
