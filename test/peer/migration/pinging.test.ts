import { afterEach, beforeEach, expect, test, vi } from "vitest";

import { keepPinging, type Channel } from "../../../peer/migration/channel.ts";
import type { Message } from "../../../peer/migration/messages.ts";
import { RttMeter } from "../../../peer/net/rtt-meter.ts";

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());

function silentChannel(sent: Message[]): Channel {
  const control = { send: (message: Message) => Promise.resolve(void sent.push(message)) };
  // Of a channel nothing else is looked at.
  return { control } as unknown as Channel;
}

test("a channel on which nothing is answered is lost after 20 s, and asked again until then", async () => {
  const sent: Message[] = [];
  const over = new AbortController();
  const pinging = keepPinging(silentChannel(sent), new RttMeter(), () => 1_000, over.signal);
  const outcome = pinging.catch((error: unknown) => error);
  await vi.advanceTimersByTimeAsync(19_000);
  expect(sent.length).toBeGreaterThan(4);
  await vi.advanceTimersByTimeAsync(3_000);
  expect(await outcome).toMatchObject({ code: "PEER_LOST" });
});

test("one that is answered late, but answered, goes on", async () => {
  const sent: Message[] = [];
  const over = new AbortController();
  const rtt = new RttMeter();
  const pinging = keepPinging(silentChannel(sent), rtt, () => 1_000, over.signal);
  const outcome = pinging.catch((error: unknown) => error);
  for (let i = 0; i < 6; i++) {
    await vi.advanceTimersByTimeAsync(15_000);
    rtt.answered();
  }
  over.abort(new Error("over"));
  await vi.advanceTimersByTimeAsync(1_000);
  expect(await outcome).toEqual(new Error("over"));
});
