/** A path that is dead without a word: both sides find out in time for a migration to go on within 6 s. */
import { afterEach, beforeEach, expect, onTestFinished, test, vi } from "vitest";
import { memoryRelay } from "../../../peer/net/memory-link.ts";
import { PeerIdentity } from "../../../peer/net/peer-identity.ts";
import { RelayControl } from "../../../peer/net/relay-control.ts";
import { MessageReader, readFrame, writeFrame } from "../../../relay/protocol/message-stream.ts";
import { HEARTBEAT_MS } from "../../../relay/protocol/limits.ts";
import { Switchboard } from "../../../relay/switchboard/switchboard.ts";
import { GatedStore, makeSession, RawPeer } from "./harness.ts";

const FOUND_WITHIN_MS = 5_000;

beforeEach(() => {
  vi.useFakeTimers({ toFake: ["setInterval", "clearInterval", "Date", "performance"] });
});
afterEach(() => vi.useRealTimers());

test("a peer comes back when the relay was silent, within 5 s", async () => {
  const relay = memoryRelay(({ stream }) => {
    void (async () => {
      await readFrame(new MessageReader(stream), 1 << 16);
      await writeFrame(stream, {
        kind: "welcome",
        major: 1,
        minor: 0,
        features: 0,
        streamSecret: new Uint8Array(16),
        owner: "seeder",
        ownerEpoch: 0,
        state: "joined",
      });
    })();
  });
  const lost: string[] = [];
  const control = await RelayControl.join({
    ticket: {
      role: "seeder",
      sessionId: new Uint8Array(16),
      token: new Uint8Array(32),
      secret: new Uint8Array(32),
      relayUrl: "https://relay:1",
      certificateHashes: [],
    },
    identity: PeerIdentity.generate(),
    dial: () => relay.dial({ url: "https://relay:1", certificateHashes: [] }),
    onConnection: (connected, detail) => {
      if (!connected) lost.push(detail);
    },
  });
  onTestFinished(() => relay.close("OK", "the test is over"));
  await vi.advanceTimersByTimeAsync(3 * HEARTBEAT_MS - 1);
  expect(lost).toEqual([]);
  await vi.advanceTimersByTimeAsync(FOUND_WITHIN_MS - 3 * HEARTBEAT_MS + 1);
  await vi.waitFor(() => expect(lost).toEqual(["the relay is silent"]));
  relay.close("OK", "the test is over");
  void control.close();
});

test("the relay lets a silent peer go and tells the other, within 5 s", async () => {
  const store = new GatedStore();
  const switchboard = new Switchboard({ store, log: () => {} });
  onTestFinished(() => switchboard.close());
  const relay = memoryRelay((incoming) => switchboard.accept(incoming));
  const session = makeSession(store);
  const dial = () => relay.dial({ url: "https://relay:1", certificateHashes: [] });
  const seeder = await (await RawPeer.open(await dial(), session, "seeder")).join();
  const leecher = await (await RawPeer.open(await dial(), session, "leecher")).join();
  await Promise.all([seeder.paired(), leecher.paired()]);
  const gone = (async () => {
    for (;;) if (!(await seeder.until("peer")).present) return "told";
  })();
  for (let atMs = 0; atMs < FOUND_WITHIN_MS; atMs += 500) {
    await seeder.send({ kind: "ping", nonce: 0 });
    await vi.advanceTimersByTimeAsync(500);
  }
  expect(await gone).toBe("told");
  await seeder.link.close("OK", "done");
});
